"""Speed of greedy-parallel training: measured with two workers, predicted for many.

    python -m experiments.scaling [--quick] [--repeats 5] [--iterations 20] [--out FOLDER]

Every worker, and serial training beside it, runs on the CPU with one thread. Serial training and
one and two workers take turns, each anew for every repetition, so that whatever else the machine
does hits them alike. What counts is the steady state: the first and the last iterations, in which
the pipeline fills and drains, are left out. Data are one simulated scan that every worker holds.
Writes ``scaling.json`` with all that was measured, and from it ``scaling.md`` and ``scaling.png``;
with ``--quick``, a trial on tiny images whose numbers mean nothing, ``scaling_quick.*``; with
``--report``, the latter two from the file that is there. Takes about 12 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from experiments.memory_report import write_json
from experiments.provenance import RESULTS, provenance
from experiments.scaling_report import write_report
from experiments.step_cost import make_strategy, peak_memory
from gleam.batch import Batch
from gleam.build import build_loaders
from gleam.config import Config, load_config
from gleam.losses import LOSSES
from gleam.parallel import session
from gleam.strategies import STRATEGIES, Strategy

QUEUE = 2
WORKERS = 2
MODULES = 4
UNEVEN = 3  # modules of two workers, of which the second then waits for every state
DROPPED = QUEUE * WORKERS  # iterations at either end in which not all workers work

MASK_3D = {"kind": "uniform_random", "acceleration": 4, "calibration": 16}
VOLUMES = {"items": "volumes", "coils": 4, "train": 1, "map_method": "low_resolution"}
SETTINGS: dict[str, dict[str, Any]] = {
    "2D": {
        "data": {"size": (256, 256), "train": 1},
        "network": {"features": 40},
    },
    "3D": {
        "data": {**VOLUMES, "size": (128, 128, 128), "mask": MASK_3D},
        "network": {"features": 8},
    },
}
"""The second has a state of 16 MB."""
QUICK: dict[str, dict[str, Any]] = {
    "2D": {"data": {"size": (96, 96), "train": 1}, "network": {"features": 4}},
    "3D": {
        "data": {**VOLUMES, "size": (32, 48, 48), "mask": MASK_3D},
        "network": {"features": 2},
    },
}


@dataclass(frozen=True)
class Repeated:
    """A feed of one batch again and again, each time new: its operator is part of a step's cost."""

    batch: Batch

    def __call__(self, first: int, last: int) -> Iterator[Sequence[Batch]]:
        """See :data:`gleam.strategies.base.Feed`."""
        for _ in range(first, last):
            yield [replace(self.batch)]


@dataclass(frozen=True)
class Took:
    """Clock times of a worker in one iteration: it held the state, had its batch, was done."""

    began: float
    loaded: float
    ended: float


def read_timeline(path: Path) -> list[list[Took]]:
    """What every worker did in each iteration, from the trace that greedy-parallel writes."""
    workers: dict[int, list[Took]] = {}
    events = [event for event in json.loads(path.read_text(encoding="utf-8")) if event]
    for load, train in zip(events[::2], events[1::2], strict=True):
        if (load["cat"], train["cat"], load["tid"]) != ("load", "train", train["tid"]):
            raise ValueError(f"{path}: expected a load and a train event of one worker in turn")
        began, loaded = load["ts"] / 1e6, train["ts"] / 1e6
        took = Took(began, loaded, loaded + train["dur"] / 1e6)
        workers.setdefault(load["tid"], []).append(took)
    return [workers[number] for number in sorted(workers)]


def handovers(sender: Sequence[Took], receiver: Sequence[Took]) -> list[float]:
    """Seconds from the end of a step to when the next worker, waiting for it, holds the state."""
    return [
        mine.began - theirs.ended
        for theirs, mine, before in zip(sender[1:], receiver[1:], receiver, strict=False)
        if before.ended <= theirs.ended
    ]


def gaps(worker: Sequence[Took]) -> list[float]:
    """Seconds from the end of a step to the beginning of the next."""
    return [after.began - before.ended for before, after in pairwise(worker)]


def idle_share(worker: Sequence[Took]) -> float:
    """Share of the time between the first and the last end that no step or loading took."""
    return sum(gaps(worker)) / (worker[-1].ended - worker[0].ended)


def make(name: str, config: Config, modules: int, **settings: Any) -> Strategy:
    """A strategy on a new network with one step a module, the same weights each time."""
    config = load_config(config, network={"steps": modules})
    network = make_strategy(config, "cpu").network
    count = 1 if name == "backprop" else modules
    optimizer = partial(torch.optim.Adam, lr=1e-4)
    return STRATEGIES[name](network, LOSSES["l1"], optimizer, modules=count, **settings)


