"""Coil sensitivity maps from k-space: ESPIRiT (Uecker et al., MRM 2014).

Shapes: k-space ``(batch, coils, *space)``, maps ``(batch, sets, coils, *space)``, image
``(batch, sets, *space)``. Space is ``(y, x)`` or ``(z, y, x)``, with the zero frequency at
index ``n // 2`` of every axis.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from physics.fourier import ifft
from physics.support import calibration_block, object_support

_GRID = 64  # eigenvectors are first found on at most this many points per axis
_TOLERANCE = 0.01  # residual |G v - l v| / l up to which an interpolated eigenvector is accepted
_SLAB = 4096  # pixels handled at a time, so that their coil matrices stay in the cache
_CROP = 0.8


@torch.no_grad()
def espirit(
    kspace: Tensor,
    calibration: int | tuple[int, ...] = 24,
    sets: int = 1,
    kernel_size: int = 6,
    threshold: float = 0.02,
    crop: float | Literal["auto"] = _CROP,
) -> Tensor:
    """Coil maps as eigenvectors of the calibration consistency condition, DOI 10.1002/mrm.24751.

    Each pixel has a Hermitian coils x coils matrix G with eigenvalues in 0 .. 1, near 1 where an
    object is and its eigenvector is the coils' sensitivity. G is a trigonometric polynomial of
    degree ``kernel_size - 1``, so a single map set is found on a coarse grid, interpolated,
    refined by one power iteration and, where that leaves a residual, replaced by the exact
    eigenvector. Several sets (an object wider than the field of view) are exact everywhere.
    No gradient flows through it.

    Args:
        kspace: complex ``(batch, coils, *space)``, fully sampled in its centre.
        calibration: extent of that centre, one for all axes or one per axis.
        sets: number of map sets, at most the number of coils.
        kernel_size: extent of the k-space kernels along every axis.
        threshold: singular values of the calibration matrix below this fraction of the largest
            are taken for noise.
        crop: maps are zero where the eigenvalue of their own set is below this (hard). "auto"
            crops at 0.8, and what :func:`physics.support.object_support` takes for air, which
            is more: next to an object, eigenvalues are high too.

    Returns:
        Maps ``(batch, sets, coils, *space)`` of the dtype of ``kspace``, contiguous, with unit
        root sum of squares over coils inside their support. The phase is relative to the first
        principal component of the calibration data, whose largest entry is made real: this
        virtual coil has phase zero everywhere.

    Raises:
        TypeError: if the k-space is not complex.
        ValueError: if shapes do not fit, or the calibration block is not finite, not fully
            sampled or smaller than the kernel.
    """
    block = calibration_block(kspace, calibration, kernel_size)
    maps = kspace.new_empty(len(kspace), sets, *kspace.shape[1:])
    for sample, data in zip(maps, block, strict=True):
        fill_espirit(sample, data, kernel_size, threshold, _CROP if crop == "auto" else crop)
    if crop == "auto":
        maps *= object_support(block, kspace.shape[2:])[:, None, None]
    return maps


@torch.no_grad()
def fill_espirit(
    maps: Tensor,
    block: Tensor,
    kernel_size: int = 6,
    threshold: float = 0.02,
    crop: float = _CROP,
) -> None:
    """Write the maps of :func:`espirit` where they are to be, such as in a memory-mapped file.

    Holds little beside them.

    Args:
        maps: to be written, complex ``(sets, coils, *space)``.
        block: the fully sampled centre of k-space ``(coils, *calibration)``.
        kernel_size: as for :func:`espirit`.
        threshold: likewise.
        crop: likewise, a number.

    Raises:
        ValueError: if there are more sets than coils.
    """
    sets, coils = maps.shape[:2]
    if not 1 <= sets <= coils:
        raise ValueError(f"sets must be 1 .. {coils}, the number of coils, got {sets}")
    coefficients, reference = _coefficients(block, kernel_size, threshold), _virtual_coil(block)
    space = maps.shape[2:]
    coarse = _coarse(coefficients, reference, space) if sets == 1 else None
    lines = [_positions(n, maps.device) for n in space]
    for rows in _thin(space):
        positions = [lines[0][rows], *lines[1:]]
        matrices = _matrices(coefficients, positions)
        if coarse is None:
            vectors, values = _eigen(matrices, sets)
        else:
            vectors, values = _refine(matrices, _interpolate(coarse, positions))
        maps[:, :, rows] = _align(vectors, reference) * (values >= crop).unsqueeze(1)


def sense_combine(kspace: Tensor, maps: Tensor, axes: Sequence[int] = (-2, -1)) -> Tensor:
    """Images ``sum_c conj(C_c) ifft(kspace)_c`` of shape ``(batch, sets, *space)``.

    Args:
        kspace: complex ``(batch, coils, *space)``.
        maps: coil maps ``(batch, sets, coils, *space)``.
        axes: the encoded axes.
    """
    return (maps.conj() * ifft(kspace, axes).unsqueeze(1)).sum(2)


def _virtual_coil(block: Tensor) -> Tensor:
    """First principal component over coils, its largest entry real (it is defined up to phase)."""
    samples = block.flatten(1) / block.abs().max()
    component = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1]
    return component * torch.exp(-1j * component[component.abs().argmax()].angle())


def _coefficients(block: Tensor, kernel_size: int, threshold: float) -> Tensor:
    """Fourier coefficients ``(*[2k - 1], coils, coils)`` of G, from calibration data.

    Let Q project onto the span of all k-space patches of the block. Averaging Q over the patches
    that hold a sample is a convolution of the coils' k-space, whose kernel sums Q along its
    (block-Toeplitz) diagonals: G is the Fourier transform of that kernel.
    """
    coils, ndim = block.shape[0], block.ndim - 1
    patches = block / block.abs().max()
    for axis in range(1, ndim + 1):
        patches = patches.unfold(axis, kernel_size, 1)
    rows = coils * kernel_size**ndim
    patches = patches.flatten(1, ndim).transpose(0, 1).reshape(-1, rows).T
    power, basis = torch.linalg.eigh(patches @ patches.mH)
    basis = basis[:, power > threshold**2 * power[-1]]
    projection = (basis @ basis.mH).reshape(coils, rows // coils, coils, rows // coils)

    width = 2 * kernel_size - 1
    points = torch.cartesian_prod(*[torch.arange(kernel_size)] * ndim).reshape(-1, ndim)
    lags = points[None] - points[:, None] + kernel_size - 1
    index = (lags * width ** torch.arange(ndim - 1, -1, -1)).sum(-1).flatten()
    sums = block.new_zeros(width**ndim, coils * coils)
    sums.index_add_(
        0, index.to(block.device), projection.permute(1, 3, 0, 2).reshape(-1, coils * coils)
    )
    return sums.reshape(*[width] * ndim, coils, coils) / kernel_size**ndim


def _coarse(coefficients: Tensor, reference: Tensor, space: Sequence[int]) -> Tensor:
    """Leading eigenvectors ``(coils, *grid)`` on the grid from which they are interpolated."""
    grid = [min(n, _GRID) for n in space]
    lines = [_positions(n, coefficients.device) for n in grid]
    parts = [
        _eigen(_matrices(coefficients, [lines[0][rows], *lines[1:]]), 1)[0] for rows in _thin(grid)
    ]
    return _align(torch.cat(parts, 2), reference)[0]


def _thin(space: Sequence[int]) -> Iterator[slice]:
    """Slabs of the first axis, so that what is computed in one stays in the cache."""
    rows = max(1, _SLAB // math.prod(space[1:]))
    for first in range(0, space[0], rows):
        yield slice(first, first + rows)


def _positions(n: int, device: torch.device) -> Tensor:
    """Pixel positions from the centre of the field of view, as fractions of it."""
    return (torch.arange(n, device=device) - n // 2) / n


def _matrices(coefficients: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """G ``(coils, coils, *space)`` at positions in fractions of the field of view."""
    degree = coefficients.shape[0] // 2
    orders = torch.arange(-degree, degree + 1, device=coefficients.device)
    for position in positions:
        phase = -2 * math.pi * position[:, None] * orders
        waves = torch.polar(torch.ones_like(phase), phase).to(coefficients.dtype)
        coefficients = torch.tensordot(coefficients, waves, dims=([0], [1]))
    return coefficients


def _eigen(matrices: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors ``(sets, coils, *space)`` and values ``(sets, *space)``, exactly."""
    values, vectors = torch.linalg.eigh(matrices.movedim((0, 1), (-2, -1)))
    values, vectors = values[..., -sets:].flip(-1), vectors[..., -sets:].flip(-1)
    return vectors.movedim((-1, -2), (0, 1)), values.movedim(-1, 0)


