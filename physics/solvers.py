"""Iterative solvers that take any callable: conjugate gradients and power iteration."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Operator = Callable[[Tensor], Tensor]


def conjugate_gradient(
    operator: Operator,
    rhs: Tensor,
    shift: Tensor | float = 0.0,
    start: Tensor | None = None,
    iterations: int = 10,
    tolerance: float = 1e-6,
) -> Tensor:
    """Solve ``(A + shift I) x = rhs`` for every sample of a batch on its own.

    Gradients with respect to ``rhs`` and ``shift`` come from the implicit function theorem, as in
    MoDL (arXiv 1712.02862): the backward pass solves one more such system, and nothing of the
    iterations is stored. They are those of the exact solution, whatever the iteration count.

    Args:
        operator: Hermitian positive semi-definite A, image to image; not differentiated.
        rhs: right-hand side, complex or real ``(batch, ...)``; with a singular A and no shift it
            must lie in the range of A.
        shift: real non-negative scalar, a tensor of one element if it is learned.
        start: first guess, shape of ``rhs``; zero by default.
        iterations: at most so many.
        tolerance: a sample is done once its residual norm is this fraction of its ``rhs`` norm.

    Returns:
        The solution, shape and dtype of ``rhs``.

    Raises:
        ValueError: if ``iterations`` or ``tolerance`` is out of range, or shapes do not fit.

    Example:
        >>> diagonal = torch.tensor([[1.0, 2.0, 4.0]])
        >>> rhs = torch.tensor([[2.0, 3.0, 5.0]])
        >>> conjugate_gradient(lambda x: diagonal * x, rhs, shift=1.0).round(decimals=5)
        tensor([[1., 1., 1.]])
    """
    if iterations < 1 or tolerance < 0:
        raise ValueError(
            "iterations must be at least 1 and tolerance at least 0, "
            f"got {iterations} and {tolerance}"
        )
    if start is not None and start.shape != rhs.shape:
        raise ValueError(f"start must have the shape {tuple(rhs.shape)}, got {tuple(start.shape)}")
    shift = torch.as_tensor(shift, dtype=rhs.real.dtype, device=rhs.device)
    if shift.numel() != 1:
        raise ValueError(f"shift must be one number, got shape {tuple(shift.shape)}")
    return _Implicit.apply(rhs, shift, start, operator, iterations, tolerance)


def power_iteration(operator: Operator, start: Tensor, iterations: int = 30) -> Tensor:
    """Largest eigenvalue of a Hermitian positive semi-definite operator, per sample.

    Args:
        operator: image to image.
        start: random first guess ``(batch, ...)``, not orthogonal to the leading eigenvector.
        iterations: number of applications of the operator.

    Returns:
        Real tensor ``(batch,)``; a lower bound that grows towards the eigenvalue.

    Example:
        >>> diagonal = torch.tensor([[1.0, 2.0, 4.0]])
        >>> power_iteration(lambda x: diagonal * x, torch.ones(1, 3))
        tensor([4.])
    """
    vector, norm = start, _dot(start, start).sqrt()
    for _ in range(iterations):
        vector = operator(vector / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        norm = _dot(vector, vector).sqrt()
    return norm.flatten()


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rhs: Tensor,
        shift: Tensor,
        start: Tensor | None,
        operator: Operator,
        iterations: int,
        tolerance: float,
    ) -> Tensor:
        solution = _iterate(operator, rhs, shift, start, iterations, tolerance)
        ctx.save_for_backward(solution, shift)
        ctx.settings = operator, iterations, tolerance
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        solution, shift = ctx.saved_tensors
        operator, iterations, tolerance = ctx.settings
        grad_rhs = _iterate(operator, grad, shift, None, iterations, tolerance)
        grad_shift = None
        if ctx.needs_input_grad[1]:
            grad_shift = -_dot(grad_rhs, solution).sum().reshape(shift.shape)
        return grad_rhs, grad_shift, None, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Real part of the inner product, per sample, shaped to broadcast against the batch."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 2))
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


@torch.no_grad()
def _iterate(
    operator: Operator,
    rhs: Tensor,
    shift: Tensor,
    start: Tensor | None,
    iterations: int,
    tolerance: float,
) -> Tensor:
    rhs = rhs.resolve_conj()
    x = torch.zeros_like(rhs) if start is None else start.resolve_conj().clone()
    residual = rhs.clone() if start is None else rhs - operator(x) - shift * x
    direction = residual.clone()
    energy = _dot(residual, residual)
    goal = tolerance**2 * _dot(rhs, rhs)
    for _ in range(iterations):
        active = ~(energy <= goal) | energy.isinf()  # NaN and overflow go on, to be seen
        # A program that is exported cannot look, and goes on: finished samples stay as they are.
        if not torch.compiler.is_compiling() and not active.any():
            break
        image = operator(direction) + shift * direction
        curvature = _dot(direction, image)
        # A finished sample takes steps of zero, so that it stays as it is while others go on.
        active &= ~(curvature <= 0)
        length = torch.where(active, energy / curvature, 0)
        x += length * direction
        residual -= length * image
        previous, energy = energy, _dot(residual, residual)
        ratio = torch.where(active, energy / previous, 0)
        direction.mul_(ratio).add_(residual)
    return x
