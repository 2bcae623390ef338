from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from gleam.batch import Batch, collate, signal_level
from tests.helpers import make_batch, normal, relative, uniform

SCANS = {
    "2D": make_batch(8, 9, batch=3),
    "two map sets": make_batch(8, 9, batch=3, maps=2),
    "3D": make_batch(4, 5, 6, batch=2),
    "cine": make_batch(4, 5, 6, batch=2, dynamic=True),
}
every_scan = pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS.keys())
TENSORS = ("kspace", "mask", "maps", "target", "scale")


@pytest.mark.parametrize("dynamic", [False, True])
def test_planes_are_those_of_the_volume_in_order(dynamic: bool):
    batch = replace(make_batch(4, 5, 6, dynamic=dynamic), axes=(-2, -1))
    planes = batch.planes()
    assert (len(planes), planes.axes) == (4, None)
    assert torch.equal(planes.kspace[2], batch.kspace[0, :, 2])
    assert torch.equal(planes.target[2], batch.target[0, :, 2])
    assert torch.equal(planes.maps[2], batch.maps[0, :, :, 0 if dynamic else 2])
    assert relative(planes.zero_filled[:, 0], batch.zero_filled[0, 0]) < 1e-6


def test_what_has_no_planes_says_so():
    image = make_batch(5, 6)
    assert image.planes() is image
    for batch in (make_batch(4, 5, 6), replace(make_batch(4, 5, 6, batch=2), axes=(-2, -1))):
        with pytest.raises(ValueError, match="only one volume or cine encoded along y and x"):
            batch.planes()


def same_batch(a: Batch, b: Batch) -> bool:
    for field in fields(Batch):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, torch.Tensor):
            if not torch.equal(x, y):
                return False
        elif x != y:
            return False
    return True


@pytest.mark.parametrize("n", [1, 2, 3, 10, 11, 21, 31, 100, 1001])
def test_signal_level_is_the_nearest_95th_percentile_of_numpy(n):
    values = uniform(3, n)
    wanted = np.percentile(values.numpy(), 95, axis=-1, method="nearest")
    assert np.array_equal(signal_level(values[:, None]).numpy(), wanted)


def test_signal_level_of_a_small_object_is_its_maximum():
    values = torch.zeros(2, 1, 100)
    values[0, 0, 3] = 7
    assert signal_level(values).tolist() == [7, 0]


@every_scan
def test_normalisation_divides_each_image_by_its_own_percentile(scan):
    loud = torch.tensor([1.0, 1e4, 1e-4])[: len(scan)]
    scan = replace(
        scan, kspace=scan.kspace * loud.reshape(-1, *[1] * (scan.kspace.ndim - 1)), scale=None
    )
    normalised = scan.normalised()
    for i in range(len(scan)):
        magnitude = scan.zero_filled[i].abs().numpy()
        wanted = np.percentile(magnitude, 95, method="nearest")
        assert normalised.scale[i].item() == pytest.approx(wanted, rel=1e-6)
        assert relative(normalised.kspace[i], scan.kspace[i] / wanted) < 1e-6
        assert relative(normalised.target[i], scan.target[i] / wanted) < 1e-6
        level = np.percentile(normalised.zero_filled[i].abs().numpy(), 95, method="nearest")
        assert level == pytest.approx(1, rel=1e-5)
    assert torch.equal(normalised.mask, scan.mask)
    assert torch.equal(normalised.maps, scan.maps)
    assert normalised.axes == scan.axes


@every_scan
def test_rescaling_undoes_normalisation(scan):
    normalised = scan.normalised()
    assert relative(normalised.rescale(normalised.target), scan.target) < 1e-6
    assert relative(normalised.rescale(normalised.zero_filled), scan.zero_filled) < 1e-5


def test_normalising_twice_can_still_be_undone():
    scan = SCANS["2D"]
    twice = scan.normalised().normalised()
    assert relative(twice.rescale(twice.target), scan.target) < 1e-6


def test_without_a_target_or_a_scale_there_is_nothing_to_do():
    scan = replace(SCANS["2D"], target=None)
    assert scan.normalised().target is None
    image = normal(3, 1, 8, 9)
    assert torch.equal(scan.rescale(image), image)


def test_an_image_without_signal_is_refused():
    scan = make_batch(8, 9, batch=2)
    scan.kspace[1] = 0
    with pytest.raises(ValueError, match=r"finite and not all zero.*0\.0\]"):
        scan.normalised()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["kspace", "one frame of many", "maps"])
def test_a_single_value_that_is_not_finite_is_refused(value, where):
    scan = make_batch(40, 5, 6, batch=2, dynamic=True)
    if where == "kspace":
        scan = make_batch(8, 9, batch=2)
    tensor = scan.maps if where == "maps" else scan.kspace
    tensor.view(-1)[0] = value  # the first position is sampled
    with pytest.raises(ValueError, match="finite"):
        scan.normalised()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_that_is_not_finite_is_refused(value):
    scan = make_batch(8, 9, batch=2)
    scan.target.view(-1)[0] = value
    with pytest.raises(ValueError, match="finite"):
        scan.normalised()


@every_scan
def test_splitting_and_collating_changes_nothing(scan):
    for batch in (scan, scan.normalised(), replace(scan, target=None)):
        alone = batch.split()
        assert [len(one) for one in alone] == [1] * len(batch)
        assert same_batch(collate(alone), batch)
        for i, one in enumerate(alone):
            assert relative(one.zero_filled[0], batch.zero_filled[i]) < 1e-6


@pytest.mark.parametrize("shared", ["mask", "maps"])
def test_a_mask_or_maps_shared_by_the_batch_survive_splitting(shared):
    scan = SCANS["2D"]
    scan = replace(scan, **{shared: getattr(scan, shared)[:1]})
    for i, one in enumerate(scan.split()):
        assert relative(one.zero_filled[0], scan.zero_filled[i]) < 1e-6
    assert relative(collate(scan.split()).zero_filled, scan.zero_filled) < 1e-6


def test_collating_different_shapes_names_the_field_and_the_shapes():
    with pytest.raises(ValueError, match=r"kspace of \[\(3, 6, 7\), \(3, 8, 9\)\]"):
        collate([make_batch(8, 9), make_batch(6, 7)])
    with pytest.raises(ValueError, match=r"maps of \[\(1, 3, 8, 9\), \(2, 3, 8, 9\)\]"):
        collate([make_batch(8, 9), make_batch(8, 9, maps=2)])


@pytest.mark.parametrize("order", [1, -1])
def test_collating_with_and_without_a_target_is_refused(order):
    batches = [make_batch(8, 9), replace(make_batch(8, 9), target=None)]
    with pytest.raises(ValueError, match="target"):
        collate(batches[::order])


@every_scan
def test_the_operator_and_the_zero_filled_image_are_made_once(scan):
    assert scan.operator is scan.operator
    assert scan.zero_filled is scan.zero_filled
    assert torch.equal(scan.zero_filled, scan.operator.adjoint(scan.kspace))
    assert scan.normalised().zero_filled is not scan.zero_filled


def test_moving_keeps_everything():
    scan = SCANS["cine"].normalised()
    assert same_batch(scan.to("cpu"), scan)
    moved = scan.to("meta")
    assert all(getattr(moved, name).device.type == "meta" for name in TENSORS)
    assert moved.axes == scan.axes
    assert replace(scan, target=None).to("cpu").target is None


def test_length_is_the_number_of_images():
    assert [len(scan) for scan in SCANS.values()] == [3, 3, 2, 2]
