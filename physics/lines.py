"""Sampling by whole lines along one axis: random, equispaced, and changing from frame to frame.

Masks are float32, 0 or 1, with size 1 on the axes along which they do not vary. The centre of an
axis of length n is index ``n // 2``, and a block of c lines around it starts at
``n // 2 - c // 2``.
"""

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

_EDGE_DENSITY = 0.2  # of the outermost line of ky-t sampling, relative to the innermost
_JITTER = 0.5  # of the moment at which a line is due in ky-t sampling, in units of its interval


def random_columns(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    seed: int,
    axis: int = -1,
    partial_fourier: float = 1.0,
) -> Tensor:
    """Uniformly random lines around a fully sampled centre.

    Args:
        shape: size of space.
        acceleration: at least 1; exactly ``round(n / acceleration)`` of n lines are sampled.
        calibration: number of central lines, or their share of all (:func:`calibration_lines`);
            counted among those sampled.
        seed: decides the lines; the global random state is neither read nor changed.
        axis: the axis along which lines are skipped.
        partial_fourier: share of the lines that may be sampled (:func:`acquired_lines`).

    Returns:
        Mask of size ``shape[axis]`` on ``axis`` and 1 elsewhere.

    Raises:
        ValueError: if the acceleration is below 1 or leaves no room for the calibration lines,
            or if partial Fourier leaves too few lines or cuts into the calibration.
    """
    n, lines, centre, last = _plan(shape, acceleration, calibration, axis, partial_fourier)
    columns = torch.zeros(n)
    columns[centre] = 1
    outside = torch.nonzero(columns[:last] == 0).flatten()
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
    columns[outside[order[: lines - int(columns.sum())]]] = 1
    return _along(columns, len(shape), axis)


def equispaced_columns(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    seed: int,
    axis: int = -1,
    partial_fourier: float = 1.0,
) -> Tensor:
    """Equally spaced lines, offset by the seed, and a fully sampled centre.

    The spacing is widened so that the calibration lines count towards the acceleration: of n
    lines, ``n / acceleration - calibration`` remain for the ``n - calibration`` outside the
    centre. It need not be an integer; lines fall on the grid rounded up. The offset is drawn
    among those whose number of lines comes nearest to ``round(n / acceleration)``.

    Args and errors as for :func:`random_columns`; the count may miss by one line.
    """
    n, lines, centre, last = _plan(shape, acceleration, calibration, axis, partial_fourier)
    columns = torch.zeros(n)
    columns[centre] = 1
    calibrated = int(columns.sum())
    if lines == calibrated:
        return _along(columns, len(shape), axis)
    spacing = (last - calibrated) / (lines - calibrated)
    # Line i is on the grid that starts at `offset` if a multiple of the spacing lies in
    # (i - 1, i] - offset, that is if the integer part of (i - offset) / spacing steps up at i.
    offsets = torch.arange(n, dtype=torch.float64)[:, None] * (spacing / n)
    steps = torch.floor((torch.arange(-1, n) - offsets) / spacing)
    grids = (steps.diff(dim=1) > 0).float()
    grids[:, last:] = 0
    candidates = torch.maximum(grids, columns)
    misses = (candidates.sum(1) - lines).abs()
    best = candidates[misses == misses.min()]
    pick = torch.randint(len(best), (), generator=torch.Generator().manual_seed(seed))
    return _along(best[int(pick)], len(shape), axis)


def kt_variable_density(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    seed: int,
    partial_fourier: float = 1.0,
) -> Tensor:
    """Other lines in every frame of a dynamic scan, denser towards the centre of k-space.

    The aims are those of VISTA (Ahmad et al., MRM 2015, DOI 10.1002/mrm.25507): the same number
    of lines in all frames, variable density, incoherence, and a time average that covers k-space.
    They are reached one frame after the other, as in arXiv:1710.00532, by making the lines that
    were just sampled less likely: line k earns its density p(k) in every frame and pays 1 when
    it is sampled; those with the highest balance are next, after some random jitter. So line k
    comes back about every 1 / p(k) frames. The density is a Gaussian of the distance to the
    calibration lines that falls to a fifth at the edge.

    Args:
        shape: ``(t, y, x)``; lines are skipped along x.
        acceleration: at least 1; exactly ``round(x / acceleration)`` lines in every frame.
        calibration: central lines of every frame, as a number or as their share of all
            (:func:`calibration_lines`); counted among those sampled.
        seed: decides the lines; the global random state is neither read nor changed.
        partial_fourier: share of the lines that may be sampled (:func:`acquired_lines`).

    Returns:
        Mask ``(t, 1, x)``.

    Raises:
        ValueError: as :func:`random_columns`, and if the shape is not that of a dynamic scan.
    """
    if len(shape) != 3:
        raise ValueError(
            f"kt_variable_density needs the space of a dynamic scan, (t, y, x), got {tuple(shape)}"
        )
    n, lines, centre, last = _plan(shape, acceleration, calibration, -1, partial_fourier)
    columns = torch.zeros(n)
    columns[centre] = 1
    outside = torch.nonzero(columns[:last] == 0).flatten()
    count = lines - int(columns.sum())
    density = _density(outside, n, count) if count else torch.zeros(len(outside))
    random = torch.Generator().manual_seed(seed)
    balance = torch.rand(len(outside), generator=random, dtype=torch.float64)
    mask = columns.repeat(shape[0], 1)
    for frame in mask:
        balance += density
        jitter = _JITTER * torch.rand(len(outside), generator=random, dtype=torch.float64)
        chosen = torch.topk(balance + jitter, count).indices
        balance[chosen] -= 1
        frame[outside[chosen]] = 1
    return mask[:, None]


