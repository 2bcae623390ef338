"""Unrolled reconstruction networks: a physics step and a learned step, repeated.

A network is anything with ``steps``, ``start``, ``step`` and ``image`` as :class:`UnrolledNetwork`
has them; training strategies know nothing else about it. Here the state is the image itself.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from physics.solvers import conjugate_gradient


class Operator(Protocol):
    """A linear encoding operator, Cartesian or not."""

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A`` of an image ``(batch, maps, *space)``."""


class Measurements(Protocol):
    """What a step reads of a batch."""

    @property
    def operator(self) -> Operator:
        """The encoding operator A."""

    @property
    def zero_filled(self) -> Tensor:
        """The zero-filled image A^H y, complex ``(batch, maps, *space)``."""


class ProximalGradientStep(nn.Module):
    """``x <- R(x - s A^H (A x - y))`` with a learned step size s (arXiv 2207.08393).

    Args:
        regularizer: R, complex image to complex image of the same shape.
        step_size: first value of s; 1 is the largest step that cannot diverge when the squared
            magnitudes of the coil maps sum to one.
    """

    def __init__(self, regularizer: nn.Module, step_size: float = 1.0) -> None:
        super().__init__()
        self.regularizer = regularizer
        self.step_size = nn.Parameter(torch.tensor(float(step_size)))

    def forward(self, image: Tensor, measurements: Measurements) -> Tensor:
        """One unrolled iteration on a complex image ``(batch, maps, *space)``."""
        gradient = measurements.operator.normal(image) - measurements.zero_filled
        return self.regularizer(image - self.step_size * gradient)


class MoDLStep(nn.Module):
    """``x <- argmin |A x - y|^2 + lambda |x - R(x)|^2`` by conjugate gradients (arXiv 1712.02862).

    Args:
        regularizer: R, complex image to complex image of the same shape.
        weight: first value of the learned lambda, positive; learned as its logarithm.
        iterations: of conjugate gradients, at most.
        tolerance: relative residual at which they stop.
    """

    def __init__(
        self,
        regularizer: nn.Module,
        weight: float = 0.05,
        iterations: int = 10,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"the weight lambda must be positive, got {weight}")
        self.regularizer = regularizer
        self.log_weight = nn.Parameter(torch.tensor(float(weight)).log())
        self.iterations = iterations
        self.tolerance = tolerance

    def forward(self, image: Tensor, measurements: Measurements) -> Tensor:
        """One unrolled iteration on a complex image ``(batch, maps, *space)``."""
        weight = self.log_weight.exp()
        return conjugate_gradient(
            measurements.operator.normal,
            measurements.zero_filled + weight * self.regularizer(image),
            shift=weight,
            start=image.detach(),
            iterations=self.iterations,
            tolerance=self.tolerance,
        )


class UnrolledNetwork(nn.Module):
    """A sequence of unrolled iterations (steps).

    Args:
        make_step: builds one step, ``(image, measurements) -> image``.
        steps: how many.
        shared: one set of weights for all steps instead of one each.

    Raises:
        ValueError: if ``steps`` is below one.
    """

    def __init__(
        self, make_step: Callable[[], nn.Module], steps: int, shared: bool = False
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"a network needs at least one step, got {steps}")
        first = make_step()
        others = [first if shared else make_step() for _ in range(steps - 1)]
        self.steps = nn.ModuleList([first, *others])

    def start(self, batch: Measurements) -> Tensor:
        """The state before the first step: the zero-filled image ``(batch, maps, *space)``."""
        return batch.zero_filled

    def step(self, index: int, state: Tensor, batch: Measurements) -> Tensor:
        """Advance the state by unrolled iteration ``index``, counted from zero."""
        return self.steps[index](state, batch)

    def image(self, state: Tensor, batch: Measurements) -> Tensor:
        """The reconstruction that a state stands for, complex ``(batch, maps, *space)``."""
        return state

    def forward(self, batch: Measurements) -> Tensor:
        """Reconstruct: all steps, complex ``(batch, maps, *space)``."""
        state = self.start(batch)
        for index in range(len(self.steps)):
            state = self.step(index, state, batch)
        return self.image(state, batch)
