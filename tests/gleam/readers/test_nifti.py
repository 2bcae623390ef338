"""NIfTI: the simulated k-space is that of the file's magnitudes, and the same in every process."""

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from gleam.data.readers.nifti import NiftiScan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts_more import centred_fft, write_nifti

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("GLEAM_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "head.nii.gz"


def volume(*shape: int) -> np.ndarray:
    """Positive numbers, two thirds of them small."""
    draw = np.random.default_rng(0).random(shape, np.float32)
    return np.where(draw < 2 / 3, draw, 100 * draw).astype(np.float32)


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        NiftiScan(path).kspace()
    assert str(path) in str(error.value)


def test_the_image_has_the_magnitudes_of_the_file_over_their_bright_percentile(path: Path) -> None:
    stored = volume(16, 18, 5)
    write_nifti(path, stored)
    scan = NiftiScan(path)
    assert scan.shape == (5, 8, 18, 16)
    level = np.percentile(stored[stored > stored.mean()], 95)
    target = scan.target()
    assert target.shape == (5, 1, 18, 16)
    assert target.dtype == np.complex64
    wanted = stored.transpose(2, 1, 0)[:, ::-1, ::-1] / level  # from the front, from the right
    np.testing.assert_allclose(np.abs(target[:, 0]), wanted, rtol=1e-5)
    phase = np.angle(target[:, 0])
    assert phase.std() > 0.1


def test_k_space_is_that_of_the_coil_images_plus_white_noise_of_the_stated_snr(path: Path) -> None:
    write_nifti(path, volume(40, 36, 4))
    scan = NiftiScan(path)
    kspace, maps, target = scan.kspace(), scan.maps(), scan.target()
    assert kspace.shape == scan.shape
    assert kspace.dtype == maps.dtype == np.complex64
    assert kspace.flags.c_contiguous
    assert maps.shape == (4, 1, 8, 36, 40)
    noise = kspace - centred_fft(maps[:, 0] * target, (-2, -1))
    assert isinstance(scan.header["snr"], float)
    for part in (noise.real, noise.imag):
        assert part.std() == pytest.approx(1 / scan.header["snr"], rel=0.02)
    flat = noise.swapaxes(0, 1).reshape(8, -1)
    correlation = np.abs(np.corrcoef(flat)) - np.eye(8)
    assert correlation.max() < 0.06
    between = np.abs(np.corrcoef(noise.reshape(4, -1))) - np.eye(4)
    assert between.max() < 0.05  # every slice has noise of its own


def test_the_target_is_the_sense_combination_without_noise(path: Path) -> None:
    write_nifti(path, volume(16, 18, 3))
    scan = NiftiScan(path)
    maps, target = scan.maps()[:, 0], scan.target()
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(1), 1, rtol=1e-4)
    combined = (maps.conj() * (maps * target)).sum(1)
    np.testing.assert_allclose(combined, target[:, 0], atol=1e-5)


def test_a_slice_is_the_same_alone_and_in_company(path: Path) -> None:
    write_nifti(path, volume(16, 18, 6))
    scan, fresh = NiftiScan(path), NiftiScan(path)
    for few in (slice(2, 3), slice(1, 6, 2), slice(-1, None)):
        np.testing.assert_array_equal(fresh.kspace(few), scan.kspace()[few])
        np.testing.assert_array_equal(fresh.maps(few), scan.maps()[few])
        np.testing.assert_array_equal(fresh.target(few), scan.target()[few])


def test_another_process_simulates_the_same_and_another_name_something_else(path: Path) -> None:
    write_nifti(path, volume(16, 18, 2))
    code = (
        "import sys; from gleam.data.readers.nifti import NiftiScan;"
        "sys.stdout.buffer.write(NiftiScan(sys.argv[1]).kspace().tobytes())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=True, cwd=ROOT
    )
    scan = NiftiScan(path)
    assert scan.name == "head"
    assert told.stdout == scan.kspace().tobytes()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan)).kspace(), scan.kspace())
    other = NiftiScan(path, "another")
    for mine, its in ((scan.kspace(), other.kspace()), (scan.maps(), other.maps())):
        assert np.abs(mine - its).max() > 0.01


def test_rows_run_from_the_front_columns_from_the_right_and_slices_from_the_feet(
    path: Path,
) -> None:
    """Whatever the order and the direction of the axes in the file."""
    upright = np.ones((6, 8, 10), np.float32)  # to the right, the front, the head
    upright[5, 7, 9] = 9  # far right, front, top
    upright[5, 0, 0] = 5  # far right, back, bottom
    write_nifti(path, upright, np.diag([2.0, 3.0, 4.0, 1.0]))
    wanted = NiftiScan(path).target()
    magnitude = np.abs(wanted[:, 0])
    assert np.unravel_index(magnitude.argmax(), magnitude.shape) == (9, 0, 0)
    assert magnitude[0, 7, 0] == pytest.approx(magnitude[9, 0, 0] * 5 / 9)
    sagittal = np.array([[0, 0, -2.0, 0], [-3.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 0, 1]])
    write_nifti(path, upright.transpose(1, 2, 0)[::-1, :, ::-1], sagittal)
    scan = NiftiScan(path)
    assert scan.header["voxel_size"] == [4.0, 3.0, 2.0]
    np.testing.assert_allclose(scan.target(), wanted, rtol=1e-6)


