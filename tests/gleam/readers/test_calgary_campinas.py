"""Calgary-Campinas brains: interleaved numbers, and an FFT without shifts made into ours."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gleam.data.readers import open_scan
from gleam.data.readers.calgary_campinas import CalgaryCampinasScan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts import normal, to_images, write_calgary_campinas, write_hdf5


def smooth(rows: int, columns: int) -> np.ndarray:
    """K-space ``(slices, 12, y, x)`` that falls off from its centre, and no sample is 0."""
    y, x = (np.arange(n) - n // 2 for n in (rows, columns))
    weights = 1e-3 + np.exp(-(y[:, None] ** 2 + x**2) / 8)
    return (normal(3, 12, rows, columns) * weights).astype(np.complex64)


def stored_images(path: Path) -> np.ndarray:
    """Coil images as the data set defines them, ``(slices, 12, y, x)``."""
    with h5py.File(path) as file:
        channels = file["kspace"][()]
    assert channels.dtype == np.float32
    images = np.fft.ifft2(channels[..., ::2] + 1j * channels[..., 1::2], axes=(1, 2))
    return np.moveaxis(images, -1, 1)


def test_coil_images_are_those_of_the_data_set_but_for_the_stated_factor(tmp_path: Path):
    path = write_calgary_campinas(tmp_path / "e13991s3_P01536.7.h5", smooth(10, 8))
    scan = open_scan(path)
    assert isinstance(scan, CalgaryCampinasScan)
    assert (scan.name, scan.shape) == ("e13991s3_P01536.7", (3, 12, 10, 8))
    y, x = np.indices((10, 8))
    wanted = stored_images(path) * np.sqrt(80) * (-1.0) ** (y + x)
    got = to_images(scan.kspace())
    assert np.linalg.norm(got - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert np.allclose(np.abs(got), np.abs(stored_images(path)) * np.sqrt(80), atol=1e-6)


def test_the_centre_of_kspace_is_where_the_library_expects_it(tmp_path: Path):
    kspace = smooth(10, 8)
    scan = open_scan(write_calgary_campinas(tmp_path / "a.h5", kspace))
    assert np.allclose(scan.kspace(), kspace, atol=1e-6)
    assert np.allclose(scan.kspace(slice(1, 2)), kspace[1:2], atol=1e-6)
    assert scan.kspace().dtype == np.complex64
    assert scan.kspace().flags.c_contiguous


def test_odd_sizes_keep_the_magnitude_of_the_images(tmp_path: Path):
    stored = normal(2, 7, 9, 12)
    channels = np.stack([stored.real, stored.imag], axis=-1).reshape(2, 7, 9, 24)
    path = write_hdf5(tmp_path / "a.h5", {"kspace": channels})
    got = np.abs(to_images(open_scan(path).kspace()))
    assert np.allclose(got, np.abs(stored_images(path)) * np.sqrt(63), atol=1e-5)


def test_the_padding_at_the_end_is_not_acquired(tmp_path: Path):
    kspace = smooth(10, 8)
    path = write_calgary_campinas(tmp_path / "a.h5", kspace)
    scan = CalgaryCampinasScan(path)
    assert (scan.acquired(), scan.undersampled) == (None, False)
    with h5py.File(path, "r+") as file:
        file["kspace"][:, :, 7:] = 0
    scan = CalgaryCampinasScan(path)
    assert scan.acquired().tolist() == [[1] * 7 + [0]]
    assert not scan.undersampled


def test_the_undersampled_test_set_is_known_by_its_holes(tmp_path: Path):
    path = write_calgary_campinas(tmp_path / "a.h5", smooth(10, 8))
    mask = np.random.default_rng(0).random((10, 8)) < 0.3
    mask[3:7, 2:6] = True
    with h5py.File(path, "r+") as file:
        file["kspace"][...] *= mask[:, :, None]
    scan = CalgaryCampinasScan(path)
    assert scan.undersampled
    assert np.array_equal(scan.acquired(), mask)


def test_only_real_numbers_of_12_or_32_coils_are_recognised(tmp_path: Path):
    for channels, known in ((24, True), (64, True), (22, False)):
        values = np.ones((2, 4, 4, channels), np.float32)
        path = write_hdf5(tmp_path / f"{channels}.h5", {"kspace": values})
        assert CalgaryCampinasScan.recognises(path) == known
    assert not CalgaryCampinasScan.recognises(
        write_hdf5(tmp_path / "c.h5", {"kspace": normal(2, 4, 4, 24)})
    )
    assert open_scan(tmp_path / "22.h5", "calgary_campinas").shape == (2, 11, 4, 4)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((2, 4, 4, 23), np.float32), "must hold pairs of a real and an imaginary part"),
        (np.zeros((2, 4, 4, 0), np.float32), "none of them 0, got float32 (2, 4, 4, 0)"),
        (np.zeros((4, 4, 24), np.float32), "got float32 (4, 4, 24)"),
        (np.zeros((2, 4, 4, 24), np.int16), "expected real (slices, y, x, real and imaginary"),
    ],
)
def test_kspace_of_another_form_is_refused(tmp_path: Path, value: np.ndarray, why: str):
    path = write_hdf5(tmp_path / "a.h5", {"kspace": value})
    for read in (lambda scan: scan.shape, lambda scan: scan.kspace()):
        with pytest.raises(DataError) as caught:
            read(CalgaryCampinasScan(path))
        assert str(caught.value).startswith(f"{path}, kspace: ")
        assert why in str(caught.value)


def test_missing_kspace_and_truncated_files_are_named(tmp_path: Path):
    path = write_hdf5(tmp_path / "a.h5", {"image": np.zeros(3)})
    with pytest.raises(DataError, match=r"a\.h5 must hold a dataset kspace, found \['image'\]"):
        CalgaryCampinasScan(path).kspace()
    path = write_calgary_campinas(tmp_path / "b.h5", smooth(10, 8))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"b\.h5 is not a readable HDF5 file"):
        CalgaryCampinasScan(path).kspace()
