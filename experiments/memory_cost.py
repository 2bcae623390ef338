"""Time and memory of a training step of every variant of a problem, measured side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from experiments.memory_problems import Problem
from experiments.memory_report import write_json
from experiments.provenance import provenance
from experiments.step_cost import alternate, make_strategy
from gleam.build import build_device, build_loaders
from gleam.config import Config, dump_config, load_config
from gleam.data.workers import run_jobs
from gleam.memory import PeakMemory

PHASES = ("forward_seconds", "backward_seconds", "update_seconds")


@dataclass(frozen=True)
class Job:
    """What is measured together: configurations by name, in so many rounds."""

    configs: dict[str, Config]
    repeats: int


def measure_problem(folder: Path, name: str, problem: Problem, again: bool = False) -> None:
    """Measure a problem's variants and keep that in ``folder/cost.json``.

    Beside the variants there is, for every depth among them, checkpointing of the problem's own
    network as a yardstick. Nothing is done if these very variants were measured before.

    Args:
        folder: of the benchmark.
        name: of the problem.
        problem: its settings.
        again: measure in any case.
    """
    path = folder / "cost.json"
    costs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    everything, references = with_references(problem.base, problem.configs)
    settings = {variant: comparable(config) for variant, config in everything.items()}
    if not again and costs.get(name, {}).get("settings") == settings:
        return

    def done(_: int, measured: dict[str, Any] | None) -> None:
        costs[name] = {
            "references": references,
            "measured": measured,
            "repeats": problem.repeats,
            "settings": settings,
            "provenance": provenance(),
        }

    # A single job runs in this process, with one thread.
    run_jobs(measure, [Job(everything, problem.repeats)], 1, done)
    write_json(path, costs)


def with_references(
    base: Config, configs: Mapping[str, Config]
) -> tuple[dict[str, Config], dict[str, str]]:
    """The variants and, for every depth, checkpointing of the base network; its name by depth."""
    everything = dict(configs)
    references = {}
    for depth in sorted({config.network.steps for config in configs.values()}):
        twin = load_config(base, network={"steps": depth}, strategy="checkpoint")
        names = [
            name
            for name, config in configs.items()
            if (config.network, config.strategy) == (twin.network, twin.strategy)
        ]
        references[str(depth)] = name = names[0] if names else f"checkpoint {depth} (reference)"
        everything.setdefault(name, twin)
    return everything, references


def comparable(config: Config) -> dict[str, Any]:
    """All settings but the folder."""
    return {key: value for key, value in dump_config(config).items() if key != "out"}


def measure(job: Job) -> dict[str, Any]:
    """Seconds of every round, by phase too, and the memory of one step, of all variants in turn."""
    any_config = next(iter(job.configs.values()))
    device = str(build_device(any_config.device))
    loader = build_loaders(any_config.data, any_config.seed)["train"]
    batches = [
        batch.to(device)
        for batch in loader.training(
            0, any_config.training.batch_size, any_config.training.accumulate
        )
    ]
    strategies = {name: make_strategy(config, device) for name, config in job.configs.items()}
    results: dict[str, list[Any]] = {name: [] for name in strategies}

    def stepper(name: str) -> Callable[[], object]:
        # New batches each time: the operator and the zero-filled image are part of a step's cost.
        return lambda: results[name].append(
            strategies[name].train_step(*(replace(batch) for batch in batches))
        )

    times = alternate({name: stepper(name) for name in strategies}, job.repeats, device)
    measured = {}
    for name, strategy in strategies.items():
        fresh = [replace(batch) for batch in batches]
        with PeakMemory(device, strategy, fresh) as peak:
            strategy.train_step(*fresh)
        kept = results[name][-job.repeats :]
        measured[name] = {
            "parameters": sum(p.numel() for p in strategy.network.parameters()),
            "source": peak.source,
            "peak_bytes": peak.total,
            "parts": peak.parts,
            "seconds": times[name],
            **{phase: median(result[phase] for result in kept) for phase in PHASES},
        }
    return measured
