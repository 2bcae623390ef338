"""End-to-end training: one loss behind the last step, one gradient through all of them."""

from typing import Any

from torch.utils.checkpoint import checkpoint

from gleam.batch import Batch
from gleam.strategies.base import StepResult, Strategy, report


class Backprop(Strategy):
    """Plain backpropagation; stores the activations of every step."""

    def train_step(self, *batches: Batch) -> StepResult:
        """See :meth:`Strategy.train_step`."""
        parts = []
        for batch in batches:
            state = self.network.start(batch)
            for index in self.modules[0].steps:
                state = self.advance(index, state, batch)
            part = self.score(state, batch) / len(batches)
            part.backward()
            parts.append(part.detach())
        return report([parts], [self.modules[0].update()])

    def advance(self, index: int, state: Any, batch: Batch) -> Any:
        """One unrolled iteration."""
        return self.network.step(index, state, batch)


class Checkpoint(Backprop):
    """Gradient checkpointing of every step (arXiv 1604.06174).

    Stores the states between steps and computes each step's activations once more in the backward
    pass; the gradients are those of :class:`Backprop`, bit for bit.
    """

    def advance(self, index: int, state: Any, batch: Batch) -> Any:
        """One unrolled iteration that stores nothing but its input."""
        return checkpoint(self.network.step, index, state, batch, use_reentrant=False)
