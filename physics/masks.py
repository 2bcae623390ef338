"""Cartesian sampling masks: random and equispaced columns, variable density Poisson disc.

A mask is float32, 0 or 1, of the shape of space (``(y, x)``, ``(z, y, x)`` or ``(t, y, x)``)
with size 1 on the axes along which it does not vary; the caller adds batch and coil axes. The
centre of an axis of length n is index ``n // 2``, and a block of c lines around it starts at
``n // 2 - c // 2``.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import Tensor


def random_columns(
    shape: Sequence[int], acceleration: float, calibration: int, seed: int, axis: int = -1
) -> Tensor:
    """Uniformly random lines around a fully sampled centre.

    Args:
        shape: size of space.
        acceleration: at least 1; exactly ``round(n / acceleration)`` of n lines are sampled.
        calibration: number of central lines, counted among those.
        seed: decides the lines; the global random state is neither read nor changed.
        axis: the axis along which lines are skipped.

    Returns:
        Mask of size ``shape[axis]`` on ``axis`` and 1 elsewhere.

    Raises:
        ValueError: if the acceleration is below 1 or leaves no room for the calibration lines.
    """
    n, lines = _count_lines(shape, acceleration, calibration, axis)
    columns = torch.zeros(n)
    columns[_centre(n, calibration)] = 1
    outside = torch.nonzero(columns == 0).flatten()
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
    columns[outside[order[: lines - calibration]]] = 1
    return _along(columns, len(shape), axis)


def equispaced_columns(
    shape: Sequence[int], acceleration: float, calibration: int, seed: int, axis: int = -1
) -> Tensor:
    """Equally spaced lines, offset by the seed, and a fully sampled centre.

    The spacing is widened so that the calibration lines count towards the acceleration: of n
    lines, ``n / acceleration - calibration`` remain for the ``n - calibration`` outside the
    centre. It need not be an integer; lines fall on the grid rounded up. The offset is drawn
    among those whose number of lines comes nearest to ``round(n / acceleration)``.

    Args and errors as for :func:`random_columns`; the count may miss by one line.
    """
    n, lines = _count_lines(shape, acceleration, calibration, axis)
    centre = torch.zeros(n)
    centre[_centre(n, calibration)] = 1
    if lines == calibration:
        return _along(centre, len(shape), axis)
    spacing = (n - calibration) / (lines - calibration)
    # Line i is on the grid that starts at `offset` if a multiple of the spacing lies in
    # (i - 1, i] - offset, that is if the integer part of (i - offset) / spacing steps up at i.
    offsets = torch.arange(n, dtype=torch.float64)[:, None] * (spacing / n)
    steps = torch.floor((torch.arange(-1, n) - offsets) / spacing)
    candidates = torch.maximum((steps.diff(dim=1) > 0).float(), centre)
    misses = (candidates.sum(1) - lines).abs()
    best = candidates[misses == misses.min()]
    pick = torch.randint(len(best), (), generator=torch.Generator().manual_seed(seed))
    return _along(best[int(pick)], len(shape), axis)


def poisson_disc(
    shape: Sequence[int],
    acceleration: float,
    calibration: int,
    seed: int,
    axes: tuple[int, int] = (-2, -1),
) -> Tensor:
    """Variable density Poisson disc over two axes (Bridson, SIGGRAPH 2007), corners included.

    A mask takes sigpy a second or two to draw and is remembered: for training, draw seeds from
    a limited set.

    Args:
        shape: size of space.
        acceleration: at least 1; reached within 0.1.
        calibration: edge of the fully sampled central square.
        seed: decides the samples; the global random state is neither read nor changed.
        axes: the two undersampled axes.

    Returns:
        Mask of size ``shape[axis]`` on both axes and 1 elsewhere; the caller owns it.

    Raises:
        ValueError: if the calibration does not fit, or no such mask has this acceleration.
    """
    axes = (_axis(shape, axes[0]), _axis(shape, axes[1]))
    if axes[0] >= axes[1]:
        raise ValueError(f"axes must be two different ones in rising order, got {axes}")
    plane = (shape[axes[0]], shape[axes[1]])
    _check_acceleration(acceleration)
    if not 0 <= calibration <= min(plane) or calibration**2 * acceleration > prod(plane):
        raise ValueError(
            f"a calibration of {calibration} x {calibration} must fit into the "
            f"{prod(plane) / acceleration:.0f} samples that acceleration {acceleration} leaves of "
            f"{plane[0]} x {plane[1]}; lower the acceleration or the calibration"
        )
    mask = torch.from_numpy(_draw_poisson(plane, float(acceleration), calibration, seed))
    sizes = [n if axis - len(shape) in axes else 1 for axis, n in enumerate(shape)]
    return mask.float().reshape(sizes)


MASKS: dict[str, Callable[..., Tensor]] = {
    "random_columns": random_columns,
    "equispaced_columns": equispaced_columns,
    "poisson_disc": poisson_disc,
}


def acceleration(mask: Tensor) -> float:
    """True acceleration of a 0/1 mask: how many samples there could be for each one taken.

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
        inner = sampled[_centre(n, extent)].all(0)
        if not inner[tuple(size // 2 for size in inner.shape)]:
            break
        block = (full, *_largest_block(inner, shape[1:]))
        best = max(best, block, key=prod)
    return best


@lru_cache(maxsize=512)
def _draw_poisson(
    plane: tuple[int, int], acceleration: float, calibration: int, seed: int
) -> np.ndarray:
    """Boolean mask; shared by all callers, so never hand it out without a copy."""
    if acceleration == 1:
        return np.ones(plane, dtype=bool)
    state = np.random.get_state()  # noqa: NPY002 - without its compiler sigpy seeds the global one
    try:
        # Growth that starts well inside the calibration block dies there: try further seeds.
        for attempt in range(8):
            trial = (seed + 1_000_003 * attempt) % 2**32
            mask = _search_poisson(plane, acceleration, calibration, trial)
            if mask is not None:
                return mask
    finally:
        np.random.set_state(state)  # noqa: NPY002
    raise ValueError(
        f"found no Poisson disc of acceleration {acceleration} with a calibration of "
        f"{calibration} on {plane[0]} x {plane[1]}; change one of them"
    )


def _search_poisson(
    plane: tuple[int, int], acceleration: float, calibration: int, seed: int
) -> np.ndarray | None:
    """The mask of ``sigpy.mri.poisson``, None where that raises an error or searches for ever.

    Bisects for how fast the discs' radius grows outside the calibration block.
    """
    from sigpy.mri.samp import _poisson  # slow to import, hence here

    # On an even axis sigpy centres an odd block half a line low: one more line covers it.
    block = tuple(calibration + (n % 2 == 0 and calibration % 2) for n in plane)
    offsets = [
        np.maximum(np.abs(np.arange(n) - n / 2) - c / 2, 0)
        for n, c in zip(plane, block, strict=True)
    ]
    y, x = (offset / max(offset.max(), 1e-9) for offset in offsets)
    distance = np.sqrt(x**2 + y[:, None] ** 2)
    low, high = 0.0, float(max(plane))
    for _ in range(30):
        slope = (low + high) / 2
        radii = [np.clip((1 + distance * slope) * n / max(plane), 1, None) for n in plane]
        mask = _poisson(plane[1], plane[0], 30, radii[1], radii[0], block, seed)
        samples = mask.sum()
        if abs(mask.size - acceleration * samples) < 0.1 * samples:
            return mask.astype(bool)
        if mask.size < acceleration * samples:
            low = slope
        else:
            high = slope
    return None


def _count_lines(
    shape: Sequence[int], acceleration: float, calibration: int, axis: int
) -> tuple[int, int]:
    n = shape[_axis(shape, axis)]
    _check_acceleration(acceleration)
    lines = round(n / acceleration)
    if not 0 <= calibration <= lines or lines == 0:
        raise ValueError(
            f"acceleration {acceleration} leaves {lines} of {n} lines, which must be at least one "
            f"and hold the {calibration} calibration lines; lower the acceleration or calibration"
        )
    return n, lines


def _check_acceleration(acceleration: float) -> None:
    if not acceleration >= 1:
        raise ValueError(f"acceleration must be at least 1 (fully sampled), got {acceleration}")


def _axis(shape: Sequence[int], axis: int) -> int:
    """The axis counted from the end, after checking shape and axis."""
    if not shape or any(n < 1 for n in shape):
        raise ValueError(f"shape must be the positive sizes of space, got {tuple(shape)}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis must be one of space {tuple(shape)}, got {axis}")
    return axis if axis < 0 else axis - len(shape)


def _centre(n: int, size: int) -> slice:
    start = n // 2 - size // 2
    return slice(start, start + size)


def _along(columns: Tensor, ndim: int, axis: int) -> Tensor:
    sizes = [1] * ndim
    sizes[axis] = len(columns)
    return columns.reshape(sizes)
