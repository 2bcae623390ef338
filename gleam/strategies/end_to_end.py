"""End-to-end training: one loss behind the last step, one gradient through all of them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch.utils.checkpoint import checkpoint

from gleam.batch import Batch
from gleam.strategies.base import Losses, Strategy, report


class Backprop(Strategy):
    """Plain backpropagation; stores the activations of every step."""

    def optimise(self, *batches: Batch) -> Losses:
        """See :meth:`Strategy.train_step`."""
        parts = []
        for batch in batches:
            with self.storing(batch):
                state = self.network.start(batch)
                for index in self.modules[0].steps:
                    state = self.advance(index, state, batch)
                part = self.score(state, batch) / len(batches)
                self.backward([part])
            parts.append(part.detach())
        return report([parts], [self.modules[0].update()])

    def advance(self, index: int, state: Any, batch: Batch) -> Any:
        """One unrolled iteration."""
        return self.network.step(index, state, batch)

    def storing(self, batch: Batch) -> AbstractContextManager[object]:
        """A context around both passes of a batch that decides where activations are kept."""
        return nullcontext()


class Checkpoint(Backprop):
    """Gradient checkpointing of every step (arXiv 1604.06174).

    Stores the states between steps and computes each step's activations once more in the backward
    pass; the gradients are those of :class:`Backprop`, bit for bit. Random layers such as dropout
    draw the same numbers again.

    Raises:
        ValueError: if a layer tracks running statistics, which would count every batch twice.
    """

    recomputes: ClassVar[bool] = True

    def advance(self, index: int, state: Any, batch: Batch) -> Any:
        """One unrolled iteration that stores nothing but its input."""
        return checkpoint(self.network.step, index, state, batch, use_reentrant=False)
