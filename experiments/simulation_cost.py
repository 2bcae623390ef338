"""Time and memory of the simulators.

    python -m experiments.simulation_cost

A slice or cine is simulated with several seeds in turn; the time is the median, beside the fastest.
Peaks are of newly allocated tensors, as a multiple of the size of the k-space.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.provenance import RESULTS, as_markdown, provenance
from gleam.memory import PeakMemory
from physics.acquisition import SimulatedScan
from physics.brain import simulate_brain
from physics.heart import simulate_heart
from physics.knee import simulate_knee

Simulate = Callable[[int], SimulatedScan]

CASES: dict[str, tuple[Simulate, int]] = {
    "brain, 256 x 256, 8 coils": (lambda seed: simulate_brain(seed), 25),
    "knee, 256 x 256, 8 coils": (lambda seed: simulate_knee(seed), 25),
    "heart, 20 x 192 x 160, 8 coils": (lambda seed: simulate_heart(seed), 5),
    "brain, 128 x 128 x 128, 8 coils": (lambda seed: simulate_brain(seed, (128, 128, 128)), 2),
    "knee, 128 x 128 x 128, 8 coils": (lambda seed: simulate_knee(seed, (128, 128, 128)), 2),
}


def measure(simulate: Simulate, seeds: int) -> list[float]:
    """Seconds of each of several scans, after one that warms up."""
    simulate(0)
    seconds = []
    for seed in range(1, seeds + 1):
        start = time.perf_counter()
        simulate(seed)
        seconds.append(time.perf_counter() - start)
    return seconds


def peak(simulate: Simulate) -> float:
    """Peak of newly allocated tensors over the size of the k-space."""
    with PeakMemory("cpu") as memory:
        scan = simulate(1)
    return memory.bytes / scan.kspace.nbytes


def table(threads: int) -> list[str]:
    """Rows of Markdown."""
    torch.set_num_threads(threads)
    rows = []
    for name, (simulate, seeds) in CASES.items():
        times = [1000 * seconds for seconds in measure(simulate, seeds)]
        cells = [f"{statistics.median(times):.0f}", f"{min(times):.0f}", f"{peak(simulate):.2f}"]
        rows.append(f"| {name} | {threads} | " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = [
        "# Cost of simulating a scan\n\n`python -m experiments.simulation_cost`\n",
        "| scan | threads | median [ms] | fastest [ms] | peak / k-space |",
        "|---|---|---|---|---|",
        *[row for threads in arguments.threads for row in table(threads)],
        "\n" + as_markdown(provenance()),
    ]
    text = "\n".join(lines)
    (arguments.out / "simulation_cost.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
