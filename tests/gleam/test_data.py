"""Scans on disk and simulated ones, slabs, and batches as a pure function of seed and position."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from gleam.batch import Batch
from gleam.build import build_loader, build_source
from gleam.config import load_config
from gleam.data import DataError, Example, Loader, PreparedScans, SimulatedBrains, write_scan
from gleam.data.loader import mask_drawer
from physics.coils import espirit
from physics.masks import acceleration, calibration_size, poisson_disc
from tests.gleam import tiny
from tests.helpers import normal, relative

ROOT = Path(__file__).resolve().parents[2]


def numpy_images(kspace: np.ndarray) -> np.ndarray:
    """Coil images by the centred orthonormal inverse FFT of the last two axes."""
    axes = (-2, -1)
    moved = np.fft.ifftshift(kspace, axes=axes)
    return np.fft.fftshift(np.fft.ifft2(moved, axes=axes, norm="ortho"), axes=axes)


def arrays(slices: int = 2, size: tuple[int, int] = (32, 36), seed: int = 0) -> list[np.ndarray]:
    shape = (slices, 3, *size)
    maps = normal(slices, 1, *shape[1:], seed=seed + 1)
    return [normal(*shape, seed=seed).numpy(), maps.numpy(), normal(slices, 1, *size).numpy()]


def refusal(folder: Path, index: int = 0, **settings) -> str:
    with pytest.raises(DataError) as caught:
        PreparedScans(folder, **settings)[index]
    return str(caught.value)


def write(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
    return path


def test_kspace_alone_gets_maps_by_espirit_and_a_target(tmp_path: Path):
    kspace = torch.stack([tiny.brain_kspace(seed, 36) for seed in (0, 1)])
    write_scan(tmp_path / "a.h5", kspace.numpy())
    source = PreparedScans(tmp_path, calibration=12)
    assert (len(source), list(source.scans)) == (2, ["a"])
    for number in range(2):
        example = source[number]
        assert example.scan == "a"
        assert torch.equal(example.kspace, kspace[number])
        maps = espirit(kspace[number][None], 12)[0]
        assert torch.equal(example.maps, maps)
        wanted = (maps[0].numpy().conj() * numpy_images(kspace[number].numpy())).sum(0)
        assert relative(example.target[0], torch.from_numpy(wanted).to(torch.complex64)) < 1e-5
    assert PreparedScans(tmp_path, calibration=12, map_sets=2)[0].maps.shape == (2, 3, 36, 36)


def test_maps_of_the_file_are_used(tmp_path: Path):
    kspace, maps, _ = arrays()
    write_scan(tmp_path / "a.h5", kspace, maps)
    example = PreparedScans(tmp_path)[1]
    assert np.array_equal(example.maps.numpy(), maps[1])
    wanted = (maps[1].conj() * numpy_images(kspace[1])).sum(1)
    assert relative(example.target, torch.from_numpy(wanted).to(torch.complex64)) < 1e-5


def test_the_target_of_the_file_is_used(tmp_path: Path):
    write_scan(tmp_path / "a.h5", *arrays())
    example = PreparedScans(tmp_path)[1]
    assert np.array_equal(example.target.numpy(), arrays()[2][1])


def test_slices_are_counted_through_all_files_in_order_of_their_names(tmp_path: Path):
    for name, count, seed in (("b", 2, 10), ("a", 1, 20), ("c", 3, 30)):
        write_scan(tmp_path / f"{name}.h5", *arrays(count, seed=seed))
    source = PreparedScans(tmp_path)
    assert [source[number].scan for number in range(len(source))] == list("abbccc")
    wanted = [arrays(1, seed=20)[0][0], *arrays(2, seed=10)[0], *arrays(3, seed=30)[0]]
    for number, kspace in enumerate(wanted):
        assert np.array_equal(source[number].kspace.numpy(), kspace)


def test_double_precision_files_are_read_as_single(tmp_path: Path):
    kspace, maps, _ = arrays()
    write(tmp_path / "a.h5", kspace=kspace.astype(np.complex128), maps=maps)
    assert PreparedScans(tmp_path)[0].kspace.dtype == torch.complex64


def test_an_empty_folder_is_named(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="must hold HDF5 files named") as caught:
            PreparedScans(folder)
        assert str(folder) in str(caught.value)


def test_files_of_another_kind_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"not a scan")
    assert refusal(tmp_path).startswith(f"{path} is not a readable HDF5 file")
    write(path, image=np.zeros(3), mask=np.zeros(3))
    assert refusal(tmp_path) == f"{path} must hold a dataset kspace, found ['image', 'mask']"


@pytest.mark.parametrize("kept", [100, 0.5, 0.95])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: float):
    path = tmp_path / "a.h5"
    write_scan(path, *arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    assert str(path) in refusal(tmp_path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros((3, 8, 8), np.complex64), "complex64 (3, 8, 8)"),
        (np.zeros((1, 3, 8, 8), np.float32), "float32 (1, 3, 8, 8)"),
        (np.zeros((0, 3, 8, 8), np.complex64), "complex64 (0, 3, 8, 8)"),
    ],
)
def test_kspace_of_another_shape_or_type_is_refused(tmp_path: Path, value, found: str):
    path = write(tmp_path / "a.h5", kspace=value)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}, kspace: expected complex (slices, coils, y, x)")
    assert message.endswith(f"got {found}")


@pytest.mark.parametrize("key", ["kspace", "maps", "target"])
def test_values_that_are_not_finite_name_file_dataset_and_slice(tmp_path: Path, key: str):
    datasets = dict(zip(("kspace", "maps", "target"), arrays(), strict=True))
    datasets[key][1, ..., 3, 4] = np.inf
    path = write(tmp_path / "a.h5", **datasets)
    assert refusal(tmp_path, 1) == f"{path}, {key}[1]: holds NaN or infinity"
    PreparedScans(tmp_path)[0]


def test_an_empty_slice_is_named(tmp_path: Path):
    kspace, maps, _ = arrays()
    kspace[1] = 0
    write_scan(tmp_path / "a.h5", kspace, maps)
    assert refusal(tmp_path, 1) == f"{tmp_path / 'a.h5'}, kspace[1]: all samples are zero"


def test_a_slice_without_coil_maps_is_named_when_it_is_undersampled(tmp_path: Path):
    kspace, maps, _ = arrays(1)
    write_scan(tmp_path / "a.h5", kspace, 0 * maps)
    with pytest.raises(DataError, match="scan a: every image"):
        PreparedScans(tmp_path)[0].undersample(torch.ones(1, 1))


def test_maps_and_targets_that_do_not_fit_are_refused(tmp_path: Path):
    path = tmp_path / "a.h5"
    kspace, maps, target = arrays()
    write_scan(path, kspace, maps[:, :, :2])
    message = refusal(tmp_path)
    assert message.startswith(f"{path}, maps[0]: expected (maps, coils, y, x) = (1, 3, 32, 36)")
    assert message.endswith("got (1, 2, 32, 36)")
    write_scan(path, kspace, maps[:1])
    assert refusal(tmp_path, 1).startswith(f"{path}, maps[1] cannot be read")
    write_scan(path, kspace, maps)
    assert "data.map_sets" in refusal(tmp_path, map_sets=2)
    write_scan(path, kspace, maps, target[..., 1:])
    message = refusal(tmp_path)
    assert message == f"{path}, target: expected (maps, y, x) = (1, 32, 36), got (1, 32, 35)"


def test_a_calibration_that_does_not_fit_names_file_and_slice(tmp_path: Path):
    write_scan(tmp_path / "a.h5", arrays()[0])
    assert refusal(tmp_path, calibration=40).startswith(f"{tmp_path / 'a.h5'}, kspace[0]: ")


def test_a_scan_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kspace, maps, target = arrays()
    path = tmp_path / "a.h5"
    write_scan(path, kspace, maps, target)
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_scan(path, 2 * kspace)
    assert path.read_bytes() == before
    assert len(PreparedScans(tmp_path)) == 2  # what is left of the attempt is no scan


@pytest.mark.parametrize(("first", "rows"), [(0, 32), (0, 9), (5, 10), (21, 11)])
def test_a_slab_is_exactly_the_crop_of_the_coil_images(first: int, rows: int):
    kspace, maps, target = (torch.from_numpy(array[0]) for array in arrays())
    slab = Example(kspace, maps, target, "a").slab(first, rows)
    kept = slice(first, first + rows)
    images = numpy_images(kspace.numpy())[:, kept]
    assert slab.kspace.shape == (3, rows, 36)
    got = numpy_images(slab.kspace.numpy())
    assert np.linalg.norm(got - images) < 1e-6 * np.linalg.norm(images)
    assert torch.equal(slab.maps, maps[:, :, kept])
    assert torch.equal(slab.target, target[:, kept])


def test_a_slab_of_the_undersampled_scan_is_the_undersampled_slab():
    kspace, maps, _ = (torch.from_numpy(array[0]) for array in arrays())
    mask = torch.from_numpy(tiny.columns(36)).float()
    whole = Example.from_maps(kspace, maps, "a")
    one = whole.slab(5, 10).undersample(mask)
    other = whole.undersample(mask)
    images = [batch.rescale(batch.zero_filled) for batch in (one, other)]
    assert relative(images[0], images[1][:, :, 5:15]) < 1e-5


def test_simulated_subjects_are_the_same_on_every_call_and_differ_between_splits():
    def make(split: str, seed: int = 1) -> SimulatedBrains:
        return SimulatedBrains(split, 2, seed, size=(32, 32), coils=3, calibration=12)

    first = make("train")
    assert torch.equal(first[1].kspace, make("train")[1].kspace)
    others = [first[0], make("test")[1], make("train", seed=2)[1]]
    assert not any(torch.equal(first[1].kspace, other.kspace) for other in others)
    assert first[1].scan == "train-0001"
    assert len(first) == 2


def scans(count: int = 5, slices: int = 1, size: tuple[int, int] = (32, 36)) -> "Scans":
    return Scans(count, slices, size)


class Scans:
    """Examples with nothing but noise; every slice of scan ``n`` is called ``scan-n``."""

    def __init__(self, count: int, slices: int, size: tuple[int, int]) -> None:
        self.scans = [f"scan-{number}" for number in range(count)]
        maps = normal(1, 2, *size, seed=99)
        self.examples = [
            Example.from_maps(normal(2, *size, seed=n * slices + s), maps, self.scans[n])
            for n in range(count)
            for s in range(slices)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def loader(source: Scans, seed: int = 3, accelerations=(2.0,), **settings) -> Loader:
    return Loader(source, mask_drawer("random_columns", accelerations, 8), seed, **settings)


def which(source: Scans, batch: Batch) -> list[int]:
    """The examples that a batch is made of."""
    targets = batch.rescale(batch.target)
    return [
        min(range(len(source)), key=lambda n: float((source[n].target - target).norm()))
        for target in targets
    ]


def same_batches(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("kspace", "mask", "maps", "target", "scale")
    )


def test_training_batches_are_a_pure_function_of_seed_and_iteration():
    source = scans()
    settings = {"slab": 20, "accelerations": (2.0, 3.0)}
    one, other = loader(source, **settings), loader(source, **settings)
    forward = [one.training(iteration, 2, 2) for iteration in range(8)]
    backward = [other.training(iteration, 2, 2) for iteration in reversed(range(8))]
    for left, right in zip(forward, reversed(backward), strict=True):
        assert same_batches(left, right)
    assert not same_batches(forward[0], loader(source, seed=4, **settings).training(0, 2, 2))


def test_every_epoch_visits_each_example_once_in_a_new_order():
    source = scans(6)
    order = [
        number
        for iteration in range(6)
        for batch in loader(source).training(iteration, 2, 2)
        for number in which(source, batch)
    ]
    epochs = [tuple(order[first : first + 6]) for first in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_batches_that_straddle_epochs_skip_nothing():
    source = scans(5)
    made = [loader(source).training(iteration, 3) for iteration in range(5)]
    order = [number for batches in made for number in which(source, batches[0])]
    assert sorted(order) == sorted(3 * list(range(5)))


def test_every_visit_draws_a_fresh_mask():
    one = loader(scans(1))
    masks = {tuple(one.training(n)[0].mask.flatten().tolist()) for n in range(20)}
    assert len(masks) == 20


def test_slow_masks_come_from_a_pool():
    pooled, fresh = loader(scans(1), mask_pool=3), loader(scans(1))
    masks = [pooled.training(n)[0].mask for n in range(9)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 3
    assert torch.equal(masks[0], fresh.training(0)[0].mask)


def test_accelerations_of_a_list_are_all_drawn():
    one = loader(scans(2), accelerations=(2.0, 3.0))
    found = [acceleration(one.training(n)[0].mask[0, 0]) for n in range(40)]
    assert {round(value) for value in found} == {2, 3}
    assert 8 < sum(value < 2.5 for value in found) < 32


def test_masks_keep_their_calibration_lines():
    mask = loader(scans(1)).training(0)[0].mask[0, 0]
    assert calibration_size(mask, (32, 36))[1] >= 8


def test_batches_are_normalised_and_hold_only_what_was_sampled():
    batch = loader(scans()).training(0, 3)[0]
    assert torch.equal(batch.kspace, batch.kspace * batch.mask)
    levels = batch.zero_filled.abs().flatten(1).kthvalue(1 + round(0.95 * (32 * 36 - 1))).values
    assert torch.allclose(levels, torch.ones(3), atol=1e-5)


def test_fixed_masks_are_the_same_for_all_slices_of_a_scan_and_differ_between_scans():
    masks: dict[str, list[Tensor]] = {}
    for example, batch in loader(scans(4, slices=3)).fixed():
        masks.setdefault(example.scan, []).append(batch.mask)
    assert [len(group) for group in masks.values()] == [3, 3, 3, 3]
    assert all(torch.equal(group[0], mask) for group in masks.values() for mask in group)
    assert len({tuple(group[0].flatten().tolist()) for group in masks.values()}) == 4


def test_fixed_masks_depend_on_nothing_but_the_name_of_the_scan():
    one = [batch.mask for _, batch in loader(scans(3)).fixed()]
    again = [batch.mask for _, batch in loader(scans(3), seed=55).fixed()]
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_batches_are_the_same_in_every_process():
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
torch.set_num_threads(1)
from tests.gleam.test_data import loader, scans
one = loader(scans(2), accelerations=(2.0, 3.0), slab=20)
masks = [batch.mask for _, batch in one.fixed()] + [one.training(n)[0].mask for n in range(4)]
kspace = [one.training(n)[0].kspace.abs().double().sum().item() for n in range(4)]
print([mask.flatten().int().tolist() for mask in masks], kspace)
"""
    results = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1
    own = [batch.mask for _, batch in loader(scans(2), accelerations=(2.0, 3.0)).fixed()]
    assert results.pop().startswith(str([m.flatten().int().tolist() for m in own])[:-1])


