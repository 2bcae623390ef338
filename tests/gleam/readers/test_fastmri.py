"""fastMRI's multi-coil files: geometry and padding from the header, and refused when bad."""

from pathlib import Path

import numpy as np
import pytest

from gleam.data.readers import open_scan
from gleam.data.readers.fastmri import FastmriScan
from tests.gleam.readers.layouts import (
    fastmri_header,
    normal,
    refusal,
    to_images,
    write_fastmri,
    write_hdf5,
)


def padded(left: int = 2, right: int = 1) -> np.ndarray:
    kspace = normal(3, 4, 16, 12)
    kspace[..., :left] = 0
    kspace[..., 12 - right :] = 0
    return kspace


def test_kspace_and_header_of_a_knee_are_read(tmp_path: Path):
    kspace = padded()
    scan = open_scan(write_fastmri(tmp_path / "file1000001.h5", kspace, padding=(2, 1)))
    assert isinstance(scan, FastmriScan)
    assert (scan.name, scan.shape) == ("file1000001", (3, 4, 16, 12))
    assert (scan.undersampled, scan.maps(), scan.target()) == (False, None, None)
    assert np.array_equal(scan.kspace(), kspace)
    assert np.array_equal(scan.kspace(slice(1, 3)), kspace[1:])
    assert scan.kspace().dtype == np.complex64
    header = dict(scan.header)
    assert header.pop("voxel_size") == pytest.approx([3, 0.4375, 0.4375])
    assert header == {
        "acquisition": "2D",
        "sequence": "CORPD_FBK",
        "field_strength": 2.89362,
        "oversampling": 2,
        "repetition_time": 2750,
        "echo_time": 27,
        "inversion_time": 100,
        "flip_angle": 150,
    }


def test_the_image_without_oversampling_is_that_of_the_file(tmp_path: Path):
    import h5py

    path = write_fastmri(tmp_path / "a.h5", normal(2, 4, 16, 12))
    scan = FastmriScan(path)
    rows = round(16 / scan.header["oversampling"])
    images = np.sqrt((np.abs(to_images(scan.kspace())) ** 2).sum(1))
    with h5py.File(path) as file:
        wanted = file["reconstruction_rss"][()]
    assert np.allclose(images[:, 8 - rows // 2 : 8 + rows // 2], wanted, rtol=1e-5)


def test_a_field_of_view_that_was_not_encoded_cuts_nothing(tmp_path: Path):
    xml = fastmri_header(16, 12).replace("<x>7.0</x>", "<x>3.0</x>")
    path = write_fastmri(tmp_path / "a.h5", normal(2, 4, 16, 12), header=xml)
    assert FastmriScan(path).header["oversampling"] == 1


@pytest.mark.parametrize("padding", [(2, 1), (0, 3), (4, 4), (1, 0)])
def test_columns_outside_the_encoding_limits_are_not_acquired(tmp_path: Path, padding):
    path = write_fastmri(tmp_path / "a.h5", padded(*padding), padding=padding)
    there = np.abs(padded(*padding)).max((0, 1, 2)) > 0
    scan = FastmriScan(path)
    assert scan.acquired().tolist() == [there.astype(float).tolist()]
    assert scan.acquired().dtype == np.float32
    assert not scan.undersampled


def test_without_padding_everything_is_acquired(tmp_path: Path):
    kspace = normal(1, 2, 16, 12)
    assert FastmriScan(write_fastmri(tmp_path / "a.h5", kspace)).acquired() is None
    xml = fastmri_header(16, 12)
    limits = slice(xml.index("<encodingLimits>"), xml.index("<trajectory>"))
    path = write_fastmri(tmp_path / "b.h5", kspace, header=xml.replace(xml[limits], ""))
    assert FastmriScan(path).acquired() is None


def test_partial_fourier_is_not_acquired_either(tmp_path: Path):
    xml = fastmri_header(16, 12).replace("<minimum>0</minimum>", "<minimum>3</minimum>", 1)
    path = write_fastmri(tmp_path / "a.h5", padded(3, 0), header=xml)
    assert FastmriScan(path).acquired().tolist() == [[0] * 3 + [1] * 9]


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_files_of_the_test_set_say_which_columns_they_have(tmp_path: Path, kind: type):
    mask = np.array([0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1])
    path = write_fastmri(tmp_path / "a.h5", padded() * mask, mask=mask.astype(kind), padding=(2, 1))
    scan = open_scan(path)
    assert isinstance(scan, FastmriScan)
    assert scan.undersampled
    assert scan.acquired().tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 0, 0]]


