"""Memory against image quality: every training strategy on the same problem.

    python -m experiments.memory_vs_psnr --preset quick|full|tuning [--problem knee2d knee3d]
        [--jobs 2] [--out FOLDER] [--remeasure] [--publish]

A preset holds problems, a problem a configuration of its own, variants of it and seeds. Variants
may change the network, the strategy and the learning rate, nothing else: for one seed, all train on
the same scans in the same order under the same masks, for as many iterations, with the same
optimizer. The seed decides first weights, training and validation scans; the test scans and their
masks are the same for all seeds and belong to the seed in the problem's configuration.

Every run has its folder, goes on where it was stopped, and is not repeated once its result is
there. Costs are measured after the training, in one process with one thread, all variants in turn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gleam
from experiments.memory_cost import comparable, measure_problem
from experiments.memory_problems import SETTINGS, Problem, read_problems
from experiments.memory_report import summarise_problem, write_json, write_report
from experiments.provenance import RESULTS, provenance
from gleam.build import build_device, build_loaders
from gleam.config import Config, load_config
from gleam.data.workers import run_jobs
from gleam.evaluation import open_network, reconstructions
from gleam.metrics import evaluate_slice
from gleam.run_folder import RunFolderError
from gleam.strategies import InvertibilityError
from gleam.trainer import TrainingDiverged

RUNS = Path("runs/memory_vs_psnr")


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


def run(
    preset: str = "quick",
    *,
    problems: Sequence[str] | None = None,
    out: Path | None = None,
    jobs: int = 2,
    remeasure: bool = False,
    publish: Path | None = None,
    settings: Path = SETTINGS,
) -> dict[str, Any]:
    """Train, test, measure and report; goes on where it was stopped.

    Args:
        preset: name of a preset in ``settings``.
        problems: names of some of its problems; all by default.
        out: folder of the runs and the report, ``runs/memory_vs_psnr/PRESET`` by default.
        jobs: trainings at a time, each a process with one thread.
        remeasure: measure costs again that were measured before.
        publish: a second folder for the report, whose files are then named memory_vs_psnr_PRESET.
        settings: YAML file of presets.

    Returns:
        What ``results.json`` holds.

    Raises:
        ConfigError: if the settings cannot be used.
        RunFolderError: if the folder holds runs with other settings.
        RuntimeError: when all runs have ended, if some failed; names them.
    """
    chosen = read_problems(settings, preset, problems)
    folder = out or RUNS / preset
    train_all([job for name in chosen for job in runs_of(name, chosen[name], folder)], jobs)
    for name, problem in chosen.items():
        measure_problem(folder, name, problem, remeasure)
    summaries = {name: summarise_problem(folder, name, chosen[name]) for name in chosen}
    report = {"preset": preset, "problems": summaries}
    write_report(report, folder, "results")
    if publish is not None:
        write_report(report, publish, f"memory_vs_psnr_{preset}")
    return report


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
        trained = gleam.train(run.config, resume=True, quiet=True)
    except (TrainingDiverged, InvertibilityError) as error:
        return str(error)
    if not trained.finished:
        # The trainer took the signal, saved and came back: now end as the signal meant to.
        if multiprocessing.parent_process() is not None:
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt
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
            "cases": cases,
            "settings": run.settings(),
            "provenance": provenance(),
        },
    )
    return ""


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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", default="quick", help="quick: 15 minutes; full: 3 hours; tuning"
    )
    parser.add_argument("--problem", nargs="+", help="some of the preset's problems")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--out", type=Path, help=f"default: {RUNS}/PRESET")
    parser.add_argument("--remeasure", action="store_true", help="measure costs again")
    parser.add_argument("--publish", action="store_true", help=f"report to {RESULTS.name}/ too")
    arguments = parser.parse_args()
    run(
        arguments.preset,
        problems=arguments.problem,
        out=arguments.out,
        jobs=arguments.jobs,
        remeasure=arguments.remeasure,
        publish=RESULTS if arguments.publish else None,
    )


if __name__ == "__main__":
    main()
