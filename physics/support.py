"""The centre of k-space, and what its low-resolution image tells: where there is an object."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from physics.fourier import ifft
from physics.masks import calibration_size

_LEVELS = 256  # of the histogram from which the threshold is chosen
_AIR = 0.25  # air is on average darker than this, relative to tissue; otherwise there is none
_EDGE = 0.4  # of the brightest neighbour: what an image smears over an edge is darker
_REACH = 0.75  # how far neighbours are, in pixels of the low-resolution image


def object_support(block: Tensor, space: Sequence[int]) -> Tensor:
    """Where there is an object rather than air, from the centre of k-space.

    Otsu's threshold (IEEE Trans. SMC 1979;9:62) on the cube root, which spares dark tissue, of the
    low-resolution image (root sum of squares over the coils). What that image smears into the air
    is cut off: everything much darker than the brightest of its neighbours. If the two classes
    differ too little, the object fills the field of view and nothing is air.

    Edges are good to half a pixel of the low-resolution image, and lie outside the object rather
    than inside. It fails for dark tissue at the edge (below a tenth of the brightest), counts large
    dark cavities such as lungs as air, keeps all of an image that shows nothing but air, and loses
    the dark part of an object that fills the field of view but is four times darker there, far
    from the coils.

    Args:
        block: complex ``(batch, coils, *calibration)``, see :func:`calibration_block`.
        space: size of the grid.

    Returns:
        bool ``(batch, *space)``.
    """
    magnitude = root_sum_of_squares(low_resolution_images(block, space))
    reach = [round(_REACH * n / size) for n, size in zip(space, block.shape[2:], strict=True)]
    return torch.stack([_above_air(sample, reach) for sample in magnitude])


def _above_air(magnitude: Tensor, reach: Sequence[int]) -> Tensor:
    """``reach`` is how far, in pixels along every axis, an edge is smeared."""
    bright = magnitude > _otsu(magnitude ** (1 / 3)) ** 3
    if not bool(magnitude[~bright].mean() < _AIR * magnitude[bright].mean()):
        return torch.ones_like(bright)
    pool = max_pool2d if magnitude.ndim == 2 else max_pool3d
    brightest = pool(magnitude[None], [2 * r + 1 for r in reach], 1, list(reach))[0]
    return bright & (magnitude > _EDGE * brightest)


def _otsu(values: Tensor) -> Tensor:
    """The threshold with the largest variance between the two classes that it makes."""
    low, high = values.min(), values.max()
    counts = torch.histc(values, _LEVELS, float(low), float(high)).double()
    levels = (torch.arange(_LEVELS, device=values.device) + 0.5) / _LEVELS
    below = counts.cumsum(0)
    above = counts.sum() - below
    weighted = counts * levels
    moment = weighted.cumsum(0)
    difference = moment / below.clamp_min(1) - (weighted.sum() - moment) / above.clamp_min(1)
    best = (below * above * difference.square()).argmax()
    return low + (high - low) * (best + 1) / _LEVELS


def low_resolution_images(block: Tensor, space: Sequence[int]) -> Tensor:
    """Images of the centre of k-space, interpolated to the full grid.

    Args:
        block: complex ``(batch, coils, *calibration)``; weighted with a Hann window.
        space: size of the grid.

    Returns:
        ``(batch, coils, *space)`` of the dtype of ``block``.
    """
    kspace = block.new_zeros(*block.shape[:2], *space)
    centre = kspace
    for axis, (size, n) in enumerate(zip(block.shape[2:], space, strict=True), start=2):
        centre = centre.narrow(axis, n // 2 - size // 2, size)
        position = torch.arange(size, device=block.device) - size // 2
        window = torch.cos(math.pi * position / (size + 1)) ** 2
        block = block * window.reshape([-1] + [1] * (block.ndim - 1 - axis))
    centre.copy_(block)
    return ifft(kspace, tuple(range(-len(space), 0)))


def root_sum_of_squares(images: Tensor) -> Tensor:
    """Over the coils: real ``(batch, *space)`` from complex ``(batch, coils, *space)``."""
    magnitude = images.abs()
    largest = magnitude.amax(1).clamp_min(torch.finfo(magnitude.dtype).tiny)
    return largest * (magnitude / largest.unsqueeze(1)).square().sum(1).sqrt()


def calibration_block(
    kspace: Tensor, calibration: int | tuple[int, ...], smallest: int = 1
) -> Tensor:
    """The fully sampled centre of k-space.

    Args:
        kspace: complex ``(batch, coils, *space)``, space of 2 or 3 axes.
        calibration: extent of the centre, one for all axes or one per axis.
        smallest: extent of the k-space kernels that must fit.

    Returns:
        ``(batch, coils, *calibration)``, a view.

    Raises:
        TypeError: if the k-space is not complex.
        ValueError: if shapes do not fit, or the centre is not finite, not fully sampled or smaller
            than the kernel.
    """
    if not kspace.is_complex():
        raise TypeError(f"k-space must be complex, got {kspace.dtype}")
    space = tuple(kspace.shape[2:])
    if kspace.ndim not in (4, 5):
        raise ValueError(
            f"k-space must be (batch, coils, *space) with 2 or 3 axes of space, got "
            f"{tuple(kspace.shape)}; add a batch axis with kspace[None]"
        )
    sizes = (calibration,) * len(space) if isinstance(calibration, int) else tuple(calibration)
    if len(sizes) != len(space) or any(c > n for c, n in zip(sizes, space, strict=True)):
        raise ValueError(
            f"calibration {sizes} must have an extent for each axis of k-space {space} and lie "
            "inside it; give a tuple of smaller extents"
        )
    if min(sizes) < smallest:
        raise ValueError(
            f"calibration {sizes} must not be smaller than the kernel ({smallest} along each "
            "axis); use a smaller kernel, more calibration lines or a separate calibration "
            "scan"
        )
    block = kspace
    for axis, (c, n) in enumerate(zip(sizes, space, strict=True), start=2):
        block = block.narrow(axis, n // 2 - c // 2, c)
    _check_samples(block, smallest)
    return block


def _check_samples(block: Tensor, smallest: int) -> None:
    if not bool(torch.isfinite(torch.view_as_real(block)).all()):
        raise ValueError("k-space must be finite, got NaN or infinity in the calibration block")
    sampled, sizes = (block != 0).any(1), tuple(block.shape[2:])
    for number, sample in enumerate(sampled):
        if bool(sample.all()):
            continue
        full = calibration_size(sample, sizes)
        where = [axis - len(sizes) for axis in range(len(sizes)) if full[axis] < sizes[axis]]
        cure = f"calibration={full} would work"
        if min(full) < smallest:
            cure = f"no block as large as the kernel ({smallest}) is: use a calibration scan"
        raise ValueError(
            f"the calibration block {sizes} must be fully sampled, but sample {number} of the "
            f"batch has {int((~sample).sum())} of {sample.numel()} points zero in all coils, "
            f"along axes {where}; {cure}"
        )