def _refine(matrices: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Leading eigenvector and value from an approximate one ``(coils, *space)``."""
    guess = guess / _norm(guess).clamp_min(1e-6)
    image = (matrices * guess).sum(1)
    values = _norm(image)
    vectors = image / values.clamp_min(1e-6)
    residual = _norm(image - values * guess)
    poor = ~(residual < _TOLERANCE * values)  # also where the guess vanishes
    exact, exact_values = _eigen(matrices[:, :, poor], 1)
    vectors[:, poor], values[poor] = exact[0], exact_values[0]
    return vectors[None], values[None]


def _norm(vectors: Tensor) -> Tensor:
    """Norm over the first axis; five times faster than vector_norm on complex data."""
    return torch.view_as_real(vectors).square().sum((0, -1)).sqrt()


def _interpolate(coarse: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Periodic linear interpolation of ``(coils, *grid)`` at fractions of the field of view."""
    for position in positions:
        m = coarse.shape[1]
        distance = (position[:, None] - _positions(m, coarse.device)).abs() * m
        weights = (1 - torch.minimum(distance, m - distance)).clamp_min(0).to(coarse.dtype)
        coarse = torch.tensordot(coarse, weights, dims=([1], [1]))
    return coarse


def _align(vectors: Tensor, reference: Tensor) -> Tensor:
    """Rotate ``(sets, coils, *space)`` so that the virtual coil ``reference`` has phase zero."""
    virtual = torch.tensordot(reference.conj(), vectors, dims=([0], [1])).unsqueeze(1)
    return vectors * torch.polar(torch.ones_like(virtual.real), -virtual.angle())
