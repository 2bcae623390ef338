"""What ``gleam plan`` predicts against what training steps take.

    python -m experiments.plan_accuracy [--repeats 5] [--threads 1]

For every problem all strategies and numbers of modules are planned, and then each takes its third
training step on random data under the counter of live storages: "difference" is predicted against
measured peak memory. (Before the third, a residual regularizer still knows its weights' norms.)
Times are relative to backprop, predicted from counted operations and measured in turn with it,
medians over rounds; for greedy with the fewest and the most modules.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from experiments.provenance import RESULTS, as_markdown, provenance
from experiments.step_cost import alternate, make_strategy, ratio
from gleam.batch import Batch
from gleam.config import Config, load_config
from gleam.memory import PeakMemory
from gleam.plan_estimate import variant
from gleam.plan_shapes import BatchShape, batch_shape
from gleam.planning import Row, plan

SLICE = {"size": (96, 96), "coils": 8}
SMALL = {"size": (48, 64), "coils": 4, "mask": {"calibration": 12}}
VOLUME = {"size": (12, 32, 32), "items": "volumes", "coils": 4, "mask": {"acceleration": 2}}
LINES = {"kind": "kt_variable_density", "calibration": 8}
CINE = {"size": (8, 32, 32), "items": "cines", "anatomy": "heart", "coils": 4, "mask": LINES}
POINTS = {"kind": "uniform_random", "acceleration": 6}
PROBLEMS: dict[str, dict[str, Any]] = {
    "2D pgd": {"data": SLICE, "network": {"steps": 8, "features": 24}},
    "2D pgd, points": {
        "data": SLICE | {"mask": POINTS},
        "network": {"steps": 12, "features": 8},
    },
    "2D pgd, 64 steps": {"data": SMALL, "network": {"steps": 64, "features": 16}},
    "2D pgd, 8 hidden, lookahead 1": {
        "data": SMALL,
        "network": {"steps": 16, "features": 16, "hidden": 8},
        "strategy": {"name": "greedy", "lookahead": 1},
    },
    "2D pgd, 2 map sets, batch 2, reflect": {
        "data": SMALL | {"map_sets": 2},
        "network": {"steps": 6, "features": 16, "padding": "reflect"},
        "training": {"batch_size": 2, "loss": "l2"},
    },
    "2D modl": {"data": SLICE, "network": {"step": "modl", "steps": 8, "features": 32}},
    "2D modl, 32 steps": {
        "data": SMALL,
        "network": {"step": "modl", "steps": 32, "features": 8},
    },
    "2D modl, 2 hidden, lookahead 2": {
        "data": SMALL,
        "network": {"step": "modl", "steps": 12, "features": 16, "hidden": 2},
        "strategy": {"name": "greedy", "lookahead": 2},
    },
    "2D modl, shared weights, decay": {
        "data": SMALL,
        "network": {"step": "modl", "steps": 10, "features": 32, "shared": True},
        "strategy": "backprop",
        "training": {"weight_decay": 1e-4, "clip": 1.0},
    },
    "3D pgd": {"data": VOLUME, "network": {"steps": 8, "features": 8}},
    "3D pgd, accumulate 2": {
        "data": VOLUME,
        "network": {"steps": 4, "features": 8},
        "training": {"accumulate": 2},
    },
    "3D modl": {"data": VOLUME, "network": {"step": "modl", "steps": 6, "features": 12}},
    "2D pgd, residual": {
        "data": SMALL,
        "network": {"steps": 8, "features": 16, "regularizer": "residual"},
    },
    "2D modl, coupling, a state kept after every second step": {
        "data": SMALL,
        "network": {"step": "modl", "steps": 8, "features": 16, "regularizer": "coupling"},
        "strategy": {"name": "invertible", "checkpoint_every": 2},
    },
    "2D+t pgd": {"data": CINE, "network": {"steps": 6, "features": 12}},
    "2D+t modl": {"data": CINE, "network": {"step": "modl", "steps": 4, "features": 8}},
}
"""Settings of the problems, on a CPU."""


@dataclass(frozen=True)
class Comparison:
    """One row of a plan, and what was measured.

    Attributes:
        problem: a name in :data:`PROBLEMS`.
        row: predicted.
        bytes: measured peak.
        time: measured time relative to backprop, or None.
    """

    problem: str
    row: Row
    bytes: int
    time: float | None

    @property
    def difference(self) -> float:
        """Predicted against measured memory, 0 if they are the same."""
        return self.row.bytes / self.bytes - 1


def random_batch(shape: BatchShape, seed: int = 0) -> Batch:
    """Random measurements of random images; costs do not depend on the values."""
    random = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(shape.images, *sizes, dtype=torch.complex64, generator=random)

    maps = draw(shape.maps, shape.coils, *shape.maps_space)
    maps = maps / maps.abs().square().sum((1, 2), keepdim=True).sqrt()
    mask = torch.rand(shape.images, 1, *shape.mask_space, generator=random) < 0.5
    kspace, target = draw(shape.coils, *shape.space), draw(shape.maps, *shape.space)
    scale = torch.ones(shape.images)
    return Batch(kspace, mask.float(), maps, target, scale, axes=shape.axes)


def measure_peak(config: Config) -> dict[str, int]:
    """Bytes at the peak of a run's third training step, by what holds them."""
    strategy, batches = make_strategy(config, "cpu"), make_batches(config)
    for _ in range(2):
        strategy.train_step(*map(replace, batches))
    with PeakMemory("cpu", strategy, batches) as peak:
        strategy.train_step(*map(replace, batches))
    return peak.parts


