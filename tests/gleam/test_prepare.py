"""Raw scans into prepared ones: every step against numpy, on files in the formats of the field."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from gleam.data.prepare import Prepared, PrepareSettings, prepare
from gleam.data.readers.prepared import PreparedScan
from gleam.data.scan import DataError
from physics.calibration import low_resolution
from physics.coils import espirit
from tests.gleam.raw import SIZE, put, raw_kspace, raw_volume
from tests.gleam.readers.layouts import (
    normal,
    to_images,
    to_kspace,
    write_bart,
    write_fastmri,
    write_skm_tea,
)


def ready(
    source: Path, out: Path, covariance: np.ndarray | None = None, **settings
) -> PreparedScan:
    """The one scan that is prepared."""
    (result,) = prepare(source, out, PrepareSettings(**settings), covariance=covariance, workers=1)
    assert result.status == "prepared", result.note
    scan = PreparedScan(result.path)
    assert scan.shape == result.shape
    return scan


def combined(kspace: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The SENSE combination, by numpy."""
    return (maps.conj() * to_images(kspace)[:, None]).sum(2)


def close(found: np.ndarray | None, wanted: np.ndarray) -> None:
    assert found is not None
    assert found.dtype == np.complex64
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_a_plain_scan_gets_maps_and_target_and_keeps_its_samples(tmp_path: Path):
    kspace = raw_kspace(slices=2)
    put(tmp_path / "raw" / "deep" / "a.h5", kspace)
    scan = ready(tmp_path / "raw", tmp_path / "out", sets=2, calibration=20, crop=0.9)
    assert scan.path == tmp_path / "out" / "deep" / "a.h5"
    assert np.array_equal(scan.kspace(), kspace)
    maps = espirit(torch.from_numpy(kspace), 20, 2, crop=0.9).numpy()
    close(scan.maps(), maps)
    close(scan.target(), combined(kspace, maps))
    assert scan.noise() is None
    assert not scan.undersampled
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {"deep", "a.h5"}


def test_noise_samples_whiten_the_scan(tmp_path: Path):
    kspace, mixing = raw_kspace(slices=1, coils=3), np.array([[1, 0, 0], [0.5j, 2, 0], [0.3, 0, 3]])
    noise = (mixing @ normal(3, 5000, seed=5)).astype(np.complex64)
    put(tmp_path / "a.h5", kspace, noise=noise)
    whitening = np.linalg.inv(np.linalg.cholesky(noise @ noise.conj().T / 5000))
    wanted = np.einsum("ij,sj...->si...", whitening, kspace)
    scan = ready(tmp_path / "a.h5", tmp_path / "out")
    close(scan.kspace(), wanted)
    close(scan.target(), combined(scan.kspace(), scan.maps()))
    assert scan.header["prewhitened"] is True

    given = np.diag([1.0, 4.0, 9.0])
    scan = ready(tmp_path / "a.h5", tmp_path / "other", covariance=given)
    close(scan.kspace(), kspace / np.array([1, 2, 3])[:, None, None])


def test_oversampling_of_the_readout_is_removed(tmp_path: Path):
    kspace = raw_kspace(slices=2, space=(80, 36))
    write_fastmri(tmp_path / "a.h5", kspace)
    scan = ready(tmp_path / "a.h5", tmp_path / "out")
    close(scan.kspace(), to_kspace(to_images(kspace)[..., 20:60, :]).astype(np.complex64))
    assert scan.shape == (2, 4, 40, 36)
    assert "oversampling" not in scan.header
    assert scan.header["repetition_time"] == 2750
    assert scan.target().shape == (2, 1, 40, 36)


def test_holes_along_an_oversampled_readout_stay_holes(tmp_path: Path):
    kspace, acquired = raw_kspace(slices=1, space=(80, 36)), np.ones((80, 1), np.float32)
    acquired[:10] = 0
    put(tmp_path / "a.h5", kspace * acquired, acquired=acquired)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["header"] = json.dumps({"oversampling": 2.0})
    scan = ready(tmp_path / "a.h5", tmp_path / "out")
    assert scan.acquired().flatten().tolist() == [0] * 5 + [1] * 35
    assert not scan.kspace()[..., :5, :].any()
    image = to_images(kspace * acquired)[..., 20:60, :]
    close(scan.kspace()[..., 5:, :], to_kspace(image)[..., 5:, :].astype(np.complex64))
    close(scan.target(), combined(scan.kspace(), scan.maps()))


