"""Timing in turn, and rows of Markdown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor

OURS = "this library"


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        run: what is timed.
        result: of what ``run`` returned, in this library's layout.
        seconds: of what ``run`` returned: the time that it says it took; the measured one if none.
    """

    run: Callable[[], Any]
    result: Callable[[Any], Tensor] = lambda returned: returned
    seconds: Callable[[Any], float | None] = lambda returned: None


def time_in_turn(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in every round; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            returned = contender.run()
            measured = time.perf_counter() - start
            if number:
                seconds[name].append(contender.seconds(returned) or measured)
    return seconds


def as_rows(what: str, seconds: Mapping[str, list[float]], notes: Mapping[str, str]) -> list[str]:
    """Rows of Markdown: median time, how many times as long as this library's, and a note."""
    rows = []
    for name, values in seconds.items():
        ratio = median(a / b for a, b in zip(values, seconds[OURS], strict=True))
        cells = [what, name, f"{median(values) * 1e3:.2f}", f"{ratio:.2f}", notes.get(name, "")]
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def relative(result: Tensor, reference: Tensor) -> float:
    """Norm of the difference over that of the reference."""
    return float((result - reference).detach().norm() / reference.detach().norm())


def differences(
    contenders: Mapping[str, Contender],
    measure: Callable[[Any, Any], float] = relative,
) -> dict[str, str]:
    """How far each result is from this library's."""
    results = {name: c.result(c.run()) for name, c in contenders.items()}
    return {
        name: f"{measure(result, results[OURS]):.0e}"
        for name, result in results.items()
        if name != OURS
    }


def head(last: str) -> list[str]:
    """Of a table of :func:`as_rows`."""
    return [f"| problem | package | time [ms] | / this library | {last} |", "|---|---|---|---|---|"]
