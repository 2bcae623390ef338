"""What all adapters have in common, and conversions to complex numbers as pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gleam.batch import Batch


class Adapter(nn.Module, ABC):
    """A network of another package on the seam of :class:`gleam.strategies.modules.Network`.

    Args:
        network: whose modules, not copies of them, are trained.
        steps: its unrolled iterations; a module in several of them is shared by these.

    Attributes:
        looks_for: what tells a network that the adapter is for, in words.
        unshare: how steps get weights of their own, which several greedy modules need.

    Raises:
        ValueError: if there is no step.
    """

    looks_for: ClassVar[str]
    unshare: ClassVar[str] = "give every step weights of its own"
    steps: nn.ModuleList

    def __init__(self, network: nn.Module, steps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.network: Any = network
        # Past nn.Module, or the state_dict would hold every weight twice.
        object.__setattr__(self, "steps", nn.ModuleList(steps))
        if not len(self.steps):
            raise ValueError(f"{type(network).__name__} has no step to train")

    @staticmethod
    @abstractmethod
    def knows(network: nn.Module) -> bool:
        """Whether the adapter is for this network."""

    @abstractmethod
    def start(self, batch: Batch) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, index: int, state: Any, batch: Batch) -> Any:
        """Advance the state by one unrolled iteration."""

    @abstractmethod
    def image(self, state: Any, batch: Batch) -> Tensor:
        """The reconstruction that a state stands for."""

    def forward(self, batch: Batch) -> Tensor:
        """Reconstruct: all steps, then the image."""
        state = self.start(batch)
        for index in range(len(self.steps)):
            state = self.step(index, state, batch)
        return self.image(state, batch)


def has(network: nn.Module, *names: str) -> bool:
    """Whether a network has all these attributes."""
    return all(hasattr(network, name) for name in names)


def check_plane(batch: Batch, what: str) -> None:
    """Refuse all but 2D images.

    Raises:
        ValueError: naming the network.
    """
    if batch.kspace.ndim != 4:
        raise ValueError(
            f"{what} takes 2D images, k-space (batch, coils, y, x), got shape "
            f"{tuple(batch.kspace.shape)}; train it on the planes of volumes"
        )


def pairs(values: Tensor, axis: int) -> Tensor:
    """Complex to real, with real and imaginary parts along a new axis."""
    return torch.view_as_real(values.resolve_conj()).movedim(-1, axis)


def from_pairs(values: Tensor, axis: int) -> Tensor:
    """Inverse of :func:`pairs`."""
    return torch.view_as_complex(values.movedim(axis, -1).contiguous())
