"""The experiment on depth: stages hang together, numbers are those of the networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import gleam
from experiments import depth
from experiments.depth_report import summarise
from experiments.memory_problems import SETTINGS, read_problems
from gleam.build import build_loaders
from gleam.config import load_config
from gleam.evaluation import evaluate_network
from gleam.run_folder import RunFolderError

TINY = {
    "seeds": [1, 2],
    "depths": [4, 8],
    "repeats": 2,
    "config": {
        "seed": 1000,
        "device": "cpu",
        "data": {
            "anatomy": "knee",
            "size": [32, 32],
            "coils": 3,
            "train": 2,
            "validate_on": 1,
            "test": 2,
            "mask": {"acceleration": 2, "calibration": 12},
        },
        "network": {"steps": 2, "features": 4},
        "strategy": {"modules": 1},
        "training": {"iterations": 2, "validate_every": 1},
    },
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "depth.yaml"
    path.write_text(yaml.safe_dump({"presets": {"tiny": TINY}}))
    return path


@pytest.fixture(scope="module")
def folder(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    depth.run("tiny", out=folder, publish=folder / "published", settings=settings)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_quality_after_so_many_steps_is_that_of_the_network_grown_so_far(folder: Path):
    loader = build_loaders(load_config(TINY["config"]).data, 1000)["test"]
    for number, seed in enumerate((1, 2)):
        for name, kind, steps in (
            *((str(steps), "greedy", steps) for steps in (2, 4, 8)),
            ("end-to-end", "end-to-end", 2),
        ):
            network = gleam.load(folder / "runs" / str(seed) / name / "best.pt")
            assert len(network.steps) == steps
            slices = evaluate_network(network, loader, torch.device("cpu")).slices["network"]
            found = read(folder / "results.json")["psnr"][kind][number]
            assert [case[steps] for case in found] == pytest.approx([s["psnr"] for s in slices])


def test_memory_is_constant_as_a_network_grows_and_end_to_end_it_is_not(folder: Path):
    rows = read(folder / "results.json")["rows"]
    assert [row["steps"] for row in rows] == [2, 4, 8]
    first, second, third = (row["activations_bytes"] for row in rows)
    assert second == pytest.approx(third, rel=1e-3)  # a few numbers of reports differ
    assert second == pytest.approx(first, rel=0.05)
    other = [row["end_to_end_activations_bytes"] for row in rows]
    assert other[0] == pytest.approx(first)
    assert other[2] > 2.5 * other[0]


def test_nothing_is_trained_twice_and_other_settings_are_refused(
    folder: Path, settings: Path, tmp_path: Path
):
    paths = sorted(folder.rglob("*.pt"))
    before = [path.stat().st_mtime_ns for path in paths]
    costs = read(folder / "cost.json")
    depth.run("tiny", out=folder, settings=settings)
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert read(folder / "cost.json") == costs
    (folder / "runs" / "2" / "result.json").unlink()  # as if stopped before the test
    depth.run("tiny", out=folder, settings=settings)
    assert [path.stat().st_mtime_ns for path in paths] == before
    other = {**TINY, "depths": [4]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"presets": {"tiny": other}}))
    with pytest.raises(RunFolderError, match="made with other settings"):
        depth.run("tiny", out=folder, settings=tmp_path / "other.yaml")


def test_the_report_is_published_with_its_figure(folder: Path):
    published = folder / "published"
    assert {p.name for p in published.iterdir()} == {
        f"depth_tiny.{e}" for e in ("md", "json", "png")
    }
    text = (published / "depth_tiny.md").read_text()
    assert "![PSNR after each step](depth_tiny.png)" in text
    assert "in modules of 2" in text
    assert "seeds [1, 2]" in text


def test_means_and_spreads_are_those_over_cases_and_seeds():
    base = load_config(TINY["config"])
    psnr = np.arange(2 * 3 * 5, dtype=float).reshape(2, 3, 5) ** 1.5  # seeds, cases, steps + 1
    measured = {"parts": {"activations": 1}, "peak_bytes": 2, "seconds": [3.0], "source": "here"}
    cost = {"repeats": 1, "provenance": {"commit": "a"}}
    cost["measured"] = {f"{k} {n}": measured for k in ("greedy", "end-to-end") for n in (2, 4)}
    results = [
        {
            "seed": seed,
            "psnr": {"greedy": psnr[seed].tolist(), "end-to-end": psnr[seed, :, :3].tolist()},
            "seconds": {"2": 1.0, "4": 2.0 + seed, "end-to-end": 1.0},
            "provenance": {"commit": "a"},
        }
        for seed in range(2)
    ]
    report = summarise("tiny", base, [4], results, cost)
    row = report["rows"][1]
    gains = psnr[:, :, 4] - psnr[:, :, 2]
    assert row["gain_mean"] == pytest.approx(gains.mean())
    assert row["gain_std_cases"] == pytest.approx(gains.mean(0).std(ddof=1))
    assert row["psnr_std_seeds"] == pytest.approx(psnr[:, :, 4].mean(1).std(ddof=1))
    assert row["training_seconds"] == 2.5
    assert report["by_step"]["greedy"]["mean"] == pytest.approx(psnr.mean((0, 1)))
    assert report["end_to_end"]["psnr_mean"] == pytest.approx(psnr[:, :, 2].mean())
    assert report["provenance"] == {"commit a": 2}


def test_the_small_preset_starts_as_the_benchmark_of_memory_does():
    growth = depth.Growth.model_validate(
        yaml.safe_load(depth.SETTINGS.read_text())["presets"]["small"]
    )
    theirs = read_problems(SETTINGS, "full", ["knee2d"])["knee2d"].configs["greedy-4x2"]
    assert growth.base == theirs
    assert growth.depths == [16, 24, 32, 48, 64]
