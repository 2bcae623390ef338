"""Greedy training of one problem by one process and by several workers: time, and the weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from experiments.memory_problems import Parallel, Problem
from experiments.provenance import provenance
from gleam.build import build_device, build_loaders, build_network, build_strategy
from gleam.config import Config, load_config
from gleam.data import Feed
from gleam.strategy_config import PARALLEL

FILLING = 4  # iterations at the start that do not count: the pipeline fills


def compare_parallel(problem: Problem, parallel: Parallel) -> dict[str, Any]:
    """Train a greedy variant serially and with each number of workers, one thread each.

    Returns:
        "rows", serial training first: "workers" (0 of serial training), "seconds" an iteration in
        the steady state, "speed" over serial training, "equal", whether weights and losses are
        bitwise those of serial training; and "provenance".
    """
    config = load_config(problem.configs[parallel.variant], seed=problem.seeds[0])
    rows: list[dict[str, Any]] = []
    serial: tuple[float, Any] | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for workers in (0, *parallel.workers):
            found = _train(_with_workers(config, workers), parallel.iterations)
            serial = serial or found
            rows.append(
                {
                    "workers": workers,
                    "seconds": found[0],
                    "speed": serial[0] / found[0],
                    "equal": _equal(found[1], serial[1]),
                }
            )
    finally:
        torch.set_num_threads(threads)
    return {
        "variant": parallel.variant,
        "iterations": parallel.iterations,
        "rows": rows,
        "provenance": provenance(),
    }


def parallel_claims(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """That the weights are the same, and that time falls with the number of workers."""
    rows = [row for row in found["rows"] if row["workers"]]
    falls = [before["seconds"] / after["seconds"] for before, after in pairwise(rows)]
    variant, numbers = found["variant"], [row["workers"] for row in rows]
    same = all(row["equal"] for row in rows)
    return [
        {
            "title": "Parallel: weights and losses of serial training",
            "variant": variant,
            "met": same,
            "text": f"{variant} with {numbers} workers, {found['iterations']} iterations: "
            + ("bitwise the same" if same else "they differ"),
        },
        {
            "title": "Parallel: time falls with the workers",
            "variant": variant,
            "value": rows[0]["seconds"] / rows[-1]["seconds"],
            "met": all(factor > 1 for factor in falls),
            "text": f"{variant} with {numbers} workers: "
            + ", ".join(f"{1e3 * row['seconds']:.0f} ms" for row in rows)
            + " an iteration",
        },
    ]


def as_parallel(config: Config) -> Config:
    """The same greedy training by greedy-parallel; other configurations unchanged."""
    if config.strategy.name != "greedy":
        return config
    return load_config(config, strategy={"name": "greedy-parallel"})


def as_serial(config: Config) -> Config:
    """The training in one process that gives the same weights."""
    if config.strategy.name != "greedy-parallel":
        return config
    kept = config.strategy.model_dump(exclude={"name", *PARALLEL})
    return load_config({**config.model_dump(), "strategy": {**kept, "name": "greedy"}, "ray": {}})


def _with_workers(config: Config, workers: int) -> Config:
    if not workers:
        return config
    return load_config(as_parallel(config), strategy={"workers": workers})


def _train(config: Config, iterations: int) -> tuple[float, Any]:
    """Seconds of an iteration in the steady state; losses and weights."""
    training = config.training
    loader = build_loaders(config.data, config.seed)["train"]
    feed = Feed(loader, training.batch_size, training.accumulate, config.data.workers)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build_network(config.network, config.data).to(build_device(config.device))
    strategy = build_strategy(config, network)
    stamps, losses = [], []
    try:
        for result in strategy.train(feed, 0, iterations, lambda done: done == iterations):
            stamps.append(time.perf_counter())
            losses.append(result["module_losses"])
        strategy.synchronise()
    finally:
        strategy.close()
    seconds = (stamps[-1] - stamps[FILLING]) / (len(stamps) - 1 - FILLING)
    return seconds, (losses, [parameter.detach().cpu() for parameter in network.parameters()])


def _equal(one: Any, other: Any) -> bool:
    same = all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    return bool(same and one[0] == other[0])