@pytest.mark.parametrize("compression", ["svd", "geometric"])
def test_coils_are_compressed_and_the_energy_is_stated(tmp_path: Path, compression: str):
    kspace = raw_kspace(slices=2, coils=6)
    write_skm_tea(tmp_path / "a.h5", [kspace])  # 3D: compressed along the slices
    lines = [kspace] if compression == "svd" else [kspace[:1], kspace[1:]]
    kept = total = 0.0
    for part in lines:
        energies = np.linalg.svd(part.swapaxes(0, 1).reshape(6, -1), compute_uv=False) ** 2
        kept, total = kept + energies[:3].sum(), total + energies.sum()
    scan = ready(tmp_path / "a.h5", tmp_path / "out", coils=3, compression=compression)
    assert scan.shape == (2, 3, *SIZE)
    assert scan.header["energy_kept"] == pytest.approx(kept / total, abs=1e-5)
    energy = (np.abs(scan.kspace()) ** 2).sum() / (np.abs(kspace) ** 2).sum()
    assert scan.header["energy_kept"] == pytest.approx(energy, abs=1e-5)
    close(scan.target(), combined(scan.kspace(), scan.maps()))


def test_geometric_compression_of_slices_follows_their_readout(tmp_path: Path):
    kspace = raw_kspace(slices=1, coils=6)
    rows = to_images(kspace, (-2,))[0].transpose(1, 0, 2)
    energies = np.linalg.svd(rows, compute_uv=False) ** 2
    put(tmp_path / "a.h5", kspace)
    scan = ready(tmp_path / "a.h5", tmp_path / "out", coils=2, compression="geometric")
    wanted = energies[:, :2].sum() / energies.sum()
    assert scan.header["energy_kept"] == pytest.approx(wanted, abs=1e-5)


def test_a_loss_of_energy_is_warned_of_and_more_coils_than_there_are_do_no_harm(tmp_path: Path):
    put(tmp_path / "a.h5")
    settings = PrepareSettings(coils=1)
    (result,) = prepare(tmp_path / "a.h5", tmp_path / "out", settings, workers=1)
    assert result.energy < 0.95
    assert f"only {result.energy:.3f} of the energy kept" in result.note
    settings = PrepareSettings(coils=9)
    (result,) = prepare(tmp_path / "a.h5", tmp_path / "all", settings, workers=1)
    assert (result.energy, result.shape[1], result.note) == (1, 4, "")


def test_maps_of_a_3d_acquisition_are_estimated_in_3d_unless_told_otherwise(tmp_path: Path):
    kspace = raw_volume()
    write_bart(tmp_path / "a.cfl", kspace, volume=True)
    whole = torch.from_numpy(to_kspace(kspace.swapaxes(0, 1), (1,)).astype(np.complex64))
    wanted = espirit(whole[None], 12)[0].movedim(2, 0).numpy()
    scan = ready(tmp_path / "a.cfl", tmp_path / "out", calibration=12)
    np.testing.assert_allclose(scan.maps(), wanted, atol=1e-3)
    close(scan.target(), combined(scan.kspace(), scan.maps()))
    scan = ready(tmp_path / "a.cfl", tmp_path / "flat", calibration=12, volume=False)
    close(scan.maps(), espirit(torch.from_numpy(scan.kspace()), 12).numpy())


def test_a_cine_has_one_set_of_maps_for_all_frames(tmp_path: Path):
    kspace = np.stack([raw_kspace(seed=seed) for seed in range(3)], 2)
    put(tmp_path / "a.h5", kspace)
    scan = ready(tmp_path / "a.h5", tmp_path / "out", maps="low_resolution", crop="auto")
    assert scan.dynamic
    maps = low_resolution(torch.from_numpy(kspace.mean(2))).numpy()[:, :, :, None]
    close(scan.maps(), maps)
    close(scan.target(), combined(kspace, maps))


def test_an_undersampled_scan_has_maps_and_no_target(tmp_path: Path):
    columns = np.zeros(SIZE[1], dtype=np.float32)
    columns[::3] = 1
    columns[10:26] = 1
    put(tmp_path / "a.h5", raw_kspace() * columns)
    scan = ready(tmp_path / "a.h5", tmp_path / "out")
    assert scan.undersampled
    assert scan.target() is None
    assert scan.maps() is not None
    assert np.array_equal(scan.acquired(), columns[None])


def test_slices_without_an_object_are_listed(tmp_path: Path):
    write_bart(tmp_path / "a.cfl", raw_volume(slices=40)[:, :2], volume=True)
    settings = PrepareSettings(maps="low_resolution", crop=0.4)
    (result,) = prepare(tmp_path / "a.cfl", tmp_path / "out", settings, workers=1)
    scan = PreparedScan(result.path)
    empty = [n for n, image in enumerate(scan.target()) if not image.any()]
    assert scan.header["empty_slices"] == empty
    assert {0, 39} < set(empty) <= {0, 1, 2, 3, 36, 37, 38, 39}
    assert result.note == f"{len(empty)} slices without an object"


def failure(source: Path, out: Path, **settings) -> str:
    """Why the one bad scan failed; nothing may be left of it."""
    results = prepare(source, out, PrepareSettings(**settings), workers=1)
    (failed,) = [result for result in results if result.status == "failed"]
    assert not failed.path.is_file()
    assert not list(out.rglob(".*"))
    return failed.note


