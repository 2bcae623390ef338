"""The knees of mridata.org: known images in the layout of GE's archive come back exactly."""

from pathlib import Path

import numpy as np
import pytest

from gleam.data.readers.ismrmrd import IsmrmrdScan
from gleam.data.readers.mridata_fse import MridataFseScan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts_more import (
    centred_fft,
    centred_ifft,
    mrd_acquisitions,
    mrd_header,
    noise_of,
    write_ismrmrd,
)


def write(
    path: Path,
    images: np.ndarray,
    header: str | None = None,
    lines: int = 10,
    before: int = 6,
) -> np.ndarray:
    """Images ``(coils, z, y, x)``: slices with alternating sign, k-space along y and x only.

    Of each line, so many samples before the echo are kept.
    """
    stack = centred_fft(images, (-2, -1)).astype(np.complex64)
    signs = (-1.0) ** np.arange(stack.shape[1])
    counted = (stack * signs[:, None, None]).transpose(1, 0, 2, 3)[:, :, None, None]
    samples = counted[..., images.shape[-1] // 2 - before :].astype(np.complex64)
    acquisitions = mrd_acquisitions(samples, center_sample=before)
    kept = [a for a in acquisitions if a.idx.kspace_encode_step_1 < lines]
    order = np.random.default_rng(0).permutation(len(kept))
    write_ismrmrd(path, None, [kept[i] for i in order], header or mrd_header((12, 10, 1)))
    return stack


def test_slices_run_along_the_readout_and_both_phase_encodings_are_kspace(tmp_path: Path):
    images = noise_of((2, 6, 10, 12))
    write(tmp_path / "knee.h5", images)
    scan = MridataFseScan(tmp_path / "knee.h5")
    wanted = images.transpose(3, 0, 2, 1)  # x, coils, y, z
    assert scan.shape == wanted.shape
    got = scan.kspace()
    assert got.dtype == np.complex64
    assert np.allclose(centred_ifft(got, (-2, -1)), wanted, atol=1e-5)
    assert np.array_equal(scan.kspace(slice(4, 9)), got[4:9])
    assert scan.whole
    assert scan.acquired() is None
    assert not scan.undersampled
    assert scan.header["acquisition"] == "3D"


def test_lines_that_were_not_acquired_are_known(tmp_path: Path):
    write(tmp_path / "knee.h5", noise_of((2, 6, 10, 12)), lines=8)
    acquired = MridataFseScan(tmp_path / "knee.h5").acquired()
    assert acquired.shape == (10, 1)
    assert acquired[:, 0].tolist() == [1] * 8 + [0] * 2


def test_the_mask_is_that_of_the_lines_if_the_echo_is_asymmetric(tmp_path: Path):
    path = tmp_path / "knee.h5"
    write(path, noise_of((2, 6, 10, 12)), lines=8, before=4)
    assert IsmrmrdScan(path).acquired().shape == (12, 10)
    assert MridataFseScan(path).acquired().tolist() == [[1]] * 8 + [[0]] * 2
    write(path, noise_of((2, 6, 10, 12)), before=4)
    assert IsmrmrdScan(path).acquired().shape == (12, 1)
    assert MridataFseScan(path).acquired() is None


def test_readout_oversampling_is_cut_after_the_transform(tmp_path: Path):
    images = noise_of((2, 6, 10, 12))
    images[..., :3] = images[..., 9:] = 0
    header = mrd_header((12, 10, 1), recon_matrix=(6, 10, 1), recon_fov=(6, 10, 1))
    write(tmp_path / "knee.h5", images, header)
    scan = MridataFseScan(tmp_path / "knee.h5")
    assert scan.shape == (6, 2, 10, 6)
    wanted = images[..., 3:9].transpose(3, 0, 2, 1)
    assert np.allclose(centred_ifft(scan.kspace(), (-2, -1)), wanted, atol=1e-5)
    assert "oversampling" not in scan.header


def test_it_must_be_asked_for_and_refuses_other_layouts(tmp_path: Path):
    path = tmp_path / "knee.h5"
    write(path, noise_of((2, 6, 10, 12)))
    assert not MridataFseScan.recognises(path)
    assert IsmrmrdScan.recognises(path)
    kspace = centred_fft(noise_of((1, 2, 1, 6, 10, 12)), (-3, -2, -1)).astype(np.complex64)
    write_ismrmrd(path, kspace)
    with pytest.raises(DataError, match="must count its second phase encoding as slices"):
        _ = MridataFseScan(path).shape
