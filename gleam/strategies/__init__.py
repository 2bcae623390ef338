"""Training strategies behind one switch."""

from gleam.strategies.base import (
    Iteration,
    NonFiniteError,
    OutOfReachError,
    StepResult,
    Strategy,
)
from gleam.strategies.end_to_end import Backprop, Checkpoint
from gleam.strategies.greedy import Greedy
from gleam.strategies.invertible import InvertibilityError, Invertible
from gleam.strategies.offload import Offload
from gleam.strategies.parallel import GreedyParallel

STRATEGIES: dict[str, type[Strategy]] = {
    "backprop": Backprop,
    "checkpoint": Checkpoint,
    "invertible": Invertible,
    "offload": Offload,
    "greedy": Greedy,
    "greedy-parallel": GreedyParallel,
}

__all__ = [
    "STRATEGIES",
    "Backprop",
    "Checkpoint",
    "Greedy",
    "GreedyParallel",
    "InvertibilityError",
    "Invertible",
    "Iteration",
    "NonFiniteError",
    "Offload",
    "OutOfReachError",
    "StepResult",
    "Strategy",
]
