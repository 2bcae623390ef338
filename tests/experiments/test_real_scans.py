"""Networks on real scans: how these are read and undersampled, and what is said of them."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy.io import savemat

import gleam
import gleam.evaluation
from experiments import real_data, real_scans, real_settings
from experiments.real_report import compare
from experiments.real_settings import Setting, Trained
from gleam.baselines import best_weight
from gleam.build import build_network
from gleam.checkpoint import save_checkpoint
from gleam.config import dump_config
from gleam.data.estimate import estimate_maps
from gleam.data_config import DataConfig
from physics.fourier import ifft
from physics.masks import acceleration, calibration_size, draw_mask
from tests.gleam import tiny

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GLEAM_TEST_DATA", ROOT.parent / "shared" / "data"))
SIZE, CALIBRATION = 56, 12
MASK = {"acceleration": [3, 4], "calibration": CALIBRATION}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with the layout of the real ones, and small."""
    folder = tmp_path_factory.mktemp("scans")
    coils = ifft(tiny.brain_kspace(4, SIZE, coils=4)).movedim(0, -1).to(torch.complex128)
    savemat(folder / "mc_brain_T2_4ch.mat", {"img": coils.numpy()})
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    disc = (y**2 + x**2 < 0.6) * (1 + 0.5 * np.cos(9 * x) * np.cos(7 * y))
    chests = np.stack([disc * (1 + n * (x > 0.1)) for n in range(5)]).astype(np.float32)
    names = np.array([f"data/im-{n:02d}.mat" for n in range(5)])
    np.savez(folder / "chest_brain_admmnet_256.npz", img=chests, path=names)
    head = np.round(100 * disc[:, 4:-4, None] * np.linspace(0.5, 1, 16)).astype(np.uint8)
    image = nibabel.Nifti1Image(head.swapaxes(0, 1), np.eye(4))
    nibabel.save(image, folder / "vol_FLAIR_1mm.nii.gz")
    return folder


