"""Greedy training: every module has its own loss, and hands its detached output on."""

from typing import Any

from torch import Tensor

from gleam.batch import Batch
from gleam.strategies.base import Module, StepResult, Strategy, report


class Greedy(Strategy):
    """Greedy, decoupled training of modules one after the other (arXiv 2207.08393).

    Each module runs forward from its detached input, is scored against the target, goes backward
    and is updated; the next one receives the output computed before that update. Holds the
    activations of one module.
    """

    def train_step(self, *batches: Batch) -> StepResult:
        """See :meth:`Strategy.train_step`."""
        states: list[Any] = [None] * len(batches)
        losses: list[list[Tensor]] = []
        norms = []
        for module in self.modules:
            losses.append([])
            for number, batch in enumerate(batches):
                part, states[number] = self._forward(module, states[number], batch)
                part = part / len(batches)
                # Parameters outside the steps may appear in every image: only their owner learns.
                part.backward(inputs=module.trainable)
                losses[-1].append(part.detach())
            norms.append(module.update())
        return report(losses, norms)

    def _forward(self, module: Module, state: Any, batch: Batch) -> tuple[Tensor, Any]:
        if module is self.modules[0]:
            state = self.network.start(batch)
        for index in module.steps:
            state = self.network.step(index, state, batch)
        return self.score(state, batch), detach(state)


def detach(state: Any) -> Any:
    """Cut a state, a tensor or tensors in tuples, lists or dicts, off its history."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: detach(value) for key, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*map(detach, state))
    if isinstance(state, tuple | list):
        return type(state)(map(detach, state))
    if state is None or isinstance(state, int | float | str):
        return state
    raise TypeError(
        f"a state must be tensors, alone or in tuples, lists or dicts, got {type(state).__name__}"
    )
