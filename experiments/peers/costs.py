"""Time and memory of a training step of another package's network, under several strategies."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from types import ModuleType
from typing import Any

import torch

from experiments.memory_report import write_json
from experiments.peers.packages import imports
from experiments.provenance import RESULTS, as_markdown, provenance
from experiments.step_cost import alternate, ratio
from gleam.batch import Batch
from gleam.memory import PeakMemory
from gleam.strategies import Strategy

Makers = Mapping[str, Callable[[], Strategy]]


def arguments(description: str | None, size: int, coils: int) -> argparse.Namespace:
    """Size, coils, rounds, device and threads from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=size, help="of the image, in pixels")
    parser.add_argument("--coils", type=int, default=coils)
    parser.add_argument("--rounds", type=int, default=5, help="that are timed; 0 for memory only")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def load(name: str) -> ModuleType:
    """Import a module of another package.

    Raises:
        SystemExit: if the package cannot be used; says how to install it.
    """
    if not imports(name.partition(".")[0]):
        raise SystemExit(
            f"{name} cannot be imported; experiments/peers/README.md says how to get it"
        )
    return importlib.import_module(name)


def measure(makers: Makers, batch: Batch, rounds: int) -> dict[str, dict[str, Any]]:
    """Peak memory of one step of each, one after the other, then seconds of each in every round.

    On a CPU they are seconds of all its threads together.
    """
    device = batch.kspace.device.type
    measured = {}
    for name, make in makers.items():
        strategy = make()
        make_optimizer_state(strategy)
        with PeakMemory(device, strategy, [batch]) as peak:
            result = strategy.train_step(replace(batch))
        measured[name] = {"parts": peak.parts, "total": peak.total, "loss": result["loss"]}
        del strategy
    if rounds:
        strategies = {name: make() for name, make in makers.items()}
        # A new batch each time: what is computed of it once is part of a step's cost.
        runs = {
            name: lambda strategy=strategy: strategy.train_step(replace(batch))
            for name, strategy in strategies.items()
        }
        # Of the processor on a CPU: what else the machine does, hardly counts there.
        clock = time.process_time if device == "cpu" else time.perf_counter
        for name, seconds in alternate(runs, rounds, device, clock).items():
            measured[name]["seconds"] = seconds
    return measured


def make_optimizer_state(strategy: Strategy) -> None:
    """What the first update makes and all others find; parameters stay as they are under Adam."""
    for module in strategy.modules:
        for parameter in module.trainable:
            parameter.grad = torch.zeros_like(parameter)
        module.update()


def table(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Rows of Markdown; the first strategy is what the others are compared with."""
    first = next(iter(measured))
    times = {name: found["seconds"] for name, found in measured.items() if "seconds" in found}
    timed = ["time of a step [s]", f"/ {first}"] if times else []
    columns = ["strategy", *timed, "activations [MB]", f"{first} / it", "all tensors [MB]"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, found in measured.items():
        stored = found["parts"]["activations"]
        seconds = (
            [f"{median(times[name]):.2f}", f"{ratio(times, name, first):.2f}"] if times else []
        )
        memory = [
            f"{stored / 1e6:.1f}",
            f"{measured[first]['parts']['activations'] / stored:.1f}",
            f"{found['total'] / 1e6:.0f}",
        ]
        lines.append("| " + " | ".join([name, *seconds, *memory]) + " |")
    return lines


def report(
    stem: str, title: str, text: str, chosen: argparse.Namespace, measured: Mapping[str, Any]
) -> None:
    """Keep the measurements of this size beside those of others, and write and print all of them.

    They are in ``results/STEM.json``, and in ``results/STEM.md`` as tables.
    """
    path = RESULTS / f"{stem}.json"
    sizes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    where = f"{chosen.size} x {chosen.size}, {chosen.coils} coils, {chosen.device}"
    facts = provenance() | {"rounds": str(chosen.rounds)}
    sizes[where] = {"measured": measured, "provenance": facts}
    write_json(path, sizes)
    lines = [f"# {title}\n", text.strip() + "\n"]
    for name, content in sizes.items():
        lines += [f"## {name}\n", *table(content["measured"]), ""]
        lines += [as_markdown(content["provenance"])]
    (RESULTS / f"{stem}.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
