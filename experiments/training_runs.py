"""Trainings of the variants of a problem: each has its folder, is resumed, and is not repeated."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gleam
from experiments.memory_cost import comparable
from experiments.memory_problems import Problem
from experiments.memory_report import write_json
from experiments.provenance import provenance
from gleam.build import build_device, build_loaders
from gleam.config import Config, load_config
from gleam.data.workers import run_jobs
from gleam.evaluation import open_network, reconstructions
from gleam.metrics import evaluate_slice
from gleam.run_folder import RunFolderError
from gleam.strategies import InvertibilityError
from gleam.trainer import TrainingDiverged, TrainingResult


@dataclass(frozen=True)
class Run:
    """One training: a variant of a problem with a seed.

    Attributes:
        problem, variant: their names.
        config: complete, with seed and folder.
        test_seed: of the test scans.
    """

    problem: str
    variant: str
    config: Config
    test_seed: int

    @property
    def result(self) -> Path:
        """What is written when the run has ended."""
        return self.config.out / "result.json"

    @property
    def label(self) -> str:
        """For a line of progress."""
        return f"{self.problem} {self.variant}, seed {self.config.seed}"

    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        return {"test_seed": self.test_seed, **comparable(self.config)}


def runs_of(name: str, problem: Problem, folder: Path) -> list[Run]:
    """The runs of a problem; a seed's come together, so that a comparison is soon complete."""
    return [
        Run(
            name,
            variant,
            load_config(config, seed=seed, out=folder / "runs" / name / variant / str(seed)),
            config.seed,
        )
        for seed in problem.seeds
        for variant, config in problem.configs.items()
        if problem.trained_as[variant] == variant
    ]


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Train and test what has no result yet.

    Raises:
        RunFolderError: if a result was made with other settings.
        RuntimeError: when all have ended, if some failed.
    """
    left = [run for run in runs if not has_result(run)]
    failed: list[str] = []
    ended = 0

    def done(number: int, error: str | None) -> None:
        nonlocal ended
        ended += 1
        what = "its process died; was there too little memory?" if error is None else error
        if what:
            failed.append(f"{left[number].label}: {what}")
        seconds = time.monotonic() - start
        left_over = seconds / ended * (len(left) - ended)
        print(
            f"[{ended}/{len(left)}] {left[number].label}: {what or 'done'} "
            f"({seconds / 60:.1f} min, about {left_over / 60:.0f} min left)",
            flush=True,
        )

    start = time.monotonic()
    run_jobs(train_and_test, left, jobs, done)
    if failed:
        raise RuntimeError("some runs failed:\n" + "\n".join(failed))


def train_and_test(run: Run) -> str:
    """Train, or go on, and write the metrics of every test case; returns why that failed, or ""."""
    try:
        trained = finished(gleam.train(run.config, resume=True, quiet=True))
    except (TrainingDiverged, InvertibilityError) as error:
        return str(error)
    device = build_device(run.config.device)
    network, _ = open_network(trained.best, run.config.device)
    loader = build_loaders(run.config.data, run.test_seed)["test"]
    cases = [
        {"scan": example.scan, **evaluate_slice(image, example.target)}
        for example, _, image in reconstructions(network, loader, device)
    ]
    write_json(
        run.result,
        {
            "seed": run.config.seed,
            "validation_psnr": trained.psnr,
            "seconds": training_seconds(trained.folder),
            "cases": cases,
            "settings": run.settings(),
            "provenance": provenance(),
        },
    )
    return ""


def finished(trained: TrainingResult) -> TrainingResult:
    """The same, unless a signal stopped it: the trainer took it, saved and came back.

    Raises:
        KeyboardInterrupt: to end now as the signal meant to.
    """
    if not trained.finished:
        if multiprocessing.parent_process() is not None:
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt
    return trained


def training_seconds(folder: Path) -> float:
    """That the steps of a training took in all; data and validation not counted."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line).get("step_seconds", 0.0) for line in lines)


def has_result(run: Run) -> bool:
    """Whether a run has ended.

    Raises:
        RunFolderError: if it was made with other settings.
    """
    if not run.result.exists():
        return False
    saved = json.loads(run.result.read_text(encoding="utf-8"))["settings"]
    test_seed = saved.pop("test_seed")
    # Read as a configuration, so that settings that are newer than the result have their defaults.
    before = {"test_seed": test_seed, **comparable(load_config(saved))}
    if changed := _differences(before, run.settings()):
        raise RunFolderError(
            f"{run.result} was made with other settings: {'; '.join(changed)}. Remove "
            f"{run.config.out}, or choose another folder with out=... (--out)"
        )
    return True


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(f"{key}.{k}".lstrip("."), before.get(k), now.get(k)) for k in {**before, **now}]
        return [text for k, a, b in pairs for text in _differences(a, b, k)]
    return [] if before == now else [f"{key} was {before}, is now {now}"]
