"""Unrolled reconstruction networks: a physics step and a learned step, repeated.

A network is anything with ``steps``, ``start``, ``step`` and ``image`` as :class:`UnrolledNetwork`
has them; training strategies know nothing else about it. Here the state is the image, with hidden
channels beside it if the network has any: complex ``(batch, maps + hidden, *space)``.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from physics.solvers import conjugate_gradient

LARGEST_INVERTIBLE_STEP = 0.5
"""Bound on the step size s where it is to be undone, which multiplies errors by 1 / (1 - s)."""

INVERTIBLE_ITERATIONS = 100


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

    Hidden channels, if any, enter and leave R beside x. With an R that has an inverse the step has
    one too: s then stays below :data:`LARGEST_INVERTIBLE_STEP` whatever training does.

    Args:
        regularizer: R, complex ``(batch, maps + hidden, *space)`` to the same shape.
        step_size: first value of s; 1 is the largest step that cannot diverge when the squared
            magnitudes of the coil maps sum to one. By default 1, or with an invertible R 0.9 of
            its bound.

    Raises:
        ValueError: if the step size is out of the range that an invertible R allows.
    """

    def __init__(self, regularizer: nn.Module, step_size: float | None = None) -> None:
        super().__init__()
        self.regularizer: Any = regularizer  # a module, perhaps with an inverse
        self.invertible = hasattr(regularizer, "inverse")
        if not self.invertible:
            self.step_size = nn.Parameter(
                torch.tensor(1.0 if step_size is None else float(step_size))
            )
            return
        fraction = 0.9 if step_size is None else step_size / LARGEST_INVERTIBLE_STEP
        if not 0 < fraction < 1:
            raise ValueError(
                "a step with an invertible regularizer needs a step size between 0 and "
                f"{LARGEST_INVERTIBLE_STEP}, got {step_size}"
            )
        self.step_logit = nn.Parameter(torch.tensor(fraction).logit())

    def size(self) -> Tensor:
        """The step size s, a scalar."""
        if not self.invertible:
            return self.step_size
        return LARGEST_INVERTIBLE_STEP * self.step_logit.sigmoid()

    def forward(self, state: Tensor, measurements: Measurements) -> Tensor:
        """One unrolled iteration on a state ``(batch, maps + hidden, *space)``."""
        image, hidden = split_state(state, measurements)
        gradient = measurements.operator.normal(image) - measurements.zero_filled
        return self.regularizer(join_state(image - self.size() * gradient, hidden))

    @torch.no_grad()
    def inverse(self, state: Tensor, measurements: Measurements) -> Tensor:
        """The state before :meth:`forward`: R undone, then ``(1 - s A^H A) x`` by CG."""
        image, hidden = split_state(self.regularizer.inverse(state), measurements)
        size, normal = self.size().to(image.real.dtype), measurements.operator.normal
        image = conjugate_gradient(
            lambda x: x - size * normal(x),
            image - size * measurements.zero_filled.to(image.dtype),
            start=image,
            iterations=INVERTIBLE_ITERATIONS,
            tolerance=1e-14,
        )
        return join_state(image, hidden)