def test_bad_files_are_reported_and_the_others_are_prepared(tmp_path: Path):
    raw = tmp_path / "raw"
    good, infinite, empty = put(raw / "good.h5"), raw_kspace(), raw_kspace()
    infinite[1, 2, 3, 4] = np.nan
    empty[0] = 0
    put(raw / "infinite.h5", infinite)
    put(raw / "empty.h5", empty)
    put(raw / "few.h5", noise=normal(4, 3))
    put(raw / "flat.h5", raw_kspace(space=(40, 6)))
    put(raw / "complex.h5", np.abs(raw_kspace()))
    (raw / "short.h5").write_bytes(good.read_bytes()[:9000])
    results = prepare(raw, tmp_path / "out", workers=1)
    notes = {result.name: result.note for result in results if result.status == "failed"}
    reasons = {
        "infinite": "kspace[1]: holds NaN or infinity",
        "empty": "kspace[0]: all samples are zero",
        "few": "3 noise samples cannot tell",
        "flat": "slice 0: coil maps can be estimated only from",
        "complex": "expected complex",
        "short.h5": "is not a readable HDF5 file",
    }
    assert notes.keys() == reasons.keys()
    assert [name for name, reason in reasons.items() if reason not in notes[name]] == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.h5"]
    assert failure(raw / "few.h5", tmp_path / "one") == notes["few"]
    assert failure(raw / "short.h5", tmp_path / "one") == notes["short.h5"]


def test_a_covariance_that_fits_no_scan_is_said(tmp_path: Path):
    put(tmp_path / "a.h5")
    (result,) = prepare(tmp_path / "a.h5", tmp_path / "out", covariance=np.eye(3), workers=1)
    assert "of 4 x 4 coils, got (3, 3)" in result.note
    with pytest.raises(ValueError, match="covariance must be"):
        prepare(tmp_path / "a.h5", tmp_path / "out", covariance=np.ones(3))


def test_the_scans_of_one_file_are_named_as_those_of_a_folder(tmp_path: Path):
    path = tmp_path / "raw" / "knee.h5"
    path.parent.mkdir()
    write_skm_tea(path, [raw_kspace(), raw_kspace(seed=1)])
    for source in (path, path.parent):
        found = prepare(source, tmp_path / "out", workers=1)
        assert [scan.name for scan in found] == ["knee-echo1", "knee-echo2"]
    assert {scan.status for scan in found} == {"skipped"}


def test_raw_files_are_never_replaced(tmp_path: Path):
    raw = put(tmp_path / "raw" / "a.h5")
    before = raw.read_bytes()
    for out in (raw.parent, raw.parent / "new", tmp_path / "raw" / ".." / "raw"):
        with pytest.raises(DataError, match="must not lie among those they are made of"):
            prepare(raw.parent, out)
    with pytest.raises(DataError, match="must be a folder"):
        prepare(raw.parent, raw)
    with pytest.raises(DataError, match="no such file or folder"):
        prepare(tmp_path / "none", tmp_path / "out")
    (result,) = prepare(raw, raw.parent, workers=1)
    assert "a raw scan that would be replaced" in result.note
    other = put(tmp_path / "out" / "a.h5")
    (result,) = prepare(raw.parent, other.parent, workers=1)
    assert "not made by gleam prepare" in result.note
    assert raw.read_bytes() == other.read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maps": "walsh"}, "maps: choose from espirit, jsense, low_resolution, got 'walsh'"),
        ({"compression": "pca"}, "compression: choose from svd, geometric"),
        ({"coils": 0}, "coils must be at least 1, got 0"),
        ({"sets": 0}, "sets must be at least 1"),
        ({"calibration": 7}, "calibration must be at least 8"),
        ({"crop": 1.5}, "crop must be auto or lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        PrepareSettings(**settings)


def test_the_header_says_how_the_file_was_made(tmp_path: Path):
    raw = put(tmp_path / "a.h5")
    scan = ready(raw, tmp_path / "out", calibration=20)
    record = json.loads(scan.header["prepared"])
    assert record["settings"]["calibration"] == 20
    assert record["source"]["name"] == "a.h5"
    assert record["source"][".h5"][:2] == [raw.stat().st_size, raw.stat().st_mtime_ns]


def test_a_damaged_write_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gleam.data.prepare_scan as module

    write = module.write_scan

    def damaged(path: Path, *arrays, **options) -> None:
        write(path, *arrays, **options)
        with h5py.File(path, "r+") as file:
            file["target"][0, 0, 3, 3] += 1

    put(tmp_path / "a.h5")
    monkeypatch.setattr(module, "write_scan", damaged)
    assert "target is damaged: its checksum is" in failure(tmp_path / "a.h5", tmp_path / "out")


def test_callers_hear_of_every_scan(tmp_path: Path):
    put(tmp_path / "raw" / "a.h5")
    (tmp_path / "raw" / "b.h5").write_bytes(b"")
    counts: list[int] = []
    heard: list[Prepared] = []
    found = prepare(
        tmp_path / "raw", tmp_path / "out", workers=1, started=counts.append, done=heard.append
    )
    assert counts == [2]
    assert sorted(heard, key=lambda scan: scan.name) == found
    assert found[0].seconds > 0
