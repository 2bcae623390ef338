"""A plain sequence of steps, with functions for what else a strategy needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from gleam.adapters.base import Adapter
from gleam.batch import Batch

Start = Callable[[Batch], Any]
Step = Callable[[nn.Module, Any, Batch], Any]
Image = Callable[[Any, Batch], Tensor]


class StepSequence(Adapter):
    """The members of an ``nn.Sequential`` or ``nn.ModuleList`` as steps.

    Functions that are modules learn with the first greedy module.

    Args:
        network: the sequence.
        start: of a batch, the state before the first step: a tensor, or tensors in tuples, lists
            or dicts.
        image: of a state and a batch, the reconstruction, shaped as the batch's target.
        step: of a member, a state and a batch, the state behind that member; by default the
            member is called with the state.

    Raises:
        ValueError: if ``start`` or ``image`` is missing, or the sequence is empty.
    """

    looks_for: ClassVar[str] = (
        "an nn.Sequential or nn.ModuleList of steps, given start=function(batch) and "
        "image=function(state, batch)"
    )

    def __init__(
        self,
        network: nn.Sequential | nn.ModuleList,
        start: Start | None = None,
        image: Image | None = None,
        step: Step = lambda member, state, batch: member(state),
    ) -> None:
        super().__init__(network, network)
        if start is None or image is None:
            raise ValueError(
                f"an {type(network).__name__} says nothing of how its first state is made of a "
                "batch and what image a state stands for; give functions, such as gleam.wrap("
                "network, start=lambda batch: batch.zero_filled, image=lambda state, batch: state)"
            )
        self.make_start = start
        self.take_step = step
        self.read_image = image

    @staticmethod
    def knows(network: nn.Module) -> bool:
        """Whether it is such a sequence."""
        return isinstance(network, nn.Sequential | nn.ModuleList)

    def start(self, batch: Batch) -> Any:
        """The state before the first member."""
        return self.make_start(batch)

    def step(self, index: int, state: Any, batch: Batch) -> Any:
        """One member."""
        return self.take_step(self.steps[index], state, batch)

    def image(self, state: Any, batch: Batch) -> Tensor:
        """What the function reads out of a state."""
        return self.read_image(state, batch)
