"""Cartesian sampling masks of all kinds, and what can be read off a mask.

A mask is float32, 0 or 1, of the shape of space (``(y, x)``, ``(z, y, x)`` or ``(t, y, x)``)
with size 1 on the axes along which it does not vary; the caller adds batch and coil axes. The
centre of an axis of length n is index ``n // 2``, and a block of c lines around it starts at
``n // 2 - c // 2``.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from physics.lines import (
    acquired_lines,
    axis_from_end,
    calibration_lines,
    central_block,
    equispaced_columns,
    kt_variable_density,
    random_columns,
)
from physics.points import poisson_disc, uniform_random

__all__ = [
    "MASKS",
    "acceleration",
    "calibration_lines",
    "calibration_size",
    "compact",
    "draw_mask",
    "equispaced_columns",
    "kt_variable_density",
    "partial_fourier",
    "poisson_disc",
    "random_columns",
    "uniform_random",
]

MASKS: dict[str, Callable[..., Tensor]] = {
    "random_columns": random_columns,
    "equispaced_columns": equispaced_columns,
    "uniform_random": uniform_random,
    "poisson_disc": poisson_disc,
    "kt_variable_density": kt_variable_density,
}
_SHUTTERED = ("uniform_random", "poisson_disc")


def draw_mask(
    kind: str,
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    seed: int,
    shutter: bool = False,
    partial_fourier: float = 1.0,
) -> Tensor:
    """A mask of any kind, undersampled along x, or y and x where it samples points.

    Args:
        kind: a name in ``MASKS``.
        shape: size of space; ``(t, y, x)`` for "kt_variable_density".
        acceleration: at least 1; the number of samples that the kind promises for it does not
            depend on shutter and partial Fourier.
        calibration: fully sampled central lines, a number or a fraction of them.
        seed: decides the samples; the global random state is neither read nor changed.
        shutter: sample no corners; for the kinds that sample points of a plane.
        partial_fourier: share of the positions along x that may be sampled, at their beginning.

    Returns:
        Mask of the rank of ``shape``, size 1 where it does not vary.

    Raises:
        ValueError: for an unknown kind, a shutter with a kind that samples lines, a shape that
            does not fit the kind, or numbers that leave too few positions.

    Example:
        >>> mask = draw_mask("random_columns", (64, 64), acceleration=4, calibration=8, seed=0)
        >>> mask.shape, int(mask.sum())
        (torch.Size([1, 64]), 16)
        >>> acceleration(mask), calibration_size(mask, (64, 64))[0]
        (4.0, 64)
    """
    if kind not in MASKS:
        raise ValueError(f"the kind of mask must be one of {', '.join(MASKS)}, got {kind!r}")
    options: dict[str, bool] = {}
    if shutter:
        if kind not in _SHUTTERED:
            raise ValueError(
                f"a shutter cuts the corners of a plane of points, but {kind} samples whole lines; "
                f"turn it off, or choose {' or '.join(_SHUTTERED)}"
            )
        options["shutter"] = True
    return MASKS[kind](
        shape, acceleration, calibration, seed, partial_fourier=partial_fourier, **options
    )


def partial_fourier(shape: Sequence[int], fraction: float, axis: int = -1) -> Tensor:
    """Mask of the lines that partial Fourier acquires: all but those at the end of the axis.

    Args:
        shape: size of space.
        fraction: above 0.5 and up to 1; the first ``round(fraction * n)`` of n lines are kept.
        axis: the axis along which lines are missing.

    Returns:
        Mask of size ``shape[axis]`` on ``axis`` and 1 elsewhere, to be multiplied with another.

    Raises:
        ValueError: if the fraction is out of its range or there is no such axis.
    """
    n = shape[axis_from_end(shape, axis)]
    sizes = [1] * len(shape)
    sizes[axis] = n
    return (torch.arange(n) < acquired_lines(n, fraction)).float().reshape(sizes)


def acceleration(mask: Tensor) -> float:
    """True acceleration of a 0/1 mask: how many samples there could be for each one taken.

    All positions of the grid count, those outside a shutter or beyond partial Fourier too, and
    calibration lines count as samples. Axes of size 1 along which a mask does not vary change
    nothing: a mask and its :func:`compact` have the same acceleration.

    Raises:
        ValueError: if nothing is sampled.
    """
    samples = float(mask.sum())
    if samples == 0:
        raise ValueError(f"a mask must sample something, got only zeros in {tuple(mask.shape)}")
    return mask.numel() / samples


def compact(mask: Tensor) -> Tensor:
    """The same mask with size 1 on every axis along which it is constant."""
    for axis in range(mask.ndim):
        first = mask.narrow(axis, 0, 1)
        if bool((mask == first).all()):
            mask = first
    return mask.contiguous()


def calibration_size(mask: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """Extents of the largest centred block in which every sample is taken.

    Args:
        mask: of the shape of space, may have size 1 where it does not vary.
        shape: size of space; where the mask does not vary the extent is this full length.

    Returns:
        One extent per axis, as the calibration argument of :func:`physics.coils.espirit` takes
        them; the block with most samples if several cannot grow; all 0 if the centre is missing.

    Raises:
        ValueError: if mask and shape do not fit each other.

    Example:
        >>> compact(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([[1., 0.]])
    """
    if mask.ndim != len(shape) or any(
        m not in (1, n) for m, n in zip(mask.shape, shape, strict=True)
    ):
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} must have the rank of space {tuple(shape)} and "
            "on each axis its size or 1; drop batch and coil axes first"
        )
    return _largest_block(compact(mask) != 0, tuple(shape))


def _largest_block(sampled: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape:
        return ()
    n = sampled.shape[0]
    best: tuple[int, ...] = (0,) * len(shape)
    for extent in range(1, n + 1):
        full = shape[0] if n == 1 else extent
        inner = sampled[central_block(n, extent)].all(0)
        if not inner[tuple(size // 2 for size in inner.shape)]:
            break
        block = (full, *_largest_block(inner, shape[1:]))
        best = max(best, block, key=prod)
    return best
