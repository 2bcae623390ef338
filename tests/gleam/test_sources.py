"""Scans become examples: slices, volumes, frames and cines, maps, targets, what is refused."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gleam.data import DataError, Scan, ScanSource, SimulatedSubject
from gleam.data.cache import Cache
from gleam.data.estimate import estimate_maps
from gleam.data.scan import EVERYTHING
from gleam.data.sources import measurements
from physics.coils import espirit
from tests.gleam import tiny
from tests.gleam.test_examples import numpy_images
from tests.helpers import normal, relative


class Memory(Scan):
    """A scan of given arrays that counts how often its samples are read."""

    format = "memory"
    whole = False

    def __init__(self, name: str, kspace: np.ndarray, **parts: Any) -> None:
        super().__init__(Path("memory") / name, name)
        self._kspace, self._parts = kspace, parts
        self.reads: list[slice] = []
        self.whole = parts.get("whole", False)
        self.header = parts.get("header", {})
        self.undersampled = parts.get("undersampled", False)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        if self._kspace is None:
            raise DataError(f"{self.path}: the header cannot be read")
        return self._kspace.shape

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        self.reads.append(slices)
        return self._kspace[slices]

    def maps(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        return None if "maps" not in self._parts else self._parts["maps"][slices]

    def target(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        return None if "target" not in self._parts else self._parts["target"][slices]

    def acquired(self) -> np.ndarray | None:
        return self._parts.get("acquired")


def static(
    slices: int = 3, size: tuple[int, int] = (16, 20), seed: int = 0, **parts: Any
) -> Memory:
    maps = normal(slices, 1, 2, *size, seed=seed + 1).numpy()
    return Memory(f"s{seed}", normal(slices, 2, *size, seed=seed).numpy(), maps=maps, **parts)


def dynamic(slices: int = 2, frames: int = 5, seed: int = 0, **parts: Any) -> Memory:
    kspace = normal(slices, 2, frames, 16, 20, seed=seed).numpy()
    maps = normal(slices, 1, 2, 1, 16, 20, seed=seed + 1).numpy()
    return Memory(f"d{seed}", kspace, maps=maps, **parts)


def source(*scans: Scan, **settings: Any) -> ScanSource:
    return ScanSource(scans, estimate_maps, **settings)


def refusal(scan: Scan, index: int = 0, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        source(scan, **settings)[index]
    assert str(scan.path) in str(caught.value)
    return str(caught.value)


def test_slices_are_counted_through_all_scans_in_their_order():
    scans = [static(2, seed=5), static(1, seed=7), static(3, size=(16, 24), seed=9)]
    one = source(*scans)
    assert [one[n].scan for n in range(len(one))] == ["s5", "s5", "s7", "s9", "s9", "s9"]
    assert list(one.scans) == ["s5", "s7", "s9"]
    assert one.shapes == [(2, 16, 20)] * 3 + [(2, 16, 24)] * 3
    wanted = [scan._kspace[n] for scan in scans for n in range(len(scan._kspace))]
    for number, kspace in enumerate(wanted):
        assert np.array_equal(one[number].kspace.numpy(), kspace)


def test_slices_without_an_object_are_no_examples():
    scan = static(4, header={"empty_slices": [0.0, 2.0]})
    one = source(scan)
    assert len(one) == len(one.shapes) == 2
    assert np.array_equal(one[1].kspace.numpy(), scan._kspace[3])
    assert source(scan, items="volumes")[0].space == (4, 16, 20)


def test_a_volume_holds_all_slices_along_its_first_axis():
    scan = static(3)
    one = source(scan, items="volumes")
    assert (len(one), one.shapes) == (1, [(2, 3, 16, 20)])
    example = one[0]
    for z in range(3):
        assert np.array_equal(example.kspace[:, z].numpy(), scan._kspace[z])
        assert np.array_equal(example.maps[:, :, z].numpy(), scan.maps()[z])
        images = numpy_images(scan._kspace[z])
        wanted = (scan.maps()[z].conj() * images).sum(1)
        assert relative(example.target[:, z], torch.from_numpy(wanted.astype(np.complex64))) < 1e-5


def test_a_cine_is_one_slice_over_time_and_a_frame_one_moment_of_it():
    scan = dynamic()
    cines, frames = source(scan, items="cines"), source(scan, items="frames")
    assert (len(cines), cines.shapes[0]) == (2, (2, 5, 16, 20))
    assert (len(frames), frames.shapes[0]) == (10, (2, 16, 20))
    assert np.array_equal(cines[1].kspace.numpy(), scan._kspace[1])
    assert np.array_equal(cines[1].maps.numpy(), scan.maps()[1])
    assert np.array_equal(frames[7].kspace.numpy(), scan._kspace[1, :, 2])
    assert np.array_equal(frames[7].maps.numpy(), scan.maps()[1, :, :, 0])
    assert relative(frames[7].target, cines[1].target[:, 2]) < 1e-6


@pytest.mark.parametrize(
    ("scan", "items", "cure"),
    [
        (static(), "cines", "slices or volumes"),
        (static(), "frames", "slices or volumes"),
        (dynamic(), "slices", "frames or cines"),
        (dynamic(), "volumes", "frames or cines"),
    ],
)
def test_items_that_a_scan_does_not_have_are_refused(scan: Scan, items: str, cure: str):
    assert f"set data.items to {cure}, got {items}" in refusal(scan, items=items)
    with pytest.raises(DataError, match=cure):
        measurements(scan, items)


def test_maps_a_scan_lacks_are_estimated_from_its_own_centre():
    kspace = torch.stack([tiny.brain_kspace(seed, 36) for seed in (0, 1)])
    one = source(Memory("a", kspace.numpy()), calibration=12)
    for number in range(2):
        maps = espirit(kspace[number][None], 12)[0]
        assert torch.equal(one[number].maps, maps)
        wanted = (maps[0].numpy().conj() * numpy_images(kspace[number].numpy())).sum(0)
        assert relative(one[number].target[0], torch.from_numpy(wanted).to(torch.complex64)) < 1e-5
    two = ScanSource([Memory("a", kspace.numpy())], estimate_maps, calibration=12, sets=2)
    assert two[0].maps.shape == (2, 3, 36, 36)


def test_the_calibration_may_be_a_share_of_the_smaller_axis():
    kspace = tiny.brain_kspace(0, 40)[None]
    given = source(Memory("a", kspace.numpy()), calibration=0.3)[0].maps
    assert torch.equal(given, espirit(kspace, 12)[0])


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_a_share_of_the_calibration_fits_both_axes(size: tuple[int, int]):
    asked: list[int] = []

    def estimate(kspace: torch.Tensor, *, calibration: int, **_: Any) -> torch.Tensor:
        asked.append(calibration)
        return torch.ones_like(kspace[:, None])

    ScanSource([Memory("a", normal(1, 2, *size).numpy())], estimate, calibration=0.5)[0]
    assert asked == [8]


def test_maps_of_a_volume_are_estimated_in_three_dimensions():
    scan = SimulatedSubject("a", 1, size=(32, 36, 32), coils=3, snr=100.0)
    example = source(scan, items="volumes", calibration=12)[0]
    wanted = estimate_maps(torch.from_numpy(scan.kspace()), calibration=12, volume=True)
    assert torch.equal(example.maps, wanted.movedim(0, 2))


def test_the_target_of_the_scan_is_used():
    target = normal(3, 1, 16, 20, seed=8).numpy()
    example = source(static(target=target))[1]
    assert np.array_equal(example.target.numpy(), target[1])


def test_oversampling_of_the_readout_is_removed():
    image = np.zeros((1, 2, 32, 20), np.complex64)
    image[:, :, 8:24] = normal(1, 2, 16, 20).numpy()  # within the inner half of the rows
    shifted = np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1)), norm="ortho")
    kspace = np.fft.fftshift(shifted, axes=(-2, -1)).astype(np.complex64)
    scan = Memory("a", kspace, maps=normal(1, 1, 2, 16, 20).numpy(), header={"oversampling": 2.0})
    one = source(scan)
    assert one.shapes == [(2, 16, 20)]
    got = numpy_images(one[0].kspace.numpy())
    assert np.linalg.norm(got - image[0, :, 8:24]) < 1e-5 * np.linalg.norm(image)
    assert np.array_equal(measurements(scan, "slices")[0][0].numpy(), one[0].kspace.numpy())


def test_what_was_not_acquired_comes_with_every_item():
    columns = np.ones((1, 20), np.float32)
    columns[:, 17:] = 0
    assert np.array_equal(source(static(acquired=columns))[1].acquired.numpy(), columns)
    volume = source(static(acquired=columns), items="volumes")[0].acquired
    assert volume.shape == (1, 1, 20)
    moving = np.ones((5, 1, 20), np.float32)
    moving[3] = columns
    scan = dynamic(acquired=moving)
    assert np.array_equal(source(scan, items="cines")[0].acquired.numpy(), moving)
    assert np.array_equal(source(scan, items="frames")[3].acquired.numpy(), columns)
    assert source(scan, items="frames")[8].acquired.shape == (1, 20)


def test_rows_left_out_of_an_oversampled_readout_stay_at_their_frequency():
    rows = np.zeros((32, 1), np.float32)
    rows[10:] = 1  # frequencies -6 .. 15 of -16 .. 15
    scan = Memory("a", normal(1, 2, 32, 20).numpy(), acquired=rows, header={"oversampling": 2})
    mask = measurements(scan, "slices")[1]
    # Every second row of the finer grid: 2 k for k in -8 .. 7.
    assert mask.flatten().tolist() == [float(2 * k >= -6) for k in range(-8, 8)]


def test_undersampled_scans_are_no_reference():
    assert "gleam reconstruct" in refusal(static(undersampled=True))
    kspace, _, maps = measurements(static(undersampled=True), "slices")
    assert (kspace.shape, maps.shape) == ((3, 2, 16, 20), (3, 1, 2, 16, 20))


def test_measurements_are_arranged_as_the_items_of_a_network():
    scan = static()
    kspace, mask, maps = measurements(scan, "volumes")
    assert (kspace.shape, mask, maps.shape) == ((1, 2, 3, 16, 20), None, (1, 1, 2, 3, 16, 20))
    assert np.array_equal(kspace[0, :, 2].numpy(), scan._kspace[2])
    moving = np.ones((5, 1, 20), np.float32)
    moving[3, :, 15:] = 0
    cine = dynamic(acquired=moving)
    kspace, mask, maps = measurements(cine, "frames")
    assert (kspace.shape, mask.shape, maps.shape) == (
        (10, 2, 16, 20),
        (10, 1, 20),
        (10, 1, 2, 16, 20),
    )
    assert np.array_equal(kspace[8].numpy(), cine._kspace[1, :, 3])
    assert np.array_equal(maps[8].numpy(), cine.maps()[1, :, :, 0])
    assert np.array_equal(mask[8].numpy(), moving[3])
    assert measurements(cine, "cines")[0].shape == (2, 2, 5, 16, 20)


@pytest.mark.parametrize("key", ["kspace", "maps", "target"])
def test_values_that_are_not_finite_name_file_dataset_and_slice(key: str):
    scan = static(target=normal(3, 1, 16, 20).numpy())
    array = {"kspace": scan._kspace, **scan._parts}[key]
    array[1, ..., 3, 4] = np.inf
    assert refusal(scan, 1) == f"{scan.path}, {key}[1]: holds NaN or infinity"
    source(scan)[0]
    assert refusal(scan, items="volumes") == f"{scan.path}, {key}: holds NaN or infinity"


def test_an_empty_slice_is_named():
    scan = static()
    scan._kspace[1] = 0
    assert refusal(scan, 1) == f"{scan.path}, kspace[1]: all samples are zero"


def test_maps_and_targets_that_do_not_fit_are_refused():
    scan = static()
    scan._parts["maps"] = scan._parts["maps"][:, :, :1]
    message = refusal(scan)
    assert f"{scan.path}, maps[0]: expected" in message
    assert "= (1, 1, 2, 16, 20)" in message
    assert message.endswith("got (1, 1, 1, 16, 20)")
    assert "data.map_sets" in refusal(static(), sets=2)
    message = refusal(static(target=normal(3, 1, 16, 19).numpy()))
    assert "target[0]: expected" in message
    assert message.endswith("got (1, 1, 16, 19)")
    moving = dynamic()
    moving._parts["maps"] = np.repeat(moving._parts["maps"], 5, axis=3)
    assert "= (1, 1, 2, 1, 16, 20)" in refusal(moving, items="cines")


def test_maps_that_cannot_be_estimated_name_file_and_slice():
    scan = Memory("a", normal(2, 2, 16, 20).numpy())
    assert refusal(scan, 1, calibration=4).startswith(f"{scan.path}, kspace[1]: ")


def test_maps_that_come_out_empty_are_an_error():
    scan = Memory("a", normal(1, 2, 16, 20).numpy())
    message = refusal(scan, calibration=8)
    assert message.startswith(f"{scan.path}, kspace[0]: the estimated coil maps are zero")


def test_scans_whose_header_cannot_be_read_stop_or_are_left_out():
    broken = Memory("b", None)
    assert "header cannot be read" in refusal(broken)
    one = source(broken, static(), skip_bad=True)
    assert len(one) == 3
    assert one.bad == {str(broken.path): f"{broken.path}: the header cannot be read"}
    with pytest.raises(DataError, match="no scan can be used"):
        source(broken, skip_bad=True)


def test_samples_are_read_when_asked_for_and_then_kept():
    scan = static()
    one = source(scan)
    assert scan.reads == []
    for index in (2, 0, 2, 2):
        one[index]
    assert scan.reads == [slice(2, 3), slice(0, 1)]
    forgetful = source(scan, cache=Cache(1))
    scan.reads.clear()
    for _ in range(2):
        forgetful[0]
    assert len(scan.reads) == 2


def test_scans_that_are_read_whole_are_read_once():
    scan = static(whole=True)
    one = source(scan)
    for index in range(3):
        assert np.array_equal(one[index].kspace.numpy(), scan._kspace[index])
    assert scan.reads == [EVERYTHING]


def test_a_slice_does_not_keep_the_whole_scan_alive():
    scan = static(whole=True, target=normal(3, 1, 16, 20, seed=8).numpy())
    example = source(scan)[1]
    wholes = {"kspace": scan._kspace, **scan._parts}
    for key in ("kspace", "maps", "target"):
        part = getattr(example, key).numpy()
        assert np.array_equal(part, wholes[key][1])
        assert not np.shares_memory(part, wholes[key])


def test_a_scan_of_one_item_is_kept_once():
    for items, count in (("volumes", 3), ("slices", 1)):
        cache = Cache(10**9)
        example = source(static(count, whole=True), items=items, cache=cache)[0]
        assert cache.nbytes == example.kspace.nbytes + example.maps.nbytes


def test_a_cache_can_be_shared_and_travels_empty():
    cache = Cache(10**9)
    for seed in (1, 2):
        source(static(1, seed=seed), cache=cache)[0]
    assert cache.nbytes == 2 * (2 + 2) * 16 * 20 * 8
    sent = pickle.loads(pickle.dumps(cache))
    assert (sent.limit, sent.nbytes) == (10**9, 0)


def test_the_settings_of_the_estimate_reach_it():
    kspace = tiny.brain_kspace(0, 36)[None]
    low = partial(estimate_maps, method="low_resolution", crop=0.1)
    got = ScanSource([Memory("a", kspace.numpy())], low, calibration=12)[0].maps
    assert torch.equal(got, low(kspace, calibration=12, sets=1)[0])
    assert not torch.equal(got, espirit(kspace, 12)[0])