class MoDLStep(nn.Module):
    """``x <- argmin |A x - y|^2 + lambda |x - R(x)|^2`` by conjugate gradients (arXiv 1712.02862).

    Hidden channels, if any, enter and leave R beside x. With an R that has an inverse the step has
    one too, in closed form; as that multiplies what conjugate gradients left undone by
    ``1 + 1 / lambda``, the solution is then refined in double precision.

    Args:
        regularizer: R, complex ``(batch, maps + hidden, *space)`` to the same shape.
        weight: first value of the learned lambda, positive; learned as its logarithm. By default
            0.05, or 0.25 with an invertible R.
        iterations: of conjugate gradients, at most; by default 10, or 100 with an invertible R.
        tolerance: relative residual at which they stop.
    """

    def __init__(
        self,
        regularizer: nn.Module,
        weight: float | None = None,
        iterations: int | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        self.invertible = hasattr(regularizer, "inverse")
        if weight is None:
            weight = 0.25 if self.invertible else 0.05
        if weight <= 0:
            raise ValueError(f"the weight lambda must be positive, got {weight}")
        self.regularizer: Any = regularizer  # a module, perhaps with an inverse
        self.log_weight = nn.Parameter(torch.tensor(float(weight)).log())
        default = INVERTIBLE_ITERATIONS if self.invertible else 10
        self.iterations = default if iterations is None else iterations
        self.tolerance = tolerance

    def forward(self, state: Tensor, measurements: Measurements) -> Tensor:
        """One unrolled iteration on a state ``(batch, maps + hidden, *space)``."""
        weight = self.log_weight.exp()
        prior, hidden = split_state(self.regularizer(state), measurements)
        rhs = measurements.zero_filled + weight * prior
        start = split_state(state.detach(), measurements)[0]
        if self.invertible:
            with torch.no_grad():
                start = self._refine(start, rhs, weight, measurements)
            return join_state(self._refine(start, rhs, weight, measurements), hidden)
        image = conjugate_gradient(
            measurements.operator.normal,
            rhs,
            shift=weight,
            start=start,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        return join_state(image, hidden)

    def _refine(self, x: Tensor, rhs: Tensor, weight: Tensor, measurements: Measurements) -> Tensor:
        """Solve for what is missing from x; twice as many digits each time, and exact gradients."""
        normal = measurements.operator.normal
        missing = rhs - normal(x) - weight * x
        correction = conjugate_gradient(
            normal,
            missing.to(measurements.zero_filled.dtype),
            shift=weight,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        return x + correction

    @torch.no_grad()
    def inverse(self, state: Tensor, measurements: Measurements) -> Tensor:
        """The state before :meth:`forward`: ``x + (A^H A x - A^H y) / lambda``, then R undone."""
        image, hidden = split_state(state, measurements)
        gradient = measurements.operator.normal(image) - measurements.zero_filled
        prior = image + gradient / self.log_weight.exp()
        return self.regularizer.inverse(join_state(prior, hidden))


def split_state(state: Tensor, measurements: Measurements) -> tuple[Tensor, Tensor | None]:
    """Image ``(batch, maps, *space)`` and hidden channels ``(batch, hidden, *space)``, if any."""
    maps = measurements.zero_filled.shape[1]
    if state.shape[1] == maps:
        return state, None  # a slice of everything costs its backward pass a copy
    return state[:, :maps], state[:, maps:]


def join_state(image: Tensor, hidden: Tensor | None) -> Tensor:
    """Inverse of :func:`split_state`."""
    return image if hidden is None else torch.cat([image, hidden], 1)


class UnrolledNetwork(nn.Module):
    """A sequence of unrolled iterations (steps).

    Args:
        make_step: builds one step, ``(image, measurements) -> image``.
        steps: how many.
        shared: one set of weights for all steps instead of one each.
        hidden: complex channels that a step hands on beside the image.

    Raises:
        ValueError: if ``steps`` is below one or ``hidden`` below zero.
    """

    def __init__(
        self,
        make_step: Callable[[], nn.Module],
        steps: int,
        shared: bool = False,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"a network needs at least one step, got {steps}")
        if hidden < 0:
            raise ValueError(f"hidden channels cannot be fewer than none, got {hidden}")
        first = make_step()
        others = [first if shared else make_step() for _ in range(steps - 1)]
        self.steps = nn.ModuleList([first, *others])
        self.hidden = hidden
        self.invertible = all(getattr(step, "invertible", False) for step in self.steps)

    @property
    def reach(self) -> int:
        """How many pixels away the regularizer of a step still looks."""
        steps: list[Any] = [*self.steps]
        return max(step.regularizer.reach for step in steps)

    def start(self, batch: Measurements) -> Tensor:
        """The state before the first step: the zero-filled image, hidden channels zero.

        If the steps have inverses, it is in double precision, for these multiply every error, and
        hidden channels are copies of the image: a coupling moves one half of the state by what the
        other holds, and from zeros nothing would ever be learned.
        """
        image = batch.zero_filled
        if self.invertible:
            image = image.to(torch.complex128)
        if not self.hidden:
            return image
        if not self.invertible:
            return join_state(image, image.new_zeros(len(image), self.hidden, *image.shape[2:]))
        enough = -(-self.hidden // image.shape[1])
        copies = image.repeat(1, enough, *[1] * (image.ndim - 2))
        return join_state(image, copies[:, : self.hidden])

    def step(self, index: int, state: Tensor, batch: Measurements) -> Tensor:
        """Advance the state by unrolled iteration ``index``, counted from zero."""
        return self.steps[index](state, batch)

    def inverse(self, index: int, state: Tensor, batch: Measurements) -> Tensor:
        """The state that :meth:`step` took to this one, if the steps have inverses."""
        step: Any = self.steps[index]
        return step.inverse(state, batch)

    def image(self, state: Tensor, batch: Measurements) -> Tensor:
        """The reconstruction that a state stands for, complex ``(batch, maps, *space)``."""
        return split_state(state, batch)[0].to(batch.zero_filled.dtype)

    def forward(self, batch: Measurements) -> Tensor:
        """Reconstruct: all steps, complex ``(batch, maps, *space)``."""
        state = self.start(batch)
        for index in range(len(self.steps)):
            state = self.step(index, state, batch)
        return self.image(state, batch)
