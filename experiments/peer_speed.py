"""Time and memory of this library's building blocks beside those of other packages.

    python -m experiments.peer_speed [--rounds 9] [--threads 2] [--part NAME ...]

SENSE operators, CG-SENSE, ESPIRiT, a MoDL training step and its inference: this library, sigpy,
torch as the formulas read, mrpro, deepinv, fastMRI and BART, those of them that are installed
(experiments/peers/README.md). All run in one process, in turn; read the ratios, medians over
rounds of the ratio within a round. Every result is compared with this library's first. Of BART,
a program, the time is the one that it prints, without its start and its files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from experiments.memory_report import write_json
from experiments.peers import modl_steps, rates
from experiments.peers.operators import MAKERS, MASKS, SIZES, Encoding, Problem, make_problem
from experiments.peers.packages import PACKAGES, imports, versions
from experiments.peers.reconstruction import (
    ITERATIONS,
    cg_sense,
    coil_maps,
    relative_of_maps,
    residual,
)
from experiments.peers.timing import Contender, as_rows, differences, head, time_in_turn
from experiments.provenance import RESULTS, as_markdown, provenance
from gleam.allocator import keep_freed_memory


def encodings_of(problem: Problem) -> dict[str, Encoding]:
    """Operators of the packages that are there and have one for the problem."""
    found = {}
    for name, make in MAKERS.items():
        if name in PACKAGES and not imports(name):
            continue
        encoding = make(problem)
        if encoding is not None:
            found[name] = encoding
    return found


def compare_operators(rounds: int, threads: int) -> list[str]:
    """Forward, adjoint and normal of all sizes and masks."""
    lines = ["\n## SENSE operator, 8 coils\n", *head("difference")]
    for kind in SIZES:
        for pattern in MASKS:
            encodings = encodings_of(make_problem(kind, pattern))
            for name in ("forward", "adjoint", "normal"):
                contenders = {package: operation(e, name) for package, e in encodings.items()}
                notes = {}
                if name != "forward":  # k-space is kept in layouts that cannot be compared
                    notes = differences(contenders)
                what = f"{kind} {'x'.join(map(str, SIZES[kind]))}, {pattern} mask, {name}"
                lines += as_rows(what, time_in_turn(contenders, rounds), notes)
    return lines


def operation(encoding: Encoding, name: str) -> Contender:
    """An operation of an operator on its own data."""
    function = getattr(encoding, name)
    argument = encoding.kspace if name == "adjoint" else encoding.image
    return Contender(lambda: function(argument), encoding.to_image)


def compare_cg(rounds: int, threads: int) -> list[str]:
    """CG-SENSE of slices and volumes."""
    lines = [f"\n## CG-SENSE, {ITERATIONS} iterations, 8 coils\n", *head("residual")]
    for kind, pattern in (("2D", "1D"), ("2D", "2D"), ("3D", "1D")):
        problem = make_problem(kind, pattern)
        contenders = cg_sense(problem, encodings_of(problem), threads)
        notes = {
            name: f"{residual(problem, c.result(c.run())):.1e}" for name, c in contenders.items()
        }
        seconds = time_in_turn(contenders, rounds if kind == "2D" else min(rounds, 3))
        lines += as_rows(f"{kind}, {pattern} mask", seconds, notes)
    return lines


def compare_espirit(rounds: int, threads: int) -> list[str]:
    """ESPIRiT of slices."""
    contenders = coil_maps(make_problem("2D", "1D"), threads)
    notes = differences(contenders, relative_of_maps)
    seconds = time_in_turn(contenders, rounds)
    lines = ["\n## ESPIRiT, 24 x 24 calibration, kernels of 6\n", *head("difference")]
    return lines + as_rows(f"2D {'x'.join(map(str, SIZES['2D']))}, 8 coils", seconds, notes)


PARTS: dict[str, Callable[[int, int], list[str]]] = {
    "operators": compare_operators,
    "cg": compare_cg,
    "espirit": compare_espirit,
    "modl": modl_steps.compare,
    "rates": rates.compare,
}


def main() -> None:
    """Measure, print and write ``results/peer_speed.json`` and ``.md``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    facts = provenance() | {"threads": str(arguments.threads)} | versions()
    for name in arguments.part:
        lines = PARTS[name](arguments.rounds, arguments.threads)
        keep(name, {"lines": lines, "provenance": facts})


def keep(name: str, measured: dict[str, Any]) -> None:
    """Keep what was measured of a part beside the others, and write all of them as Markdown."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "peer_speed.json"
    parts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts[name] = measured
    write_json(path, parts)
    text = ["# Speed beside other packages\n", (__doc__ or "").partition("NAME ...]\n\n")[2]]
    for part in PARTS:
        if part in parts:
            text += [*parts[part]["lines"], "", as_markdown(parts[part]["provenance"])]
    (RESULTS / "peer_speed.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
