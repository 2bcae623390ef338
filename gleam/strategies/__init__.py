"""Training strategies behind one switch."""

from gleam.strategies.base import NonFiniteError, StepResult, Strategy
from gleam.strategies.end_to_end import Backprop, Checkpoint
from gleam.strategies.greedy import Greedy
from gleam.strategies.invertible import InvertibilityError, Invertible
from gleam.strategies.offload import Offload

STRATEGIES: dict[str, type[Strategy]] = {
    "backprop": Backprop,
    "checkpoint": Checkpoint,
    "invertible": Invertible,
    "offload": Offload,
    "greedy": Greedy,
}

__all__ = [
    "STRATEGIES",
    "Backprop",
    "Checkpoint",
    "Greedy",
    "InvertibilityError",
    "Invertible",
    "NonFiniteError",
    "Offload",
    "StepResult",
    "Strategy",
]