def make_batches(config: Config) -> list[Batch]:
    """Those of one training step."""
    shape = batch_shape(config)
    return [random_batch(shape, seed) for seed in range(config.training.accumulate)]


def measure_times(configs: Sequence[Config], repeats: int) -> list[float]:
    """Times of training steps relative to the first configuration's."""
    batches = make_batches(configs[0])
    strategies = [make_strategy(config, "cpu") for config in configs]
    runs = {
        str(number): partial(_step, strategy, batches) for number, strategy in enumerate(strategies)
    }
    times = alternate(runs, repeats, "cpu")
    return [ratio(times, name, "0") for name in times]


def _step(strategy: Any, batches: Sequence[Batch]) -> None:
    # New batches each time: the operator and the zero-filled image are part of a step's cost.
    strategy.train_step(*map(replace, batches))


def compare(problem: str, repeats: int) -> list[Comparison]:
    """Plan a problem, and measure it."""
    config = load_config({"device": "cpu"} | PROBLEMS[problem])
    rows = plan(config).rows
    configs = [variant(config, row.strategy, row.steps, row.modules) for row in rows]
    greedy = [number for number, row in enumerate(rows) if row.strategy == "greedy"]
    timed = [number for number in range(len(rows)) if number not in greedy[1:-1]]
    measured = measure_times([configs[number] for number in timed], repeats)
    times = dict(zip(timed, measured, strict=True))
    return [
        Comparison(problem, row, sum(measure_peak(changed).values()), times.get(number))
        for number, (row, changed) in enumerate(zip(rows, configs, strict=True))
    ]


def table(found: Sequence[Comparison]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| problem | strategy | modules | predicted [MB] | measured [MB] | difference "
        "| predicted time | measured time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for item in found:
        row = item.row
        cells = [item.problem, row.strategy, f"{row.modules}", f"{row.bytes / 1e6:.3f}"]
        cells += [f"{item.bytes / 1e6:.3f}", f"{item.difference:+.2%}", f"{row.time:.2f}"]
        cells.append("" if item.time is None else f"{item.time:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(found: Sequence[Comparison]) -> str:
    """The largest and the usual differences, in words."""
    largest = max(abs(item.difference) for item in found)
    errors = [
        abs(item.row.time / item.time - 1)
        for item in found
        if item.time is not None and item.row.strategy != "backprop"
    ]
    problems = len({item.problem for item in found})
    return (
        f"{problems} problems, {len(found)} predictions. Memory: largest difference {largest:.2%}. "
        f"Time relative to backprop: mean difference {mean(errors):.1%}, median "
        f"{median(errors):.1%}, largest {max(errors):.1%}."
    )


def measure_planning() -> str:
    """How long planning takes for a whole 3D scan."""
    data = {"size": (320, 320, 256), "items": "volumes", "coils": 8}
    words = []
    for step in ("pgd", "modl"):
        config = load_config(
            {"device": "cpu", "data": data, "network": {"step": step, "steps": 24}}
        )
        wall, processor = time.perf_counter(), time.process_time()
        rows = plan(config).rows
        words.append(
            f"{step}: {time.perf_counter() - wall:.1f} s ({time.process_time() - processor:.1f} s "
            f"of processor time) for {len(rows)} rows, of which backprop needs "
            f"{rows[0].bytes / 2**30:.0f} GiB"
        )
    return "Planning 320 x 320 x 256, 8 coils, 24 steps takes, " + "; ".join(words) + "."


def main() -> None:
    """Plan, measure, print and write ``results/plan_accuracy.md``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    RESULTS.mkdir(exist_ok=True)
    found = [item for problem in PROBLEMS for item in compare(problem, arguments.repeats)]
    head = ["# Predicted against measured\n", (__doc__ or "").partition("[--threads 1]\n\n")[2]]
    lines = [*head, summary(found) + "\n", measure_planning() + "\n", *table(found)]
    text = "\n".join([*lines, "", as_markdown(provenance())])
    (RESULTS / "plan_accuracy.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
