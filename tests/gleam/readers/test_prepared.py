"""The library's own files: written whole, read by slices, verified, and refused when bad."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from gleam.data.readers import open_scan
from gleam.data.readers.prepared import PreparedScan, verify, write_scan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts import normal, refusal, write_hdf5

STATIC = {"kspace": (3, 2, 8, 6), "maps": (3, 1, 2, 8, 6), "target": (3, 1, 8, 6)}
CINE = {"kspace": (3, 2, 4, 8, 6), "maps": (3, 2, 2, 1, 8, 6), "target": (3, 2, 4, 8, 6)}


def arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {key: normal(*shape, seed=n) for n, (key, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("shapes", [STATIC, CINE])
def test_what_was_written_is_read_again_slice_by_slice(tmp_path: Path, shapes):
    written = arrays(shapes)
    header = {"acquisition": "3D", "voxel_size": [1.0, 0.5, 0.5], "echo_time": 27.0}
    mask = np.zeros((1, 6) if len(shapes["kspace"]) == 4 else (4, 1, 6), np.float32)
    mask[..., 1::2] = 1
    noise = normal(2, 50, seed=9)
    path = tmp_path / "a.h5"
    write_scan(path, **written, header=header, acquired=mask, noise=noise, undersampled=True)
    scan = open_scan(path)
    assert isinstance(scan, PreparedScan)
    assert (scan.name, scan.shape, scan.header) == ("a", shapes["kspace"], header)
    assert (scan.undersampled, scan.dynamic) == (True, len(shapes["kspace"]) == 5)
    assert np.array_equal(scan.acquired(), mask)
    assert np.array_equal(scan.noise(), noise)
    for key, value in written.items():
        for part in (slice(None), slice(1, 2), slice(1, None)):
            got = getattr(scan, key)(part)
            assert np.array_equal(got, value[part])
            assert got.dtype == np.complex64
            assert got.flags.c_contiguous
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_what_was_left_out_is_not_there(tmp_path: Path):
    kspace = normal(2, 2, 8, 6)
    kspace[..., ::2] = 0
    write_scan(tmp_path / "a.h5", kspace)
    scan = PreparedScan(tmp_path / "a.h5")
    assert [scan.maps(), scan.target(), scan.acquired(), scan.noise()] == [None] * 4
    assert (scan.header, scan.undersampled) == ({}, False)


def test_scans_travel_between_processes(tmp_path: Path):
    kspace = normal(2, 2, 8, 6)
    write_scan(tmp_path / "a.h5", kspace, header={"sequence": "T2w"})
    scan = PreparedScan(tmp_path / "a.h5", "patient/a")
    assert scan.shape == kspace.shape
    assert scan.acquired() is None
    other = pickle.loads(pickle.dumps(scan))
    assert (other.name, other.header) == ("patient/a", {"sequence": "T2w"})
    assert np.array_equal(other.kspace(slice(1, 2)), kspace[1:])


def test_a_plain_file_is_read_and_its_zeros_tell_what_was_acquired(tmp_path: Path):
    kspace = normal(2, 2, 8, 6).astype(np.complex128)
    scan = PreparedScan(write_hdf5(tmp_path / "a.h5", {"kspace": kspace}))
    assert scan.kspace().dtype == np.complex64
    assert (scan.undersampled, scan.acquired(), scan.header) == (False, None, {})
    kspace[..., [1, 4]] = 0
    scan = PreparedScan(write_hdf5(tmp_path / "b.h5", {"kspace": kspace}))
    assert scan.undersampled
    assert scan.acquired().tolist() == [[1, 0, 1, 1, 0, 1]]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.h5"
    write_scan(path, normal(2, 2, 8, 6))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_scan(path, normal(2, 2, 8, 6, seed=1))
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "a.h5.partial"]


@pytest.mark.parametrize("key", [*STATIC, "acquired", "noise"])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, key: str):
    path = tmp_path / "a.h5"
    write_scan(path, **arrays(STATIC), acquired=np.ones((8, 1)), noise=normal(2, 50))
    verify(path)
    with h5py.File(path, "r") as file:
        place = file[key].id.get_offset() + file[key].id.get_storage_size() - 3
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{key} is damaged: its checksum is ") as caught:
        verify(path)
    assert str(path) in str(caught.value)


def test_a_file_without_checksums_cannot_be_verified(tmp_path: Path):
    path = write_hdf5(tmp_path / "a.h5", {"kspace": normal(1, 2, 8, 6)})
    with pytest.raises(DataError, match=r"a\.h5, kspace has no checksum"):
        verify(path)


@pytest.mark.parametrize("kept", [100, 0.5, 0.95])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: float):
    path = tmp_path / "a.h5"
    write_scan(path, **arrays(STATIC))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    for refused in (refusal(PreparedScan(path), "shape"), refusal(PreparedScan(path), "kspace")):
        assert refused.startswith(f"{path} is not a readable HDF5 file")
    with pytest.raises(DataError, match="is not a readable HDF5 file"):
        verify(path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros((3, 8, 8), np.complex64), "complex64 (3, 8, 8)"),
        (np.zeros((1, 3, 8, 8), np.float32), "float32 (1, 3, 8, 8)"),
        (np.zeros((0, 3, 8, 8), np.complex64), "complex64 (0, 3, 8, 8)"),
        (np.zeros((2, 0, 8, 8), np.complex64), "complex64 (2, 0, 8, 8)"),
    ],
)
def test_kspace_of_another_form_is_refused(tmp_path: Path, value: np.ndarray, found: str):
    path = write_hdf5(tmp_path / "a.h5", {"kspace": value})
    assert refusal(PreparedScan(path), "shape") == (
        f"{path}, kspace: expected complex (slices, coils, y, x) or (slices, coils, t, y, x), none "
        f"of them 0, got {found}"
    )


def test_a_file_without_kspace_says_what_it_holds(tmp_path: Path):
    path = write_hdf5(tmp_path / "a.h5", {"image": np.zeros(3), "group/mask": np.zeros(3)})
    expected = f"{path} must hold a dataset kspace, found ['group', 'image']"
    assert [refusal(PreparedScan(path), "shape"), refusal(PreparedScan(path), "kspace")] == [
        expected
    ] * 2
    assert refusal(PreparedScan(tmp_path / "b.h5"), "shape").startswith(
        f"{tmp_path / 'b.h5'} is not a readable HDF5"
    )


@pytest.mark.parametrize(
    ("key", "shape", "wanted"),
    [
        ("maps", (3, 1, 3, 8, 6), (3, 1, 2, 8, 6)),
        ("maps", (2, 1, 2, 8, 6), (3, 1, 2, 8, 6)),
        ("maps", (3, 1, 2, 8), (3, 1, 2, 8, 6)),
        ("maps", (3, 0, 2, 8, 6), (3, 1, 2, 8, 6)),
        ("target", (3, 2, 8, 5), (3, 2, 8, 6)),
        ("target", (3,), (3, 1, 8, 6)),
    ],
)
def test_maps_and_targets_that_do_not_fit_are_refused(tmp_path: Path, key, shape, wanted):
    datasets = {"kspace": normal(*STATIC["kspace"]), key: normal(*shape)}
    path = write_hdf5(tmp_path / "a.h5", datasets)
    message = f"{path}, {key}: expected {wanted} to fit kspace, got {shape}"
    assert refusal(PreparedScan(path), key) == message


def test_other_parts_that_do_not_fit_are_refused(tmp_path: Path):
    kspace = normal(*STATIC["kspace"])
    path = write_hdf5(
        tmp_path / "a.h5",
        {"kspace": kspace, "noise": normal(3, 9), "acquired": np.ones((8, 2)), "maps": kspace.real},
        {"header": "{not json", "undersampled": False},
    )
    assert refusal(PreparedScan(path), "acquired") == (
        f"{path}, acquired: expected a mask that fits (8, 6), got (8, 2)"
    )
    assert refusal(PreparedScan(path), "noise").startswith(
        f"{path}, noise: expected (coils, samples) with 2"
    )
    assert refusal(PreparedScan(path), "header").startswith(f"{path}: unreadable header: ")
    path = write_hdf5(tmp_path / "b.h5", {"kspace": kspace, "target": np.ones((3, 1, 8, 6))})
    assert (
        refusal(PreparedScan(path), "target")
        == f"{path}, target: expected complex numbers, got float64"
    )
    path = write_hdf5(tmp_path / "c.h5", {"kspace": kspace}, {"header": "[1]"})
    assert refusal(PreparedScan(path), "header") == (
        f"{path}: unreadable header: expected a JSON object, got '[1]'"
    )
