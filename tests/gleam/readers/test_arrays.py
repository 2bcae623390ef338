"""Arrays of numpy: with or without slices, from .npy and .npz, and refused when bad."""

import os
from pathlib import Path

import numpy as np
import pytest

from gleam.data.readers import open_scan
from gleam.data.readers.arrays import ArrayScan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts import normal, refusal

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("GLEAM_TEST_DATA", ROOT.parent / "shared" / "data"))
BRAIN = DATA / "mc_brain_8ch_undersampled_sigpy_ksp.npy"


def saved(path: Path, values: object) -> Path:
    np.save(path, values)
    return path


@pytest.mark.parametrize("shape", [(3, 8, 6), (2, 3, 8, 6), (2, 3, 4, 8, 6)])
@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_npy_files_are_read_by_slices(tmp_path: Path, shape: tuple[int, ...], kind: type):
    kspace = normal(*shape)
    scan = open_scan(saved(tmp_path / "a.npy", np.asfortranarray(kspace, dtype=kind)))
    whole = kspace if len(shape) > 3 else kspace[None]
    assert isinstance(scan, ArrayScan)
    assert (scan.name, scan.shape, scan.whole) == ("a", whole.shape, False)
    assert np.array_equal(scan.kspace(), whole)
    assert np.array_equal(scan.kspace(slice(-1, None)), whole[-1:])
    assert scan.kspace().dtype == np.complex64
    assert scan.kspace().flags.c_contiguous
    assert (scan.maps(), scan.target(), scan.undersampled) == (None, None, False)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_may_hold_maps_and_target(tmp_path: Path, save):
    kspace, maps, target = normal(2, 3, 8, 6), normal(2, 2, 3, 8, 6), normal(2, 2, 8, 6)
    save(tmp_path / "a.npz", kspace=kspace, maps=maps, target=target)
    scan = open_scan(tmp_path / "a.npz")
    assert (scan.shape, scan.whole) == (kspace.shape, True)
    for part in (slice(None), slice(1, 2)):
        assert np.array_equal(scan.kspace(part), kspace[part])
        assert np.array_equal(scan.maps(part), maps[part])
        assert np.array_equal(scan.target(part), target[part])


def test_maps_and_target_of_one_slice_need_no_axis_of_slices(tmp_path: Path):
    kspace, maps, target = normal(3, 8, 6), normal(1, 3, 8, 6), normal(1, 8, 6)
    np.savez(tmp_path / "a.npz", kspace=kspace, maps=maps, target=target)
    scan = ArrayScan(tmp_path / "a.npz")
    assert np.array_equal(scan.maps(), maps[None])
    assert np.array_equal(scan.target(), target[None])


def test_maps_and_target_of_a_cine(tmp_path: Path):
    kspace, maps, target = normal(2, 3, 4, 8, 6), normal(2, 1, 3, 1, 8, 6), normal(2, 1, 4, 8, 6)
    np.savez(tmp_path / "a.npz", kspace=kspace, maps=maps, target=target)
    scan = ArrayScan(tmp_path / "a.npz")
    assert scan.dynamic
    assert np.array_equal(scan.maps(), maps)
    assert np.array_equal(scan.target(), target)


def test_a_mask_says_what_was_acquired(tmp_path: Path):
    kspace, mask = normal(3, 8, 6), np.array([[True, False, True, True, False, True]])
    np.savez(tmp_path / "a.npz", kspace=kspace, mask=mask)
    scan = ArrayScan(tmp_path / "a.npz")
    assert scan.undersampled
    assert np.array_equal(scan.acquired(), mask)
    np.savez(tmp_path / "b.npz", kspace=kspace, mask=np.ones((8, 5)))
    expected = f"{tmp_path / 'b.npz'}, mask: expected to fit (8, 6), got (8, 5)"
    assert refusal(ArrayScan(tmp_path / "b.npz"), "acquired") == expected


@pytest.mark.skipif(not BRAIN.exists(), reason="the real brain is not here")
def test_the_real_brain_is_known_to_be_undersampled():
    scan = open_scan(BRAIN)
    assert scan.shape == (1, 8, 230, 180)
    assert scan.undersampled
    assert scan.acquired().shape == (230, 180)
    assert 0.12 < scan.acquired().mean() < 0.13
    assert np.array_equal(scan.kspace()[0], np.load(BRAIN))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.ones((3, 8, 6, 2), np.float32), "expected complex numbers, got float32; if the last"),
        (np.ones((3, 8, 6), np.int16), "expected complex numbers, got int16"),
        (np.ones((0, 8, 6), np.complex64), "k-space must be (slices, coils, y, x)"),
        (np.ones((8, 6), np.complex64), "got (8, 6)"),
        (np.array([{"slice": 0}, None], object), "as if slices differ in size"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, values: np.ndarray, why: str):
    path = saved(tmp_path / "a.npy", values)
    assert refusal(ArrayScan(path), "kspace").startswith(f"{path}, kspace: ")
    assert why in refusal(ArrayScan(path), "kspace")
    np.savez(tmp_path / "a.npz", kspace=values)
    assert why in refusal(ArrayScan(tmp_path / "a.npz"), "kspace")


@pytest.mark.parametrize(
    ("key", "shape", "wanted"),
    [
        ("maps", (2, 1, 2, 8, 6), (2, 1, 3, 8, 6)),
        ("maps", (1, 3, 8, 6), (2, 3, 3, 8, 6)),
        ("target", (2, 8, 6), (2, 8, 8, 6)),
        ("target", (), (2, 1, 8, 6)),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, key, shape, wanted):
    path = tmp_path / "a.npz"
    np.savez(path, **{"kspace": normal(2, 3, 8, 6), key: normal(*shape)})
    message = f"{path}, {key}: expected {wanted} to fit kspace, got {shape}"
    assert refusal(ArrayScan(path), key) == message


def test_an_npz_file_without_kspace_says_what_it_holds(tmp_path: Path):
    np.savez(tmp_path / "a.npz", image=normal(8, 6), mask=np.ones(3))
    expected = f"{tmp_path / 'a.npz'} must hold an array kspace, found ['image', 'mask']"
    assert refusal(ArrayScan(tmp_path / "a.npz"), "kspace") == expected


@pytest.mark.parametrize("kept", [0, 4, 60, 0.6, 0.97])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: float, suffix: str):
    path = tmp_path / f"a{suffix}"
    with open(path, "wb") as stream:
        if suffix == ".npy":
            np.save(stream, normal(2, 3, 8, 6))
        else:
            np.savez(stream, kspace=normal(2, 3, 8, 6))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    assert refusal(ArrayScan(path), "kspace").startswith(str(path))


def test_a_damaged_npz_file_is_refused_by_name_or_read_right(tmp_path: Path):
    path = tmp_path / "a.npz"
    kspace = np.repeat(normal(2, 3, 32, 4), 8, axis=-1)  # something to compress
    np.savez_compressed(path, kspace=kspace)
    content, reasons = path.read_bytes(), []
    for place in (*range(100), *range(100, len(content), len(content) // 40)):
        damaged = bytearray(content)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        try:
            assert np.array_equal(ArrayScan(path).kspace(), kspace)
        except DataError as error:
            reasons.append(str(error))
    assert len(reasons) > 90
    assert all(reason.startswith(str(path)) for reason in reasons)
