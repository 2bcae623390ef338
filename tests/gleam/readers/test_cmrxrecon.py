"""CMRxRecon: MATLAB arrays come back with their axes in our order."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from gleam.data.readers.cmrxrecon import CmrxreconScan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts_more import centred_fft, centred_ifft, noise_of, write_cmrxrecon


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cine_sax.mat"


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        CmrxreconScan(path).kspace()
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coil_images_of_every_slice_and_frame_come_back_exactly(path: Path, dtype: type) -> None:
    images = noise_of((12, 10, 3, 2, 4))  # as in MATLAB: nx, ny, coils, slices, frames
    write_cmrxrecon(path, centred_fft(images, (0, 1)), dtype=dtype)
    scan = CmrxreconScan(path)
    assert scan.shape == (2, 3, 4, 12, 10)
    assert scan.dynamic
    kspace = scan.kspace()
    assert kspace.shape == scan.shape
    assert kspace.dtype == np.complex64
    assert kspace.flags.c_contiguous
    for s, c, t in np.ndindex(2, 3, 4):
        got = centred_ifft(kspace[s, c, t], (0, 1))
        np.testing.assert_allclose(got, images[:, :, c, s, t], atol=2e-6)
    assert scan.acquired() is None
    assert not scan.undersampled
    assert scan.header == {"acquisition": "2D"}


def test_matlab_reads_the_fixture_as_it_was_meant() -> None:
    """Column-major: the first index of MATLAB's array is the last of HDF5's, element by element."""
    matlab = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    stored = matlab.flatten(order="F").reshape(matlab.shape[::-1])
    assert stored[5, 4, 3, 2, 1] == matlab[1, 2, 3, 4, 5]


def test_a_slice_is_read_without_the_others(path: Path) -> None:
    write_cmrxrecon(path)
    wanted = CmrxreconScan(path).kspace()
    with h5py.File(path) as file:
        data = file["kspace_full"].id
        offsets = [data.get_chunk_info_by_coord((t, 1, 0, 0, 0)).byte_offset for t in range(4)]
    raw = bytearray(path.read_bytes())
    for offset in offsets:
        raw[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(raw)
    np.testing.assert_array_equal(CmrxreconScan(path).kspace(slice(0, 1)), wanted[:1])
    assert_refused(path, "kspace_full.* cannot be read")


def test_a_single_frame_is_not_dynamic(path: Path) -> None:
    kspace = noise_of((6, 5, 3, 2, 1))
    for stored in (kspace, kspace[..., 0]):  # MATLAB drops the last axis
        write_cmrxrecon(path, stored)
        scan = CmrxreconScan(path)
        assert scan.shape == (2, 3, 6, 5)
        np.testing.assert_array_equal(scan.kspace(), kspace[..., 0].transpose(3, 2, 0, 1))
        np.testing.assert_array_equal(scan.kspace(slice(1, 2)), scan.kspace()[1:])


def test_an_accelerated_scan_is_undersampled_and_its_zeros_tell_where(path: Path) -> None:
    kspace = noise_of((12, 16, 3, 2, 4))
    mask = np.zeros(16, np.float32)
    mask[::4] = mask[6:10] = 1
    write_cmrxrecon(path, kspace * mask[:, None, None, None], key="kspace_sub04")
    scan = CmrxreconScan(path)
    assert scan.undersampled
    acquired = scan.acquired()
    assert acquired is not None
    np.testing.assert_array_equal(np.broadcast_to(acquired, (4, 12, 16)) - mask, 0)


@pytest.mark.parametrize(
    ("key", "undersampled"),
    [("kspace_sub08", True), ("kus", True), ("kspace_full", False), ("kspace", False)],
)
def test_the_arrays_of_every_challenge_are_read(path: Path, key: str, undersampled: bool) -> None:
    kspace = noise_of((6, 5, 3, 2, 4))
    write_cmrxrecon(path, kspace, key)
    assert CmrxreconScan.recognises(path)
    scan = CmrxreconScan(path)
    assert scan.undersampled == undersampled
    np.testing.assert_array_equal(scan.kspace(), kspace.transpose(3, 2, 4, 0, 1))


def test_a_file_of_masks_holds_no_scan(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["mask04"] = np.ones((10, 12))
    assert CmrxreconScan.recognises(path)
    assert list(CmrxreconScan.all_of(path, "cine_sax_mask")) == []
    write_cmrxrecon(path)
    (scan,) = CmrxreconScan.all_of(path, "cine_sax")
    assert scan.name == "cine_sax"


def test_it_recognises_its_files_only(path: Path, tmp_path: Path) -> None:
    write_cmrxrecon(path)
    assert CmrxreconScan.recognises(path)
    by_python = tmp_path / "python.mat"
    with h5py.File(by_python, "w") as file:
        file["kspace"] = noise_of((2, 3, 4, 4))
    assert not CmrxreconScan.recognises(by_python)
    renamed = path.rename(tmp_path / "cine_sax.h5")
    assert not CmrxreconScan.recognises(renamed)
    assert not CmrxreconScan.recognises(path)


def test_a_scan_can_be_sent_to_another_process(path: Path) -> None:
    write_cmrxrecon(path)
    scan = CmrxreconScan(path)
    wanted = scan.kspace()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan)).kspace(), wanted)


def test_an_older_matlab_file_is_recognised_and_the_error_says_how_to_save_it(path: Path) -> None:
    savemat(path, {"kspace_full": noise_of((4, 4, 2, 1, 1))})
    assert CmrxreconScan.recognises(path)
    assert_refused(path, "save it again with save.*-v7.3")


def test_a_truncated_file_is_refused(path: Path) -> None:
    write_cmrxrecon(path)
    path.write_bytes(path.read_bytes()[:3000])
    assert_refused(path, "not a readable HDF5 file")


def test_combined_k_space_is_refused(path: Path) -> None:
    write_cmrxrecon(path, noise_of((12, 10, 2, 4)), key="kspace_single_full")
    assert CmrxreconScan.recognises(path)
    assert_refused(path, "kspace_single_full: k-space must be of several coils")


def test_a_file_without_k_space_or_with_two_is_refused(path: Path) -> None:
    write_cmrxrecon(path, key="image")
    assert_refused(path, r"must hold one array of k-space.*\['image'\]")
    write_cmrxrecon(path)
    with h5py.File(path, "a") as file:
        file["kspace_sub04"] = file["kspace_full"][:]
    assert_refused(path, "found.*kspace_full.*kspace_sub04")


def test_zero_coils_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kspace_full"] = np.zeros((4, 2, 0, 10, 12), [("real", "f4"), ("imag", "f4")])
    assert_refused(path, "kspace_full")


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 2, 3, 10, 12), np.float32),
        np.zeros((4, 2, 3, 10, 12), [("real", "i2"), ("imag", "i2")]),
        np.zeros((10, 12), [("real", "f4"), ("imag", "f4")]),
    ],
    ids=["real", "integers", "axes"],
)
def test_a_wrong_type_or_shape_is_refused(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["kspace_full"] = values
    assert_refused(path, "kspace_full: expected MATLAB's complex")
