"""Networks that ship are trained, measured, exported and described; here a tiny one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import gleam
import gleam.evaluation
from experiments import pretrain, real_brain
from gleam.config import load_config
from gleam.shipped import read_weights
from tests.gleam import tiny
from tests.helpers import weights_of


def scores(network: float, wavelet: float) -> Any:
    return {"network": {"psnr": {"mean": network}}, "L1-wavelet": {"psnr": {"mean": wavelet}}}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny network instead of the one that ships, and few cases."""
    mixed = {"anatomy": ["brain", "knee"], "coils": [2, 3], "train": 4}
    mask = {"kind": ["random_columns", "uniform_random"], "acceleration": [2, 2.5]}
    data = {**tiny.SETTINGS["data"], **mixed, "mask": {**mask, "calibration": 12}}
    values = {**tiny.SETTINGS, "data": data, "out": "runs/tiny-2d"}
    (tmp_path / "tiny-2d.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(pretrain, "CONFIGS", tmp_path)
    monkeypatch.setattr(pretrain, "ACCELERATIONS", (2,))
    monkeypatch.setattr(pretrain, "MATRICES", (32, 36))
    monkeypatch.setattr(pretrain, "SNRS", (20,))
    monkeypatch.setattr(pretrain, "AT", {"test": 1, "mask": {"acceleration": 2}})
    monkeypatch.setattr(real_brain, "ACCELERATIONS", (2,))
    monkeypatch.setattr(real_brain, "MASK_SEEDS", range(2))
    monkeypatch.setattr(real_brain, "CALIBRATION", 12)
    monkeypatch.setattr(pretrain, "read_brain", lambda folder: tiny.brain_kspace(4, size=40))
    monkeypatch.setattr(gleam.evaluation, "L1_WEIGHTS", (0.01,))
    return values


def test_a_network_is_trained_measured_exported_and_described(
    settings: dict[str, Any], tmp_path: Path, monkeypatch, capsys
):
    out, weights = tmp_path / "runs", tmp_path / "weights"
    path = pretrain.run("tiny-2d", out, weights, tmp_path)
    assert path == weights / "tiny-2d.safetensors"
    best = out / "tiny-2d" / "best.pt"
    assert all(map(torch.equal, weights_of(gleam.load(path)), weights_of(gleam.load(best))))
    content = read_weights(path)
    assert str(tmp_path) not in str(content)
    assert load_config(yaml.safe_load(content["config"])) == load_config(settings)
    assert content["limits"]["acceleration"] == [2, 2.5]
    assert content["limits"]["coils"] == [2, 3]
    card = (weights / "tiny-2d.md").read_text()
    wanted = gleam.evaluate(
        best, {"anatomy": "knee", "test": 1, "mask": {"acceleration": 2}}, baselines=True
    ).summary
    row = next(line for line in card.splitlines() if line.startswith("| knee, R = 2 |"))
    for method in ("zero-filled", "CG-SENSE", "L1-wavelet", "network"):
        assert f"{wanted[method]['psnr']['mean']:.2f} ±" in row
    for word in ("no medical device", "brain, knee", "2, 3 coils", "| R = 2 |", "commit "):
        assert word in card

    capsys.readouterr()
    monkeypatch.setattr(pretrain, "_simulated", lambda *_: pytest.fail("was measured again"))
    assert pretrain.run("tiny-2d", out, weights) == path
    assert capsys.readouterr().out.count(": ") == 0
    assert "| R = 2 |" in (weights / "tiny-2d.md").read_text()  # what is known of the real brain

    deep = {**settings, "network": {"steps": 4, "features": 4}, "grown_from": str(path)}
    deep["strategy"] = {"name": "greedy", "modules": 2, "frozen": 2}
    (tmp_path / "tiny-deep.yaml").write_text(yaml.safe_dump(deep))
    monkeypatch.setattr(pretrain, "measure", lambda *_: {"matrix": {}})
    grown = weights_of(gleam.load(pretrain.run("tiny-deep", out, weights)))
    assert all(map(torch.equal, weights_of(gleam.load(path)), grown))
    assert f"It is {path} with further steps, which alone were trained as 2 greedy modules" in (
        (weights / "tiny-deep.md").read_text()
    )


def test_other_weights_are_measured_anew(settings: dict[str, Any], tmp_path: Path, monkeypatch):
    config = load_config(settings)
    monkeypatch.setattr(pretrain, "_simulated", lambda best, _: best.read_text())
    for text in ("first", "second"):
        (tmp_path / "best.pt").write_text(text)
        found = pretrain.measure(tmp_path / "best.pt", config, tmp_path / "results.json")
        assert {line for lines in found.values() for line in lines.values()} == {text}


def test_the_matrix_reaches_as_far_as_the_wavelet_is_beaten_without_a_gap():
    config = load_config({"data": {"size": [128, 160], "mask": {"acceleration": [2, 6]}}})
    better = {64: True, 96: False, 112: True, 140: False, 192: True, 256: True, 300: False}
    better[400] = True
    lines = {f"{n} x {n}": scores(30.0 + wins, 30.5) for n, wins in better.items()}
    limits = pretrain.limits_of(config, {"matrix": lines})
    assert limits["matrix"] == [112, 256]
    assert limits["acceleration"] == [2, 6]
    assert limits["coils"] == [8, 8]
    assert limits["SNR"] == [33, 500]


def test_a_training_that_was_stopped_exports_nothing(tmp_path: Path, monkeypatch, settings):
    stopped = gleam.trainer.TrainingResult(tmp_path, tmp_path, tmp_path, 3, 0.0, False, ())
    monkeypatch.setattr(pretrain.gleam, "train", lambda *_, **__: stopped)
    assert pretrain.run("tiny-2d", tmp_path, tmp_path / "weights") is None
    assert not (tmp_path / "weights").exists()
