"""Memory and time of a long network from traces of short ones.

Both are linear in the steps of a module and in the number of modules, once there is a first, a
middle and a last of each, and in the frozen steps before them: tests hold that against measured
runs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import product

from gleam.config import Config, load_config
from gleam.cost import MACHINES
from gleam.plan_shapes import BatchShape
from gleam.plan_trace import trace
from gleam.strategies.invertible import KEEP_EVERY
from models.unrolled import INVERTIBLE_ITERATIONS

CG_ITERATIONS = 10  # of MoDLStep by default
SOLVES = {"pgd": 20, "modl": 30}
"""Iterations assumed for conjugate gradients beside an invertible regularizer: to a tolerance."""


@dataclass(frozen=True)
class Estimate:
    """What a training step takes.

    Attributes:
        parts: bytes at the peak, by what holds them.
        seconds: good for ratios only.
    """

    parts: dict[str, float]
    seconds: float

    @property
    def bytes(self) -> float:
        """All parts."""
        return sum(self.parts.values())


class Estimator:
    """Traces short networks, each once, and extrapolates from them.

    Args:
        config: of the run; its strategy is replaced.
        shape: of its batches.
        device: "cpu" or "cuda".
    """

    def __init__(self, config: Config, shape: BatchShape, device: str) -> None:
        self._config = config
        self._shape = shape
        self._device = device
        self._traced: dict[tuple[str, int, int, int], Estimate] = {}

    def estimate(self, name: str, length: int, modules: int) -> Estimate:
        """A network of so many modules of so many steps, behind the frozen ones if greedy."""
        lengths = _points(length, *self._lengths(name))
        counts = _points(modules, *self._modules(length))
        fronts = _points(self._config.strategy.frozen if name == "greedy" else 0, 1, 1)
        parts: dict[str, float] = {}
        seconds = 0.0
        for (steps, a), (count, b), (frozen, c) in product(lengths, counts, fronts):
            found = self._trace(name, steps, count, frozen)
            seconds += a * b * c * found.seconds
            for part, size in found.parts.items():
                parts[part] = parts.get(part, 0.0) + a * b * c * size
        return Estimate(parts, seconds)

    def deepest(self, name: str, length: int, limit: float) -> int | None:
        """Steps of the deepest network within so many bytes, of modules of this length if greedy.

        Frozen steps count, too.

        Returns:
            0 if none fits, None if all do.
        """
        greedy = name == "greedy"

        def need(count: int) -> float:
            steps = (length, count) if greedy else (count, 1)
            return self.estimate(name, *steps).bytes

        count, stride = self._modules(length) if greedy else self._lengths(name)
        free, growth = limit - need(count), need(count + stride) - need(count)
        if free >= 0 and growth <= 0:
            return None
        if free >= 0:
            count += math.floor(stride * free / growth)
        count = bisect_right(range(1, count + 1), limit, key=need)
        return count and self._config.strategy.frozen + count * length if greedy else count

    def _lengths(self, name: str) -> tuple[int, int]:
        """From this number of steps a module on, costs grow by the same for every so many more."""
        if name == "invertible":
            every = self._config.strategy.checkpoint_every or KEEP_EVERY
            return max(3, every + 1), every
        if name != "greedy":
            return 3, 1
        return max(2, self._config.strategy.lookahead), 1

    def _modules(self, length: int) -> tuple[int, int]:
        """The same for modules: a first one, one that looks ahead all the way, and a last."""
        return 2 + math.ceil(self._config.strategy.lookahead / length), 1

    def _trace(self, name: str, length: int, modules: int, frozen: int) -> Estimate:
        key = name, length, modules, frozen
        if key not in self._traced:
            config = variant(self._config, name, frozen + length * modules, modules, frozen)
            found = trace(config, self._shape, self._device)
            machine = MACHINES[self._device]
            further = max(0, solver_iterations(self._config) - 2)
            seconds = machine.seconds(found.work) + further * machine.seconds(found.iteration)
            self._traced[key] = Estimate({**found.parts}, seconds)
        return self._traced[key]


def variant(
    config: Config, name: str, steps: int, modules: int, frozen: int | None = None
) -> Config:
    """The configuration under another strategy, with the options that it has there.

    Args:
        config: of the run.
        name: of the strategy.
        steps: of the network.
        modules: of greedy.
        frozen: steps that greedy leaves as they are; as many as in the run if None.
    """
    own = config.strategy
    if name != "greedy":
        frozen = 0
    elif frozen is None:
        frozen = own.frozen
    strategy = {
        "name": name,
        "modules": modules if name == "greedy" else None,
        "lookahead": own.lookahead if name == "greedy" else 0,
        "frozen": frozen,
        "checkpoint_every": own.checkpoint_every if name == "invertible" else None,
        "budget": None,
    }
    source = config.grown_from if frozen else None
    return load_config(config, network={"steps": steps}, strategy=strategy, grown_from=source)


def _points(value: int, low: int, stride: int) -> list[tuple[int, float]]:
    """Where to evaluate a function, linear from ``low`` on, and weights that give its value."""
    if value <= low + stride:
        return [(value, 1.0)]
    far = (value - low) / stride
    return [(low, 1.0 - far), (low + stride, far)]


def solver_iterations(config: Config) -> int:
    """Iterations of conjugate gradients in every solve."""
    network = config.network
    if network.regularizer != "cnn":
        return min(SOLVES[network.step], network.cg_iterations or INVERTIBLE_ITERATIONS)
    return (network.cg_iterations or CG_ITERATIONS) if network.step == "modl" else 1
