"""The demonstration: simulate, train greedily, evaluate, show."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml
from rich.console import Console

from gleam.evaluation import evaluate
from gleam.report import print_table, write_report
from gleam.trainer import train


def run_demo(out: Path, seed: int, resume: bool, console: Console) -> None:
    """Train the demo network and compare it with classical reconstructions.

    Args:
        out: folder of the run; must not hold another.
        seed: of the simulated brains, their masks and the first weights.
        resume: go on with a demonstration that was stopped.
        console: where to print.
    """
    settings = yaml.safe_load((files("gleam") / "configs" / "demo.yaml").read_text("utf-8"))
    result = train(settings, resume=resume, out=out, seed=seed)
    if not result.finished:
        return
    evaluation = evaluate(result.best, baselines=True)
    print_table(evaluation, console)
    console.print(
        "the weights of L1-wavelet and total variation are for each slice the best of several, "
        "chosen by its PSNR"
    )
    for path in [*write_report(evaluation, out / "evaluation"), out / "curves.png"]:
        console.print(f"wrote {path}")
