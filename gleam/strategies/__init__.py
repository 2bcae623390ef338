"""Training strategies behind one switch."""

from gleam.strategies.base import NonFiniteError, StepResult, Strategy
from gleam.strategies.end_to_end import Backprop, Checkpoint
from gleam.strategies.greedy import Greedy

STRATEGIES: dict[str, type[Strategy]] = {
    "backprop": Backprop,
    "checkpoint": Checkpoint,
    "greedy": Greedy,
}

__all__ = [
    "STRATEGIES",
    "Backprop",
    "Checkpoint",
    "Greedy",
    "NonFiniteError",
    "StepResult",
    "Strategy",
]
