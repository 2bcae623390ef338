"""Networks whose first steps are trained already and stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gleam.strategies.modules import Network


class Continuation:
    """The steps of a network behind the first ones, as a network of their own.

    It starts from what the first steps make of a batch, in evaluation mode and without history: in
    training they cost a forward pass and no activations. Neither their parameters nor any outside
    the steps require a gradient from now on.

    Args:
        network: the whole.
        frozen: how many first steps stay as they are.

    Raises:
        ValueError: if no step is left, or one shares weights with those that stay.
    """

    def __init__(self, network: Network, frozen: int) -> None:
        count = len(network.steps)
        if not 0 < frozen < count:
            raise ValueError(
                f"of {count} steps, 1 to {count - 1} may be frozen so that some are left to train, "
                f"got {frozen}"
            )
        self.network = network
        self.frozen = network.steps[:frozen]
        self.steps = network.steps[frozen:]
        learning = set(self.steps.parameters())
        if not learning.isdisjoint(self.frozen.parameters()):
            raise ValueError(
                "steps that are trained must not share weights with frozen ones: use separate "
                "weights (shared: false)"
            )
        for parameter in network.parameters():
            if parameter not in learning:
                parameter.requires_grad_(False)

    @torch.no_grad()
    def start(self, batch: Any) -> Any:
        """The state behind the frozen steps."""
        self.frozen.eval()  # else they would drop features at random, or count statistics
        state = self.network.start(batch)
        for index in range(len(self.frozen)):
            state = self.network.step(index, state, batch)
        return state

    def step(self, index: int, state: Any, batch: Any) -> Any:
        """Advance the state by one of the steps behind."""
        return self.network.step(len(self.frozen) + index, state, batch)

    def image(self, state: Any, batch: Any) -> Tensor:
        """The reconstruction that a state stands for."""
        return self.network.image(state, batch)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Of the whole network, frozen ones among them."""
        return self.network.parameters()
