"""SKM-TEA's raw-data files: one scan for each echo, maps and target that belong together."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gleam.data.readers import find_scans, open_scan
from gleam.data.readers.skm_tea import SkmTeaScan
from tests.gleam.readers.layouts import normal, refusal, to_images, write_hdf5, write_skm_tea

ECHOES = [normal(4, 3, 8, 6, seed=seed) for seed in (1, 2)]


def test_each_echo_is_a_scan(tmp_path: Path):
    (tmp_path / "train").mkdir()
    path = write_skm_tea(tmp_path / "train" / "MTR_005.h5", ECHOES)
    scans = find_scans(tmp_path)
    assert [scan.name for scan in scans] == ["train/MTR_005-echo1", "train/MTR_005-echo2"]
    for scan, kspace in zip(scans, ECHOES, strict=True):
        assert isinstance(scan, SkmTeaScan)
        assert scan.shape == (4, 3, 8, 6)
        assert np.array_equal(scan.kspace(), kspace)
        assert np.array_equal(scan.kspace(slice(2, 3)), kspace[2:3])
        assert scan.kspace().flags.c_contiguous
        assert scan.header["acquisition"] == "3D"
    first = open_scan(path)
    assert first.name == "MTR_005-echo1"
    assert np.array_equal(first.kspace(), ECHOES[0])


@pytest.mark.parametrize("sets", [1, 2])
def test_the_target_is_the_coil_combination_of_the_images(tmp_path: Path, sets: int):
    maps = normal(4, sets, 3, 8, 6, seed=3)
    path = write_skm_tea(tmp_path / "a.h5", ECHOES, maps)
    for echo in (1, 2):
        scan = SkmTeaScan(path, echo=echo)
        assert np.array_equal(scan.maps(), maps)
        for part in (slice(None), slice(1, 2)):
            images = to_images(scan.kspace(part))[:, None]
            wanted = (scan.maps(part).conj() * images).sum(2)
            assert scan.target(part).shape == wanted.shape
            assert np.allclose(scan.target(part), wanted, atol=1e-5)


def test_the_layout_is_that_of_the_data_set(tmp_path: Path):
    path = write_skm_tea(tmp_path / "a.h5", ECHOES)
    with h5py.File(path) as file:
        assert file["kspace"].shape == (4, 8, 6, 2, 3)
        assert file["maps"].shape == (4, 8, 6, 3, 1)
        assert file["target"].shape == (4, 8, 6, 2, 1)
        assert file["kspace"][1, 2, 3, 1, 2] == ECHOES[1][1, 2, 2, 3]


def test_zero_padding_is_not_acquired_and_no_undersampling(tmp_path: Path):
    echoes = [echo.copy() for echo in ECHOES]
    for echo in echoes:
        echo[..., 0] = echo[..., -1] = echo[..., :1, :] = 0
        echo[..., 1, 1] = echo[..., -1, -2] = 0  # corners that an elliptical shutter leaves out
    scan = SkmTeaScan(write_skm_tea(tmp_path / "a.h5", echoes))
    assert not scan.undersampled
    assert scan.acquired().shape == (8, 6)
    assert not scan.acquired()[0].any()
    assert not scan.acquired()[:, [0, -1]].any()
    assert scan.acquired().sum() == 7 * 4 - 2


def test_a_file_without_target_has_none(tmp_path: Path):
    datasets = {"kspace": normal(4, 8, 6, 2, 3), "maps": normal(4, 8, 6, 3, 1)}
    assert open_scan(write_hdf5(tmp_path / "a.h5", datasets)).target() is None


def test_an_echo_that_is_not_there_is_refused(tmp_path: Path):
    path = write_skm_tea(tmp_path / "a.h5", ECHOES)
    message = refusal(SkmTeaScan(path, echo=3), "shape")
    assert message == f"{path}, kspace: has 2 echoes, not echo 3"
    with pytest.raises(ValueError, match="echoes are counted from 1, got 0"):
        SkmTeaScan(path, echo=0)


@pytest.mark.parametrize(
    ("key", "shape", "axes", "begin"),
    [
        ("maps", (4, 8, 6, 2, 1), "(x, ky, kz, coils, maps)", "(4, 8, 6, 3)"),
        ("maps", (4, 8, 5, 3, 1), "(x, ky, kz, coils, maps)", "(4, 8, 6, 3)"),
        ("target", (4, 8, 6, 1, 1), "(x, ky, kz, echoes, maps)", "(4, 8, 6, 2)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, key, shape, axes, begin):
    datasets = {"kspace": normal(4, 8, 6, 2, 3), "maps": normal(4, 8, 6, 3, 1), key: normal(*shape)}
    path = write_hdf5(tmp_path / "a.h5", datasets)
    assert refusal(SkmTeaScan(path), key) == (
        f"{path}, {key}: expected {axes} that begins with {begin} to fit kspace, got {shape}"
    )


def test_other_forms_and_missing_parts_are_named(tmp_path: Path):
    maps = normal(4, 8, 6, 3, 1)
    path = write_hdf5(tmp_path / "a.h5", {"kspace": np.zeros((4, 8, 6, 2, 0), "c8"), "maps": maps})
    assert refusal(SkmTeaScan(path), "shape") == (
        f"{path}, kspace: expected complex (x, ky, kz, echoes, coils), none of them 0, got "
        "complex64 (4, 8, 6, 2, 0)"
    )
    path = write_hdf5(tmp_path / "b.h5", {"kspace": np.zeros((4, 8, 6, 2, 3)), "maps": maps})
    assert "got float64 (4, 8, 6, 2, 3)" in refusal(SkmTeaScan(path), "shape")
    path = write_hdf5(tmp_path / "c.h5", {"kspace": normal(4, 8, 6, 2, 3), "target": maps})
    assert (
        refusal(SkmTeaScan(path), "maps")
        == f"{path} must hold a dataset maps, found ['kspace', 'target']"
    )
    path = write_hdf5(tmp_path / "d.h5", {"maps": maps})
    assert (
        refusal(SkmTeaScan(path), "kspace") == f"{path} must hold a dataset kspace, found ['maps']"
    )


def test_a_truncated_file_is_refused_by_name(tmp_path: Path):
    path = write_skm_tea(tmp_path / "a.h5", ECHOES)
    path.write_bytes(path.read_bytes()[:-500])
    for what in ("shape", "kspace", "maps"):
        assert refusal(SkmTeaScan(path), what).startswith(f"{path} is not a readable HDF5 file")
