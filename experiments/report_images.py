"""Images and learning curves of a problem's runs, as parts of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.memory_report import Row
from experiments.report_blocks import Block, Fold, Frames, Picture, Slider, Text
from experiments.report_figures import shrink, write_frames
from experiments.report_results import Results


def images_of(results: Results, name: str, figures: Path, stem: str) -> list[Block]:
    """Of one network trained end to end and one greedy, with the first seed."""
    pair = comparison_of(results.problems[name])
    first = {variant: results.runs(name, variant)[0] for variant in pair}
    frames = [_frames(variant, run, figures, stem) for variant, run in first.items()]
    reference = np.load(next(iter(first.values())) / "anytime.npz")["reference"]
    path = write_frames(reference[None], figures / f"{stem}_reference.webp")
    seed = f"seed of training {results.problems[name]['seeds'][0]}"
    blocks: list[Block] = [
        Text(f"A test case, the median of the zero-filled images, step by step; {seed}:"),
        Slider([Frames("reference", path, reference.shape), *frames]),
    ]
    for variant, run in first.items():
        target = figures / f"{stem}_{variant}_images.webp"
        blocks += [
            Text(f"The worst, median and best test case of {variant}; {seed}:"),
            Picture(shrink(run / "images.png", target), f"{name}, {variant}: test cases"),
        ]
    return [
        *blocks,
        Fold(f"Learning curves of {name}; {seed}", _curves(results, name, figures, stem)),
    ]


def _curves(results: Results, name: str, figures: Path, stem: str) -> list[Block]:
    """Of every variant that was trained."""
    trained = [
        row["variant"]
        for row in results.problems[name]["rows"]
        if row["trained_as"] == row["variant"]
    ]
    return [
        Picture(
            shrink(
                results.runs(name, variant)[0] / "curves.png",
                figures / f"{stem}_{variant}_curves.webp",
            ),
            f"{name}, {variant}: loss of every module, and validation",
        )
        for variant in trained
    ]


def _frames(variant: str, run: Path, figures: Path, stem: str) -> Frames:
    images = np.load(run / "anytime.npz")["images"]
    anytime = read_json(run / "anytime.json")
    path = write_frames(images, figures / f"{stem}_{variant}_steps.webp")
    return Frames(variant, path, images.shape[1:], anytime["case_psnr"], anytime["ends"])


def comparison_of(problem: Row) -> list[str]:
    """The deepest variant trained end to end, and the greedy one its memory allows, or the best."""
    plain = [row for row in problem["rows"] if row["strategy"] == "backprop"]
    greedy = [row for row in problem["rows"] if row["strategy"] == "greedy"]
    if not plain or not greedy:
        return [problem["rows"][0]["variant"]]
    deepest = max(plain, key=lambda row: row["steps"])["variant"]
    best = max(greedy, key=lambda row: row["validation_psnr"])["variant"]
    fitting = [
        claim["variant"]
        for claim in problem["claims"]
        if claim["title"].startswith("Same activation memory") and claim["against"] == deepest
    ]
    return [deepest, next(iter(filter(None, fitting)), best)]


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