def save_network(path: Path, **data: Any) -> Path:
    """A checkpoint of a network with random weights, which say that it was trained on such data."""
    config = tiny.settings(path.parent, data=data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build_network(config.network, config.data)
        for values in network.parameters():
            values.data += 0.05 * torch.randn_like(values)
    content = {"config": json.dumps(dump_config(config)), "network": network.state_dict()}
    save_checkpoint(path, {**content, "iteration": 1, "strategy": {}, "progress": {}, "random": {}})
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One for slices and one for volumes."""
    out = tmp_path_factory.mktemp("runs")
    points = {"kind": "poisson_disc", "acceleration": 4, "calibration": CALIBRATION}
    volumes = {"items": "volumes", "size": [32, 32, 32], "map_method": "low_resolution"}
    return {
        "flat": save_network(out / "flat.pt", mask=MASK),
        "deep": save_network(out / "deep.pt", mask=points, **volumes),
    }


@pytest.fixture(scope="module")
def report(folder: Path, networks: dict[str, Path], tmp_path_factory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_data, "BRAIN_MASKS", 2)
        patch.setattr(real_data, "HEAD_SLICES", 1)
        patch.setattr(real_data, "CHEST_SLICES", 1)
        patch.setattr(real_data, "PLANES", 8)
        patch.setattr(gleam.evaluation, "L1_WEIGHTS", (0.01,))
        patch.setattr(gleam.evaluation, "best_weight", partial(best_weight, iterations=10))
        out = tmp_path_factory.mktemp("results")
        return {"out": out, **real_scans.run(folder, networks, out)}


def test_only_the_brain_with_its_own_coils_is_not_called_simulated(report: dict[str, Any]):
    names = {row["data_set"] for row in report["cases"]}
    assert names == set(real_data.FILES)
    for name in names:
        assert ("simulated coils and phase" in name) == (name != "T2 brain")
    text = (report["out"] / "real_scans.md").read_text(encoding="utf-8")
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    shown = [line for line in tables if "chest" in line or "FLAIR" in line]
    assert shown
    assert all("simulated coils and phase" in line for line in shown)
    assert "weights, chosen\n  with the reference in sight" in text
    assert "commit " in text


def test_every_method_has_a_row_for_each_case_and_every_data_set_a_picture(report: dict[str, Any]):
    rows = [row for row in report["cases"] if row["data_set"] == real_data.T2]
    for name in ("zero-filled", "CG-SENSE", "L1-wavelet", "flat"):
        found = [(r["case"], r["mask"]) for r in rows if r["method"] == name]
        assert len(found) == len(set(found)) == 2 * 2
    assert {row["method"] for row in rows if row["learned"]} == {"flat"}
    slab = [row for row in report["cases"] if row["data_set"] == real_data.SLAB]
    assert [row["method"] for row in slab if row["learned"]] == ["deep"]
    assert {row["mask"] for row in slab} == {
        "poisson disc R = 4, calibration 12, maps by low resolution"
    }
    for name in real_data.FILES.values():
        assert (report["out"] / f"real_scans_{name}.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((report["out"] / "real_scans.json").read_text(encoding="utf-8"))
    assert written == {key: value for key, value in report.items() if key != "out"}


def test_the_zero_filled_psnr_is_that_of_an_independent_computation(
    report: dict[str, Any], folder: Path
):
    from scipy.io import loadmat

    coils = loadmat(folder / "mc_brain_T2_4ch.mat")["img"].transpose(2, 0, 1)
    shift = {"axes": (-2, -1)}
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coils, **shift)), **shift) / SIZE
    mask = draw_mask("random_columns", (SIZE, SIZE), 3, CALIBRATION, seed=1).numpy()
    measured = torch.from_numpy(kspace * mask).to(torch.complex64)
    maps = estimate_maps(measured[None], calibration=CALIBRATION)[0, 0].numpy()

    def combine(samples: np.ndarray) -> np.ndarray:
        images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(samples, **shift)), **shift) * SIZE
        return (maps.conj() * images).sum(0)

    reference, image = combine(kspace), combine(kspace * mask)
    error = np.sqrt(np.mean(np.abs(image - reference) ** 2))
    expected = 20 * np.log10(np.abs(reference).max() / error)
    (row,) = [
        r
        for r in report["cases"]
        if r["data_set"] == real_data.T2 and r["case"] == "mask 1"
        if r["mask"].startswith("random columns R = 3") and r["method"] == "zero-filled"
    ]
    assert row["psnr"] == pytest.approx(expected, abs=1e-3)
    assert row["true_acceleration"] == pytest.approx(mask.size / mask.sum())


@pytest.mark.parametrize("name", ["flat", "deep"])
def test_networks_reconstruct_as_they_do_for_a_user(
    name: str, networks: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(real_scans, "reconstruct_classically", lambda batch: {})
    trained = Trained.open(name, networks[name])
    case = real_data.slab(folder) if name == "deep" else next(iter(real_data.slices(folder)))
    setting = trained.settings[0]
    images, _, _ = real_scans.reconstruct_all(case, setting, [trained])
    mask = setting.draw(tuple(case.kspace.shape[1:]), case.seed)
    expected = gleam.reconstruct(networks[name], case.kspace * mask)
    torch.testing.assert_close(images[name][0], expected)


def settings_for(**mask: Any) -> list[Setting]:
    return list(real_settings.settings_for(DataConfig(mask=mask)))


def test_masks_are_the_standard_ones_within_what_a_network_was_trained_for():
    kinds = ["equispaced_columns", "random_columns", "poisson_disc"]
    found = settings_for(kind=kinds, acceleration=[2, 3, 5, 8], calibration=8)
    assert [(setting.kind, setting.acceleration) for setting in found] == [
        ("random_columns", 3),
        ("random_columns", 4),
        ("poisson_disc", 4),
        ("poisson_disc", 8),
    ]
    for setting in found:
        mask = setting.draw((48, 40), 2)
        assert acceleration(mask) == pytest.approx(setting.acceleration, abs=0.11)
        assert min(calibration_size(mask, (48, 40))) == 8
        assert (mask.shape[0] == 1) == (setting.kind == "random_columns")
    assert settings_for(acceleration=[3.5, 5], calibration=0.2) == [
        Setting("random_columns", 4, 0.2)
    ]


def test_a_network_that_no_standard_mask_fits_is_tested_with_its_own():
    found = settings_for(kind="uniform_random", acceleration=[9, 5, 7])
    assert found == [Setting("uniform_random", n, 24) for n in (5, 9)]
    (only,) = settings_for(acceleration=6, partial_fourier=0.75)
    assert str(only) == "random columns R = 6, calibration 24, partial Fourier 0.75"
    assert float(only.draw((8, 160), 0)[..., 120:].sum()) == 0


def test_networks_for_which_there_are_no_data_are_refused(tmp_path: Path):
    data = {"anatomy": "heart", "items": "cines", "size": [4, 32, 32]}
    beat = save_network(tmp_path / "beat.pt", **data)
    with pytest.raises(ValueError, match="beat must reconstruct slices or volumes"):
        Trained.open("beat", beat)
    with pytest.raises(ValueError, match="at least one checkpoint"):
        real_scans.run(tmp_path, {}, tmp_path)


def test_differences_are_paired_and_with_the_best_classical_method():
    def rows(method: str, psnr: list[float]) -> list[dict[str, Any]]:
        facts = {"data_set": real_data.CHEST, "mask": "m", "method": method}
        learned = method == "network"
        return [{**facts, "learned": learned, "psnr": p, "ssim": p / 100} for p in psnr]

    table = rows("a", [30, 20, 31]) + rows("b", [29, 26, 31]) + rows("network", [31, 25, 34])
    (found,) = compare(table)
    assert (found["method"], found["best_classical"], found["better"]) == ("network", "b", 2)
    assert found["psnr"]["mean"] == pytest.approx(4 / 3)
    assert found["psnr"]["std"] == pytest.approx(np.std([2, -1, 3], ddof=1))
    assert found["ssim"]["mean"] == pytest.approx(4 / 300)


def test_a_simulated_chest_is_the_magnitude_seen_by_coils_with_phase_and_noise(folder: Path):
    magnitude = real_data.read_chests(folder)[1]
    kspace = real_data.simulate_chest(magnitude, 1)
    images = ifft(kspace)
    level = np.percentile(magnitude[magnitude > magnitude.mean()], 95)
    root = images.abs().square().sum(0).sqrt().numpy()
    inside = magnitude > 0.5 * level
    np.testing.assert_allclose(root[inside], magnitude[inside] / level, rtol=0.12)
    air = images[:, torch.from_numpy(magnitude == 0)]
    assert float(air.real.std()) == pytest.approx(1 / real_data.SNR, rel=0.1)
    assert float(images[:, inside].angle().std()) > 0.1
    assert not torch.equal(kspace, real_data.simulate_chest(magnitude, 2))
    assert torch.equal(kspace, real_data.simulate_chest(magnitude, 1))


@pytest.mark.skipif(not (DATA / "vol_FLAIR_1mm.nii.gz").exists(), reason="no real scans here")
def test_real_files_give_the_stated_cases():
    cases = [*real_data.slices(DATA), real_data.slab(DATA)]
    shapes = [tuple(case.kspace.shape) for case in cases]
    assert shapes[:3] == [(4, 256, 256)] * 3
    assert shapes[3:7] == [(8, 232, 176)] * 4
    assert shapes[7:] == [(8, 256, 256)] * 6 + [(8, 16, 232, 176)]
    assert [case.name for case in cases if case.pictured] == [
        "mask 1",
        "slice 93",
        "slice 50",
        "planes 71 to 86",
    ]
    for case in cases:
        assert case.kspace.dtype == torch.complex64
        centre = case.kspace[..., 78:178, 50:150].abs().square().sum()
        assert centre > 0.5 * case.kspace.abs().square().sum()
