"""Sampling of points over two axes: Poisson disc and uniformly random.

Masks are float32, 0 or 1, with size 1 on the axes along which they do not vary. The centre of an
axis of length n is index ``n // 2``, and a block of c lines around it starts at
``n // 2 - c // 2``.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import Tensor

from physics.lines import (
    acquired_lines,
    axis_from_end,
    calibration_lines,
    central_block,
    check_acceleration,
)
from physics.poisson import search_poisson

Plane = tuple[int, int]


def poisson_disc(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    seed: int,
    axes: tuple[int, int] = (-2, -1),
    shutter: bool = False,
    partial_fourier: float = 1.0,
) -> Tensor:
    """Variable density Poisson disc over two axes (Bridson, SIGGRAPH 2007).

    A mask takes sigpy a second or two to draw and is remembered: for training, draw seeds from
    a limited set.

    Args:
        shape: size of space.
        acceleration: at least 1, reached within 0.1; all positions of the plane count, also
            those that shutter and partial Fourier exclude.
        calibration: edge of the fully sampled central square, or its share of both axes
            (:func:`calibration_lines`).
        seed: decides the samples; the global random state is neither read nor changed.
        axes: the two undersampled axes.
        shutter: sample only the ellipse that touches the edges of the plane, not its corners.
        partial_fourier: share of the second axis that may be sampled (:func:`acquired_lines`).

    Returns:
        Mask of size ``shape[axis]`` on both axes and 1 elsewhere; the caller owns it.

    Raises:
        ValueError: if the calibration does not fit, shutter and partial Fourier leave too few
            positions, or no such mask has this acceleration.
    """
    plane, block, last = _plan(shape, acceleration, calibration, axes, shutter, partial_fourier)
    mask = torch.from_numpy(_draw_poisson(plane, float(acceleration), block, seed, shutter, last))
    return _across(mask.float(), len(shape), axes)


def uniform_random(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    seed: int,
    axes: tuple[int, int] = (-2, -1),
    shutter: bool = False,
    partial_fourier: float = 1.0,
) -> Tensor:
    """Uniformly random points over two axes, around a fully sampled central block.

    Exactly ``round(n / acceleration)`` of the n positions of the plane are sampled, the block
    among them. Args, result and errors as for :func:`poisson_disc`.
    """
    plane, block, last = _plan(shape, acceleration, calibration, axes, shutter, partial_fourier)
    mask = torch.zeros(plane)
    mask[_block(plane, block)] = 1
    free = torch.nonzero((_region(plane, shutter, last) & (mask == 0)).flatten()).flatten()
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed))
    mask.view(-1)[free[order[: round(prod(plane) / acceleration) - prod(block)]]] = 1
    return _across(mask, len(shape), axes)


@lru_cache(maxsize=512)
def _draw_poisson(
    plane: Plane, acceleration: float, block: Plane, seed: int, shutter: bool, last: int
) -> np.ndarray:
    """Boolean mask; shared by all callers, so never hand it out without a copy."""
    return search_poisson(_region(plane, shutter, last).numpy(), acceleration, block, seed)


def _region(plane: Plane, shutter: bool, last: int) -> Tensor:
    """Bool, true where there may be samples."""
    region = torch.ones(plane, dtype=torch.bool)
    if shutter:
        y, x = (((torch.arange(n) - n // 2) / (n / 2)).square() for n in plane)
        region = y[:, None] + x <= 1
    region[:, last:] = False
    return region


def _block(plane: Plane, block: Plane) -> tuple[slice, slice]:
    return central_block(plane[0], block[0]), central_block(plane[1], block[1])


def _plan(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    axes: tuple[int, int],
    shutter: bool,
    partial_fourier: float,
) -> tuple[Plane, Plane, int]:
    """Sizes of the plane and its calibration block, and the end of what may be sampled along x."""
    first, second = (axis_from_end(shape, axis) for axis in axes)
    if first >= second:
        raise ValueError(f"axes must be two different ones in rising order, got {axes}")
    plane = (shape[first], shape[second])
    check_acceleration(acceleration)
    block = (calibration_lines(calibration, plane[0]), calibration_lines(calibration, plane[1]))
    samples = round(prod(plane) / acceleration)
    if not max(1, prod(block)) <= samples:
        raise ValueError(
            f"a calibration of {block[0]} x {block[1]} must fit into the {samples} samples, at "
            f"least one, that acceleration {acceleration} leaves of {plane[0]} x {plane[1]}; "
            "lower the acceleration or the calibration"
        )
    last = acquired_lines(plane[1], partial_fourier)
    region = _region(plane, shutter, last)
    if int(region.sum()) < samples or not bool(region[_block(plane, block)].all()):
        raise ValueError(
            f"shutter and partial Fourier leave {int(region.sum())} of {prod(plane)} positions, "
            f"which must hold the {samples} samples of acceleration {acceleration} and the whole "
            f"calibration block {block[0]} x {block[1]}; raise the acceleration, or lower the "
            "calibration"
        )
    return plane, block, last


def _across(mask: Tensor, ndim: int, axes: tuple[int, int]) -> Tensor:
    sizes = [1] * ndim
    sizes[axes[0]], sizes[axes[1]] = mask.shape
    return mask.reshape(sizes)
