"""Which worker trains which modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def assign(costs: Sequence[float], workers: int) -> list[range]:
    """Consecutive modules for every worker, so that the slowest worker is as fast as possible.

    Of equally good assignments that where the earlier workers have more.

    Args:
        costs: of the modules, in any unit.
        workers: how many, each gets at least one module.

    Raises:
        ValueError: if there are more workers than modules, or none.
    """
    count = len(costs)
    if not 1 <= workers <= count:
        raise ValueError(
            f"each worker trains at least one module: {count} modules can keep 1 to {count} "
            f"workers busy, got {workers}"
        )
    sums = [0.0, *accumulate(costs)]
    # best[m]: the slowest worker's cost and the ends of all, if the first m modules are assigned.
    best: list[tuple[float, tuple[int, ...]]] = [(sums[m], (m,)) for m in range(count + 1)]
    for done in range(2, workers + 1):
        best = [
            min(
                (
                    (max(best[cut][0], sums[m] - sums[cut]), (*best[cut][1], m))
                    for cut in range(done - 1, m)
                ),
                key=lambda found: (found[0], [-end for end in found[1]]),
                default=(float("inf"), ()),
            )
            for m in range(count + 1)
        ]
    ends = best[count][1]
    return [range(first, last) for first, last in zip((0, *ends), ends, strict=False)]


def speed_up(costs: Sequence[float], assignment: Sequence[range]) -> float:
    """How many times faster than one worker a full pipeline is, hand-over not counted."""
    return sum(costs) / max(sum(costs[m] for m in modules) for modules in assignment)