def _density(lines: Tensor, n: int, count: int) -> Tensor:
    """How often each line is sampled per frame: a Gaussian, at most 1, whose sum is ``count``."""
    distance = (lines - n // 2).abs().double()
    distance = (distance - distance.min()) / (distance.max() - distance.min()).clamp_min(1)
    weights = _EDGE_DENSITY ** distance.square()
    density = torch.zeros_like(weights)
    # Lines whose share exceeds 1 are sampled always; the others share what is left.
    while True:
        free = density < 1
        if not bool(free.any()):
            return density
        share = weights[free] * ((count - (~free).sum()) / weights[free].sum())
        density[free] = share.clamp(max=1)
        if not bool((share > 1).any()):
            return density


def calibration_lines(calibration: int | float, n: int) -> int:
    """Number of fully sampled central lines of an axis.

    Args:
        calibration: an integer is that number, 0 for none; a fraction strictly between 0 and 1
            is a share of all lines: ``round(n * calibration)`` as in fastMRI, at least one.
        n: length of the axis.

    Raises:
        ValueError: if it is neither, or more lines than there are.

    Example:
        >>> calibration_lines(24, 320), calibration_lines(0.08, 320)
        (24, 26)
    """
    if isinstance(calibration, numbers.Integral) and 0 <= calibration <= n:
        return int(calibration)
    if isinstance(calibration, float) and 0 < calibration < 1:
        return max(1, round(n * calibration))
    raise ValueError(
        f"the calibration must be a number of lines (an integer, 0 .. {n}) or a fraction of them "
        f"(strictly between 0 and 1), got {calibration!r}; lower the acceleration or calibration"
    )


def acquired_lines(n: int, fraction: float) -> int:
    """Number of lines that partial Fourier acquires: the first ``round(fraction * n)`` of n.

    Raises:
        ValueError: if the fraction does not lie above 0.5 and up to 1, or the zero frequency is
            not among those lines.
    """
    if not 0.5 < fraction <= 1 or round(fraction * n) <= n // 2:
        raise ValueError(
            "partial Fourier must lie above 0.5 and up to 1, and keep the central of the "
            f"{n} lines, got {fraction}"
        )
    return round(fraction * n)


def central_block(n: int, size: int) -> slice:
    """Where ``size`` lines around the centre of n lie."""
    start = n // 2 - size // 2
    return slice(start, start + size)


def check_acceleration(acceleration: float) -> None:
    """Raises a ValueError unless the acceleration is at least 1."""
    if not acceleration >= 1:
        raise ValueError(f"acceleration must be at least 1 (fully sampled), got {acceleration}")


def axis_from_end(shape: Sequence[int], axis: int) -> int:
    """The axis counted from the end, after checking shape and axis.

    Raises:
        ValueError: if the shape has an empty axis, or does not have this one.
    """
    if not shape or any(n < 1 for n in shape):
        raise ValueError(f"shape must be the positive sizes of space, got {tuple(shape)}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis must be one of space {tuple(shape)}, got {axis}")
    return axis if axis < 0 else axis - len(shape)


def _plan(
    shape: Sequence[int],
    acceleration: float,
    calibration: int | float,
    axis: int,
    partial_fourier: float,
) -> tuple[int, int, slice, int]:
    """Length of the axis, lines to sample, where the centre lies, and the end of what may be."""
    n = shape[axis_from_end(shape, axis)]
    check_acceleration(acceleration)
    lines = round(n / acceleration)
    calibrated = calibration_lines(calibration, n)
    if calibrated > lines or lines == 0:
        raise ValueError(
            f"acceleration {acceleration} leaves {lines} of {n} lines, which must be at least one "
            f"and hold the {calibrated} calibration lines; lower the acceleration or calibration"
        )
    centre, last = central_block(n, calibrated), acquired_lines(n, partial_fourier)
    if last < max(lines, centre.stop):
        raise ValueError(
            f"partial Fourier leaves the first {last} of {n} lines, which must hold the {lines} "
            f"that are to be sampled and the calibration up to line {centre.stop}; raise the "
            "acceleration or partial Fourier, or lower the calibration"
        )
    return n, lines, centre, last


def _along(columns: Tensor, ndim: int, axis: int) -> Tensor:
    sizes = [1] * ndim
    sizes[axis] = len(columns)
    return columns.reshape(sizes)