def test_a_mask_of_another_size_is_refused(tmp_path: Path):
    path = write_fastmri(tmp_path / "a.h5", padded(), mask=np.ones(11))
    message = refusal(FastmriScan(path), "acquired")
    assert message == f"{path}, mask: expected one value for each of 12 columns, got 11"


def test_single_coil_files_are_refused_with_the_reason(tmp_path: Path):
    datasets = {"kspace": normal(3, 16, 12), "ismrmrd_header": b"", "reconstruction_esc": 0}
    path = write_hdf5(tmp_path / "a.h5", datasets)
    assert isinstance(open_scan(path), FastmriScan)
    message = refusal(FastmriScan(path), "shape")
    assert message.startswith(f"{path}, kspace: three axes are those of single-coil data")
    assert message.endswith("use the multi-coil files")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros((2, 0, 16, 12), np.complex64), "complex64 (2, 0, 16, 12)"),
        (np.zeros((2, 3, 16, 12), np.float32), "float32 (2, 3, 16, 12)"),
        (np.zeros((2, 3, 4, 16, 12), np.complex64), "complex64 (2, 3, 4, 16, 12)"),
    ],
)
def test_kspace_of_another_form_is_refused(tmp_path: Path, value: np.ndarray, found: str):
    path = write_hdf5(tmp_path / "a.h5", {"kspace": value, "reconstruction_rss": 0})
    assert refusal(FastmriScan(path), "shape") == (
        f"{path}, kspace: expected complex (slices, coils, y, x), none of them 0, got {found}"
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("</ismrmrdHeader>", "", "no element found"),
        ("<x>7.0</x>", "", "encoding/encodedSpace/fieldOfView_mm/x must be a number, got None"),
        ("<x>7.0</x>", "<x>wide</x>", "fieldOfView_mm/x must be a number, got 'wide'"),
        ("<x>3.5</x>", "<x>0</x>", "reconSpace/fieldOfView_mm/x must be a length in mm, got 0.0"),
        ("<TR>2750</TR>", "<TR/>", "sequenceParameters/TR must be a number, got ''"),
    ],
)
def test_an_unreadable_header_is_named(tmp_path: Path, old: str, new: str, why: str):
    xml = fastmri_header(16, 12)
    assert old in xml
    path = write_fastmri(tmp_path / "a.h5", normal(1, 2, 16, 12), header=xml.replace(old, new, 1))
    message = refusal(FastmriScan(path), "header")
    assert message.startswith(f"{path}, ismrmrd_header: unreadable header: ")
    assert why in message
    assert FastmriScan(path).shape == (1, 2, 16, 12)


def test_encoding_limits_that_leave_nothing_are_refused(tmp_path: Path):
    xml = fastmri_header(16, 12).replace("<center>6</center>", "<center>60</center>")
    path = write_fastmri(tmp_path / "a.h5", normal(1, 2, 16, 12), header=xml)
    assert "kspace_encoding_step_1 leaves none of 12 columns" in refusal(
        FastmriScan(path), "acquired"
    )


def test_missing_parts_are_named(tmp_path: Path):
    kspace = normal(1, 2, 16, 12)
    path = write_hdf5(tmp_path / "a.h5", {"kspace": kspace, "reconstruction_rss": 0})
    expected = f"{path} must hold a dataset ismrmrd_header, found ['kspace', 'reconstruction_rss']"
    assert (
        refusal(FastmriScan(path), "header") == refusal(FastmriScan(path), "acquired") == expected
    )
    path = write_hdf5(tmp_path / "b.h5", {"ismrmrd_header": b"<a/>"})
    expected = f"{path} must hold a dataset kspace, found ['ismrmrd_header']"
    assert refusal(FastmriScan(path), "shape") == refusal(FastmriScan(path), "kspace") == expected


def test_a_truncated_file_is_refused_by_name(tmp_path: Path):
    path = write_fastmri(tmp_path / "a.h5", normal(1, 2, 16, 12))
    path.write_bytes(path.read_bytes()[:3000])
    for what in ("shape", "header", "kspace"):
        assert refusal(FastmriScan(path), what).startswith(f"{path} is not a readable HDF5 file")