def run(strategy: Strategy, batch: Batch, iterations: int) -> dict[str, Any]:
    """Train; seconds of an iteration in the steady state, medians of its phases, and CPU time.

    Args:
        strategy: closed at the end.
        batch: of every iteration.
        iterations: that count, beside those dropped at either end.
    """
    stamps, used, results = [], [], []
    for result in strategy.train(Repeated(batch), 0, iterations + 2 * DROPPED, lambda done: False):
        stamps.append(time.perf_counter())
        used.append(time.process_time())
        results.append(result)
    strategy.close()
    first, last = DROPPED - 1, DROPPED - 1 + iterations
    steady: list[Mapping[str, Any]] = [*results[first + 1 : last + 1]]
    phases = ("forward_seconds", "backward_seconds", "update_seconds")
    return {
        "seconds": (stamps[last] - stamps[first]) / iterations,
        "cpu_seconds": (used[last] - used[first]) / iterations,
        **{phase: median(result[phase] for result in steady) for phase in phases},
    }


def run_workers(
    config: Config, modules: int, workers: int, batch: Batch, iterations: int
) -> dict[str, Any]:
    """As :func:`run`, for greedy-parallel training, with what its workers did in that time."""
    settings = {"workers": workers, "queue": QUEUE, "costs": [1.0] * modules}
    with tempfile.TemporaryDirectory() as folder:
        timeline = Path(folder) / "timeline.json"
        strategy = make("greedy-parallel", config, modules, timeline=timeline, **settings)
        found = run(strategy, batch, iterations)
        took = read_timeline(timeline)
    steady = [worker[DROPPED - 1 : DROPPED + iterations] for worker in took]
    return {
        **found,
        "idle": [idle_share(worker) for worker in steady],
        "load_seconds": median(one.loaded - one.began for worker in steady for one in worker),
        "train_seconds": [median(one.ended - one.loaded for one in worker) for worker in steady],
        "handovers": handovers(*steady[:2]) if workers > 1 else [],
        "gaps": gaps(steady[0]),
    }


def measure_throughput(
    config: Config, batch: Batch, repeats: int, iterations: int
) -> dict[str, list[dict[str, Any]]]:
    """Serial training and one and more workers in turn; what each found, by repetition."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(repeats):
        for name in ("backprop", "greedy"):
            strategy = make(name, config, MODULES)
            found.setdefault(name, []).append(run(strategy, batch, iterations))
        for workers in (1, WORKERS):
            name = f"{workers} worker{'s'[: workers > 1]}"
            taken = run_workers(config, MODULES, workers, batch, iterations)
            found.setdefault(name, []).append(taken)
    return found


def measure_handover(config: Config, batch: Batch, iterations: int) -> dict[str, Any]:
    """Two workers of which the second waits for every state of the first."""
    found = run_workers(config, UNEVEN, WORKERS, batch, iterations)
    state = make("greedy", config, 1).network.start(batch)
    return {
        "space": [*batch.maps.shape[3:]],
        "features": config.network.features,
        "state_bytes": state.nbytes,
        "step_seconds": mean([*found["train_seconds"]]) * WORKERS / UNEVEN,
        **{key: found[key] for key in ("handovers", "gaps", "load_seconds", "train_seconds")},
    }


def batch_seconds(batch: Batch, repeats: int = 20) -> float:
    """Median time of what every worker makes of a batch: its operator and zero-filled image."""
    seconds = []
    for _ in range(repeats):
        fresh = replace(batch)
        began = time.perf_counter()
        _ = fresh.zero_filled
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def first_batch(config: Config) -> Batch:
    """That of the first training iteration."""
    return build_loaders(config.data, config.seed)["train"].training(0)[0]


def measure(
    settings: Mapping[str, Mapping[str, Any]], repeats: int, iterations: int
) -> dict[str, Any]:
    """All that is measured, on a Ray that is started and ended here, unless there is one."""
    torch.set_num_threads(1)
    configs = {name: load_config(values) for name, values in settings.items()}
    batches = {name: first_batch(config) for name, config in configs.items()}
    config, batch = configs["2D"], batches["2D"]
    activations = peak_memory(make("backprop", config, MODULES), batch, "cpu") // MODULES
    own = session.start()
    try:
        throughput = measure_throughput(config, batch, repeats, iterations)
        handover = {
            name: measure_handover(configs[name], batches[name], max(6, iterations // 2))
            for name in configs
        }
    finally:
        if own:
            session.end()
    return {
        "iterations": iterations,
        "repeats": repeats,
        "queue": QUEUE,
        "modules": MODULES,
        "batch_seconds": batch_seconds(batch),
        "greedy_bytes": peak_memory(make("greedy", config, MODULES), batch, "cpu"),
        "activation_bytes": activations,
        "throughput": throughput,
        "handover": handover,
        "provenance": provenance(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a trial run on tiny images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20, help="that count, of each run")
    parser.add_argument("--report", action="store_true", help="do not measure anew")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    stem = "scaling_quick" if given.quick else "scaling"
    path = given.out / f"{stem}.json"
    if not given.report:
        repeats, iterations = (1, 6) if given.quick else (given.repeats, given.iterations)
        write_json(path, measure(QUICK if given.quick else SETTINGS, repeats, iterations))
    measured = json.loads(path.read_text(encoding="utf-8"))
    print(write_report(measured, given.out, stem))


if __name__ == "__main__":
    main()