def test_coils_and_phase_lie_at_physical_places(path: Path) -> None:
    coarse = np.ones((8, 10, 4), np.float32)
    coarse[4] = 2
    write_nifti(path, coarse, np.diag([20.0, 20.0, 20.0, 1.0]))
    maps, target = NiftiScan(path).maps(), NiftiScan(path).target()
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write_nifti(path, fine, np.diag([10.0, 10.0, 10.0, 1.0]))
    scan = NiftiScan(path)
    np.testing.assert_allclose(scan.maps()[::2, ..., ::2, ::2], maps, atol=1e-4)
    phase = np.angle(scan.target()[::2, ..., ::2, ::2] * target.conj())
    np.testing.assert_allclose(phase, 0, atol=1e-4)
    steps = np.abs(np.diff(scan.maps(), axis=0)).max()
    assert 1e-3 < steps < 0.5


def test_a_fourth_axis_is_time_with_the_same_coils(path: Path) -> None:
    stored = volume(12, 14, 3, 4)
    write_nifti(path, stored)
    scan = NiftiScan(path)
    assert scan.shape == (3, 8, 4, 14, 12)
    assert scan.dynamic
    maps, target = scan.maps(), scan.target()
    assert maps.shape == (3, 1, 8, 1, 14, 12)
    assert target.shape == (3, 1, 4, 14, 12)
    level = np.percentile(stored[stored > stored.mean()], 95)
    wanted = stored.transpose(2, 3, 1, 0)[..., ::-1, ::-1] / level
    np.testing.assert_allclose(np.abs(target[:, 0]), wanted, rtol=1e-5)
    noise = scan.kspace() - centred_fft(maps[:, 0] * target, (-2, -1))
    assert noise.real.std() == pytest.approx(0.01, rel=0.03)
    np.testing.assert_array_equal(scan.kspace(slice(2, 3)), scan.kspace()[2:])


def test_a_single_time_is_not_dynamic(path: Path) -> None:
    stored = volume(12, 14, 3, 1)
    write_nifti(path, stored)
    with_axis = NiftiScan(path).kspace()
    write_nifti(path, stored[..., 0])
    np.testing.assert_array_equal(NiftiScan(path).kspace(), with_axis)


def test_the_header_says_that_the_k_space_is_simulated(path: Path) -> None:
    write_nifti(path)
    scan = NiftiScan(path)
    assert scan.header == {
        "acquisition": "2D",
        "voxel_size": [10.0, 10.0, 10.0],
        "simulated": True,
        "snr": 100.0,
    }
    assert scan.acquired() is None
    assert not scan.undersampled


def test_it_recognises_files_by_their_names(tmp_path: Path) -> None:
    assert NiftiScan.recognises(tmp_path / "a.nii.gz")
    assert NiftiScan.recognises(tmp_path / "a.NII")
    assert not NiftiScan.recognises(tmp_path / "a.mgz")


def test_a_truncated_file_is_refused(path: Path, tmp_path: Path) -> None:
    write_nifti(path, volume(16, 18, 5))
    path.write_bytes(path.read_bytes()[:2000])
    assert_refused(path, "no readable NIfTI file")
    plain = tmp_path / "head.nii"
    write_nifti(plain, volume(16, 18, 5))
    plain.write_bytes(plain.read_bytes()[:2000])
    assert_refused(plain, "no readable NIfTI file")


def test_a_damaged_or_missing_file_or_one_that_is_not_gzip_is_refused(
    path: Path, tmp_path: Path
) -> None:
    assert_refused(path, "no readable NIfTI file")
    path.write_bytes(b"neither this nor that" * 100)
    assert_refused(path, "no readable NIfTI file")
    path.write_bytes(gzip.compress(b"no image" * 100))
    assert_refused(path, "no readable NIfTI file")
    write_nifti(path, volume(16, 18, 5))
    raw = bytearray(path.read_bytes())
    raw[3000:3100] = bytes(100)
    path.write_bytes(raw)
    assert_refused(path, "no readable NIfTI file")


@pytest.mark.parametrize(
    "shape", [(16, 18), (16, 18, 3, 2, 3), (16, 0, 3)], ids=["2D", "5D", "empty"]
)
def test_what_is_no_volume_is_refused(path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), path)
    assert_refused(path, "must hold the real magnitudes of a volume")


def test_complex_values_and_colours_are_refused(path: Path) -> None:
    write_nifti(path, np.ones((4, 4, 4), np.complex64))
    assert_refused(path, "real magnitudes.*complex64")
    write_nifti(path, np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert_refused(path, "real magnitudes")


@pytest.mark.parametrize("value", [0, 7, np.nan, -100])
def test_values_that_are_no_magnitudes_are_refused(path: Path, value: float) -> None:
    stored = np.full((8, 8, 4), value, np.float32)
    if value in (-100,) or np.isnan(value):
        stored[2:] = 50
    write_nifti(path, stored)
    assert_refused(path, "finite, positive magnitudes")


def test_an_affine_without_lengths_is_refused(path: Path) -> None:
    image = nibabel.Nifti1Image(volume(4, 4, 4), None)
    image.header.set_sform(np.diag([0.0, 1.0, 1.0, 1.0]), code=1)
    nibabel.save(image, path)
    assert_refused(path, "affine")


@pytest.mark.skipif(not (DATA / "vol_FLAIR_1mm.nii.gz").is_file(), reason="no real scans here")
def test_a_real_flair_head_lies_the_right_way_up() -> None:
    scan = NiftiScan(DATA / "vol_FLAIR_1mm.nii.gz")
    middle = scan.shape[0] // 2
    image = np.abs(scan.target(slice(middle, middle + 1))[0, 0])
    assert scan.header["voxel_size"] == pytest.approx([1, 1, 1], rel=0.01)
    assert image.shape == scan.shape[-2:]
    rows, columns = (np.flatnonzero(image.max(axis) > 0.2) for axis in (1, 0))
    assert np.ptp(rows) > np.ptp(columns) > 100  # a head is longer than wide
    assert np.percentile(image[image > 0.2], 50) == pytest.approx(0.7, abs=0.25)
