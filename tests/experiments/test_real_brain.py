"""The experiment on a real brain: how it is read and undersampled; no training here."""

import os
from pathlib import Path

import pytest
import torch

import gleam.evaluation
import gleam.inputs
from experiments import real_brain
from gleam.config import load_config
from gleam.metrics import evaluate_slice, summarise
from physics.fourier import ifft
from physics.masks import acceleration, calibration_size, random_columns
from tests.gleam import tiny

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GLEAM_TEST_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "mc_brain_T2_4ch.mat").exists(), reason="the real brain is not here"
)


@needs_data
def test_the_brain_is_read_coils_first_as_centred_kspace():
    from scipy.io import loadmat

    kspace = real_brain.read_brain(DATA)
    assert kspace.shape == (4, 256, 256)
    assert kspace.dtype == torch.complex64
    images = torch.from_numpy(loadmat(DATA / "mc_brain_T2_4ch.mat")["img"]).movedim(-1, 0)
    assert torch.allclose(ifft(kspace), images.to(torch.complex64), atol=1e-5)
    centre = kspace[:, 118:138, 118:138].abs().square().sum()
    assert centre > 0.5 * kspace.abs().square().sum()


@pytest.mark.parametrize("factor", real_brain.ACCELERATIONS)
def test_masks_have_the_stated_acceleration_and_calibration(factor: int):
    for seed in real_brain.MASK_SEEDS:
        mask = random_columns((256, 256), factor, real_brain.CALIBRATION, seed)
        assert acceleration(mask) == pytest.approx(factor, rel=0.01)
        assert calibration_size(mask, (256, 256))[1] >= real_brain.CALIBRATION


def test_every_method_reconstructs_in_the_units_of_the_reference(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(real_brain, "RUNS", tmp_path)
    monkeypatch.setattr(real_brain, "CALIBRATION", 12)
    monkeypatch.setattr(gleam.evaluation, "L1_WEIGHTS", (0.01,))
    for strategy in real_brain.STRATEGIES:
        tiny.train(tmp_path / strategy, strategy=strategy)
    kspace = 1e-3 * tiny.brain_kspace(4, size=40)
    mask = random_columns((40, 40), 2, 12, seed=0)
    images, reference = real_brain.reconstruct_all(kspace, mask)
    methods = ["zero-filled", "CG-SENSE", "L1-wavelet", "total variation", *real_brain.STRATEGIES]
    assert list(images) == methods
    for image in images.values():
        assert image.shape == reference.shape == (40, 40)
        assert evaluate_slice(image, reference)["nrmse"] < 0.5


def test_both_strategies_train_with_the_same_valid_settings(monkeypatch):
    asked = []
    monkeypatch.setattr(real_brain.gleam, "train", lambda *a, **named: asked.append((a, named)))
    for strategy in real_brain.STRATEGIES:
        real_brain.train(strategy)
    configs = [
        load_config(a[0], **{k: v for k, v in named.items() if k != "resume"}) for a, named in asked
    ]
    assert [config.strategy.name for config in configs] == list(real_brain.STRATEGIES)
    same = [config.model_dump(exclude={"out", "strategy"}) for config in configs]
    assert same[0] == same[1]
    assert configs[0].data.path is None  # simulated brains only


def test_the_table_lists_every_acceleration_and_method():
    rows = [{"psnr": 30.0, "ssim": 0.9, "nrmse": 0.1}, {"psnr": 32.0, "ssim": 0.92, "nrmse": 0.08}]
    tables = {factor: {"greedy": summarise(rows)} for factor in real_brain.ACCELERATIONS}
    text = real_brain._markdown(tables)
    for factor in real_brain.ACCELERATIONS:
        row = f"| {factor} | greedy | 31.00 ± 1.41 | 0.9100 ± 0.0141 | 0.0900 ± 0.0141 |"
        assert row in text
    assert "commit " in text
    assert "saw simulated brains only" in text
