"""A volume is trained on and reconstructed where end-to-end backpropagation runs out of memory.

    python -m experiments.whole_volume

A simulated brain, 32 x 96 x 96, 8 coils, uniformly random points R = 4; proximal gradient with 8
steps and 3D CNNs of 16 features. Every strategy trains in a process of its own, to which the
system gives no more address space (RLIMIT_AS) than Python and its libraries had taken, and the
limit below. Then the greedy network reconstructs a volume from a memory-mapped file, at once and in
slabs of 4 positions of the readout, under a lower limit; coil maps are estimated (ESPIRiT).

"planned" is what ``gleam plan`` predicts for tensors; "resident" is how far the resident memory of
the process rose above what it was when the limit was set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gleam
from experiments.plan_accuracy import random_batch
from experiments.provenance import RESULTS, as_markdown, provenance
from experiments.step_cost import make_strategy
from gleam.config import Config, load_config
from gleam.data import write_scan
from gleam.memory import process_peak_rss
from gleam.plan_shapes import batch_shape
from gleam.planning import plan
from physics.brain import simulate_brain
from physics.masks import uniform_random

SIZE = (32, 96, 96)
COILS = 8
CALIBRATION = 16
ITERATIONS = 2
SLAB = 4
MIB = 2**20
TRAINING, RECONSTRUCTION = 720 * MIB, 224 * MIB
STRATEGIES = ("backprop", "checkpoint", "greedy")
OUT_OF_MEMORY = "out of memory"


def settings(folder: Path, strategy: str) -> Config:
    """Of a run on the volume in a folder."""
    mask = {"kind": "uniform_random", "acceleration": 4, "calibration": CALIBRATION}
    return load_config(
        {
            "out": folder / strategy,
            "device": "cpu",
            "data": {"path": folder / "scans", "items": "volumes", "mask": mask, "cache": 1e-3},
            "network": {"steps": 8, "features": 16},
            "strategy": strategy,
            "training": {"iterations": ITERATIONS, "validate_every": ITERATIONS},
        }
    )


def write_scans(folder: Path) -> None:
    """A brain to train on, another one to validate on, and the undersampled k-space of a third."""
    for seed, split in enumerate(("train", "validate", "measured")):
        brain = simulate_brain(seed, SIZE, COILS, contrast="T1w")
        if split == "measured":
            mask = uniform_random(SIZE[1:], 4, CALIBRATION, seed=seed)
            np.save(folder / "kspace.npy", (brain.kspace * mask).numpy())
            return
        (folder / "scans" / split).mkdir(parents=True)
        path = folder / "scans" / split / f"{split}.h5"
        arrays = [brain.kspace.movedim(1, 0), brain.maps.movedim(2, 0)]
        write_scan(path, *(array.contiguous().numpy() for array in arrays))


def run_limited(limit: int, work: Callable[[], object]) -> dict[str, Any]:
    """Do some work with so many bytes more of address space, and say how it went.

    Returns:
        ``outcome`` ("done" or :data:`OUT_OF_MEMORY`), ``resident`` (bytes) and ``seconds``.
    """
    taken, before = process_memory()
    resource.setrlimit(resource.RLIMIT_AS, (taken + limit, taken + limit))
    start, outcome = time.perf_counter(), "done"
    try:
        work()
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        outcome = OUT_OF_MEMORY
    seconds = time.perf_counter() - start
    resident = max(process_peak_rss() - before, 0)
    return {"outcome": outcome, "resident": resident, "seconds": seconds}


def process_memory() -> tuple[int, int]:
    """Address space and resident memory of this process in bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    size = os.sysconf("SC_PAGE_SIZE")
    return int(pages[0]) * size, int(pages[1]) * size


def work_in_child(folder: Path, task: str) -> None:
    """Train by a strategy, or reconstruct "whole" or in "slabs"; prints the outcome as JSON."""
    torch.set_num_threads(1)
    warm_up()
    if task in STRATEGIES:
        config = settings(folder, task)
        outcome = run_limited(TRAINING, lambda: gleam.train(config, quiet=True))
    else:
        best = folder / "greedy" / "best.pt"
        kspace = np.load(folder / "kspace.npy", mmap_mode="r")
        slab = None if task == "whole" else SLAB

        def reconstruct() -> None:
            image = gleam.reconstruct(best, kspace, slab=slab, device="cpu")
            np.save(folder / f"{task}.npy", image.numpy())

        outcome = run_limited(RECONSTRUCTION, reconstruct)
    print(json.dumps(outcome))


def warm_up() -> None:
    """Have the libraries load what they need, which is not part of the limit."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    config = load_config(
        {
            "device": "cpu",
            "data": {"items": "volumes", "size": (16, 32, 32), "coils": 2},
            "network": {"steps": 2, "features": 4},
        }
    )
    make_strategy(config, "cpu").train_step(random_batch(batch_shape(config)))
    torch.linalg.eigh(torch.eye(2, dtype=torch.complex64))


def measure(folder: Path, task: str) -> dict[str, Any]:
    """The outcome of a task in a process of its own."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, task, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{task} failed:\n{done.stderr}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def compare(folder: Path) -> list[str]:
    """Lines of Markdown: every task and how it went."""
    write_scans(folder)
    rows = plan(settings(folder, "backprop")).rows
    planned = {row.strategy: row.bytes for row in rows}  # of greedy the last: one step a module
    lines = [
        "| task | limit [MiB] | planned [MiB] | resident [MiB] | outcome | seconds |",
        "|---|---|---|---|---|---|",
    ]
    names = {name: f"training, {name}" for name in STRATEGIES}
    names |= {"whole": "reconstruction at once", "slabs": f"reconstruction, {SLAB} at a time"}
    for task, name in names.items():
        found = measure(folder, task)
        limit = TRAINING if task in STRATEGIES else RECONSTRUCTION
        cells = [name, f"{limit / MIB:.0f}"]
        cells.append(f"{planned[task] / MIB:.0f}" if task in planned else "")
        cells += [f"{found['resident'] / MIB:.0f}", found["outcome"], f"{found['seconds']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print and write ``results/whole_volume.md``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # What the processes are started with that this one starts.
    parser.add_argument("task", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        work_in_child(arguments.folder, arguments.task)
        return
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        lines = compare(Path(folder))
    head = ["# A whole volume\n", (__doc__ or "").partition("whole_volume\n\n")[2]]
    text = "\n".join([*head, *lines, "", as_markdown(provenance() | {"threads": "1"})])
    (RESULTS / "whole_volume.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
