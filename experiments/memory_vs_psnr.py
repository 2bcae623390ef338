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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.memory_cost import measure_problem
from experiments.memory_problems import SETTINGS, read_problems
from experiments.memory_report import summarise_problem, write_report
from experiments.provenance import RESULTS
from experiments.training_runs import runs_of, train_all

RUNS = Path("runs/memory_vs_psnr")


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
    report = {
        "title": "Memory against image quality",
        "command": f"python -m experiments.memory_vs_psnr --preset {preset}",
        "preset": preset,
        "problems": summaries,
    }
    write_report(report, folder, "results")
    if publish is not None:
        write_report(report, publish, f"memory_vs_psnr_{preset}")
    return report


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
