"""Tiny runs, and what two of them must have in common."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gleam
from gleam.checkpoint import read_checkpoint
from gleam.config import Config, load_config
from gleam.trainer import TrainingResult
from physics.brain import simulate_brain

SETTINGS: dict[str, Any] = {
    "seed": 7,
    "device": "cpu",
    "data": {
        "size": [32, 32],
        "coils": 3,
        "train": 3,
        "validate_on": 2,
        "test": 2,
        "mask": {"acceleration": 2, "calibration": 12},
    },
    "network": {"steps": 2, "features": 4},
    "training": {
        "iterations": 6,
        "learning_rate": 1e-3,
        "validate_every": 2,
        "save_every": 2,
    },
}
TIMES = (
    *("data_seconds", "step_seconds"),
    *("forward_seconds", "backward_seconds", "update_seconds"),
)


def settings(out: Path, **changes: Any) -> Config:
    return load_config({"out": out, **SETTINGS}, **changes)


def train(out: Path, resume: bool = False, quiet: bool = True, **changes: Any) -> TrainingResult:
    return gleam.train(settings(out, **changes), resume=resume, quiet=quiet)


def brain_kspace(seed: int = 0, size: int = 32, coils: int = 3) -> Tensor:
    """Fully sampled k-space ``(coils, y, x)`` of a simulated brain."""
    return simulate_brain(seed, (size, size), coils).kspace


def columns(width: int = 32, calibration: int = 12) -> np.ndarray:
    """A mask ``(1, x)``: the central columns and every third one beside them."""
    mask = np.zeros((1, width), dtype=bool)
    start = width // 2 - calibration // 2
    mask[:, start : start + calibration] = True
    mask[:, ::3] = True
    return mask


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock said."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def state(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, apart from where it lies."""
    content = read_checkpoint(path)
    return {k: v for k, v in content.items() if k not in ("config", "versions")}


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through dicts and lists; NaN equals NaN."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizers, schedulers, random state and metrics agree bit for bit."""
    for name in ("last.pt", "best.pt"):
        first, second = state(one / name), state(other / name)
        assert first.keys() == second.keys()
        different = [key for key in first if not equal(first[key], second[key])]
        assert different == [], f"{name} differs in {different}"
    assert records(one) == records(other)