def test_slabs_move_and_are_cut_for_training_only():
    one = loader(scans(1), slab=12)
    batches = [one.training(n)[0] for n in range(10)]
    assert {batch.target.shape for batch in batches} == {(1, 1, 12, 36)}
    scaled = {round(float(batch.rescale(batch.target).abs().sum()), 2) for batch in batches}
    assert len(scaled) > 3
    data = {**tiny.SETTINGS["data"], "slab": 12}
    config = load_config({"data": data}).data
    assert build_loader(config, "train", 1).training(0)[0].target.shape[-2:] == (12, 32)
    assert next(iter(build_loader(config, "validate", 1).fixed()))[0].target.shape[-2:] == (32, 32)


def test_slabs_without_signal_are_not_drawn():
    source = scans(1)
    source.examples[0].maps[:, :, :28] = 0
    source.examples[0].target[:, :28] = 0
    for iteration in range(20):
        assert loader(source, slab=3).training(iteration)[0].target.any()


def test_slabs_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="a slab of 40 rows does not fit images of 32 rows"):
        loader(scans(1), slab=40).training(0)

    def disc(shape, seed: int) -> Tensor:
        return poisson_disc(shape, 2, 8, seed=1)

    with pytest.raises(ValueError, match=r"slabs need a readout: .* does not vary along y"):
        Loader(scans(1), disc, 3, slab=8).training(0)


def test_images_of_several_shapes_cannot_share_a_batch():
    source = scans(2)
    source.examples[1] = scans(1, size=(32, 40)).examples[0]
    with pytest.raises(ValueError, match="a batch needs equal shapes, got kspace of"):
        loader(source).training(0, 2)
    assert len(loader(source).training(0, 1, 2)) == 2


def test_sources_are_built_from_the_settings(tmp_path: Path):
    data = tiny.SETTINGS["data"]
    config = load_config({"data": data}).data
    sizes = {split: len(build_source(config, split, 1)) for split in ("train", "validate", "test")}
    assert sizes == {"train": 3, "validate": 2, "test": 2}
    (tmp_path / "test").mkdir()
    write_scan(tmp_path / "test" / "a.h5", *arrays())
    on_disk = load_config({"data": {**data, "path": tmp_path}}).data
    assert build_source(on_disk, "test", 1).scans == ["a"]
    with pytest.raises(DataError, match="train must hold HDF5 files"):
        build_source(on_disk, "train", 1)
