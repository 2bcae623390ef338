"""Reproductions: all training strategies on the same data, by one command an experiment.

An experiment is a file ``configs/NAME.yaml`` of presets, each with problems as in
:mod:`experiments.memory_problems`. Every training has a folder with its configuration, metrics,
checkpoints, a table, pictures, learning curves and the quality after each step; the preset's folder
has tables, a figure of memory against PSNR for every problem, and the claims. What was stopped goes
on, and what is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.memory_claims import PAPER
from experiments.memory_cost import measure_problem
from experiments.memory_problems import Problem, read_problems
from experiments.memory_report import summarise_problem, write_json, write_report
from experiments.parallel_check import as_parallel, compare_parallel, parallel_claims
from experiments.provenance import RESULTS
from experiments.run_outputs import write_outputs
from experiments.training_runs import runs_of, train_all
from gleam.config import ConfigError

CONFIGS = Path(__file__).parent / "configs"
RUNS = Path("runs")
PRESETS = ("quick", "small", "paper")
TUNING = "tuning"  # with which learning rates of "small" were chosen


def run_experiment(
    name: str,
    strategy: str | None = None,
    preset: str = "quick",
    data: str | Path | None = None,
    *,
    problems: Sequence[str] | None = None,
    out: Path | None = None,
    jobs: int = 2,
    publish: Path | None = None,
    configs: Path = CONFIGS,
) -> dict[str, Any]:
    """Train, test, measure, compare and report.

    Args:
        name: of the experiment.
        strategy: train only what is trained with this strategy; greedy-parallel trains the greedy
            variants through Ray. All if none.
        preset: quick, small or paper; of some experiments, tuning.
        data: folder of scans with splits, as ``data.path``; the preset paper needs it, the others
            simulate scans if there is none.
        problems: names of some of the preset's problems; all if none.
        out: folder of the runs and the report, ``runs/NAME/PRESET`` if none.
        jobs: trainings at a time, each a process with one thread.
        publish: a second folder for the report, whose files are then named NAME_PRESET.
        configs: folder of the experiments' settings.

    Returns:
        What ``results.json`` holds.

    Raises:
        ConfigError: if there is no such preset, problem or strategy, or data are missing.
        RunFolderError: if the folder holds runs with other settings.
        RuntimeError: when all runs have ended, if some failed; names them.
    """
    settings = read_problems(configs / f"{name}.yaml", preset, problems)
    chosen = {key: _select(problem, strategy, data) for key, problem in settings.items()}
    folder = out or RUNS / name / preset
    runs = [run for key, problem in chosen.items() for run in runs_of(key, problem, folder)]
    if strategy == "greedy-parallel":
        runs = [replace(run, config=as_parallel(run.config)) for run in runs]
    train_all(runs, 1 if strategy == "greedy-parallel" else jobs)
    for run in runs:
        write_outputs(run)
    command = f"python -m experiments.{name} --preset {preset}" + (" --data DATA" if data else "")
    report = {
        "title": f"{name}, preset {preset}",
        "experiment": name,
        "preset": preset,
        "command": command,
        "problems": {key: _finish(folder, key, problem) for key, problem in chosen.items()},
    }
    write_report(report, folder, "results")
    if publish is not None:
        write_report(report, publish, f"{name}_{preset}")
    return report


def _select(problem: Problem, strategy: str | None, data: str | Path | None) -> Problem:
    """A problem with the data of the user and, if a strategy is named, its variants only."""
    config = dict(problem.config)
    if data is not None:
        config["data"] = {**config.get("data", {}), "path": str(data)}
    elif config.get("data", {}).get("path") == "":
        raise ConfigError("this preset needs measured scans: name their folder with data= (--data)")
    if strategy is None:
        return problem.model_copy(update={"config": config})
    wanted = "greedy" if strategy == "greedy-parallel" else strategy
    names = {n for n, c in problem.configs.items() if c.strategy.name == wanted}
    if not names:
        known = sorted({c.strategy.name for c in problem.configs.values()} | {"greedy-parallel"})
        raise ConfigError(f"nothing is trained with strategy {strategy!r}; choose from {known}")
    variants = {}
    for name in names:
        values = dict(problem.variants[name])
        if values.get("trained_as") not in names:
            values.pop("trained_as", None)
        variants[name] = values
    kept = {name: variants[name] for name in problem.variants if name in variants}
    return problem.model_copy(update={"config": config, "variants": kept, "parallel": None})


def _finish(folder: Path, name: str, problem: Problem) -> dict[str, Any]:
    """Costs, the comparison with greedy-parallel, and what came out."""
    measure_problem(folder, name, problem)
    path = folder / f"parallel_{name}.json"
    if problem.parallel is not None and not path.exists():
        write_json(path, compare_parallel(problem, problem.parallel))
    parallel = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    summary = {**summarise_problem(folder, name, problem, PAPER), "parallel": parallel}
    summary["claims"] += parallel_claims(parallel) if parallel else []
    return summary


def command_line(name: str, description: str | None) -> None:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="quick", choices=(*PRESETS, TUNING))
    parser.add_argument("--strategy", help="train only this; all strategies if not named")
    parser.add_argument("--data", type=Path, help="folder of measured scans (preset paper)")
    parser.add_argument("--problem", nargs="+", help="some of the preset's problems")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--out", type=Path, help=f"default: {RUNS}/{name}/PRESET")
    parser.add_argument("--publish", action="store_true", help=f"report to {RESULTS.name}/ too")
    given = parser.parse_args()
    run_experiment(
        name,
        given.strategy,
        given.preset,
        given.data,
        problems=given.problem,
        out=given.out,
        jobs=given.jobs,
        publish=RESULTS if given.publish else None,
    )
