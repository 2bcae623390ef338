"""What raw multi-coil k-space goes through before it is reconstructed.

K-space is complex ``(slices, coils, *space)``, space ``(y, x)`` or ``(t, y, x)``; the zero
frequency is at index ``n // 2`` of every encoded axis. Nothing is changed in place.
"""

import torch
from torch import Tensor

from physics.fourier import fft, ifft

_DEPENDENT = 1e-6  # share of a coil's noise power that must not come from other coils
_ASYMMETRY = 1e-3  # of a correlation; single precision leaves 1e-6


def noise_covariance(noise: Tensor) -> Tensor:
    """Covariance ``E[n n^H]`` of the coils' complex noise.

    Its diagonal is the power of the complex noise, twice the variance of its real part. The mean
    is not subtracted: noise has none.

    Args:
        noise: samples without signal, complex ``(coils, samples)``.

    Returns:
        Hermitian, complex128 ``(coils, coils)``.

    Raises:
        ValueError: if it is no complex matrix of finite numbers, has fewer samples than coils, or
            a coil is zero throughout.
    """
    if noise.ndim != 2 or not noise.is_complex() or 0 in noise.shape:
        raise ValueError(
            f"noise must be complex (coils, samples), got {noise.dtype} {tuple(noise.shape)}"
        )
    coils, samples = noise.shape
    if samples < coils:
        raise ValueError(
            f"{samples} noise samples cannot tell the covariance of {coils} coils, which needs at "
            "least as many samples as coils, better a hundred times more; use a longer noise scan"
        )
    noise = noise.to(torch.complex128)
    covariance = noise @ noise.mH / samples
    _check_covariance(covariance)
    return covariance


def prewhiten(kspace: Tensor, covariance: Tensor) -> Tensor:
    """K-space whose noise is uncorrelated between coils, with unit power ``E[|n|^2]`` in each.

    Multiplies with the inverse of the covariance's Cholesky factor (Pruessmann et al., MRM 2001,
    DOI 10.1002/mrm.1241, appendix A): the first coil is only scaled, and each further one loses
    the part of its noise that those before it know.

    Args:
        kspace: complex ``(slices, coils, *space)``.
        covariance: of the noise, see :func:`noise_covariance`.

    Returns:
        Of the shape and dtype of ``kspace``, in units of the noise.

    Raises:
        ValueError: if the covariance is not that of these coils or is singular; the message names
            the coil.
    """
    coils = _check_kspace(kspace)
    if covariance.shape != (coils, coils):
        raise ValueError(
            f"the covariance must be of {coils} x {coils} coils, got {tuple(covariance.shape)}"
        )
    covariance = covariance.to(kspace.device, torch.complex128)
    _check_covariance(covariance)
    deviation = covariance.diagonal().real.sqrt().to(torch.complex128)
    correlation = covariance / (deviation[:, None] * deviation)
    if bool((correlation - correlation.mH).abs().max() > _ASYMMETRY):
        raise ValueError("the covariance must be Hermitian, equal to its conjugate transpose")
    factor, failed = torch.linalg.cholesky_ex(correlation)
    # The diagonal's squares are the noise power that the coils before cannot explain.
    dependent = factor.diagonal().real.square() < _DEPENDENT
    if int(failed):
        dependent[int(failed) - 1] = True
    if bool(dependent.any()):
        raise ValueError(
            f"the noise covariance is singular: the noise of coil {int(dependent.int().argmax())} "
            "is a combination of that of the coils before it; use more noise samples, or drop this "
            "coil"
        )
    whitening = torch.linalg.inv(deviation[:, None] * factor)
    return _mix(whitening.to(kspace.dtype), kspace)


def compress_svd(kspace: Tensor, coils: int) -> tuple[Tensor, float]:
    """Fewer, virtual coils: the principal components of the scan over its coils.

    One matrix for all slices and positions (Buehrer et al., Magn Reson Med 2007;57:1131; Huang et
    al., Magn Reson Imaging 2008;26:133). Its rows are orthonormal, so white noise stays white and
    keeps its power.

    Args:
        kspace: complex ``(slices, coils, *space)``.
        coils: number of virtual coils, sorted by energy.

    Returns:
        K-space ``(slices, virtual coils, *space)``, and the share of its energy kept, 0 to 1.

    Raises:
        ValueError: if there are not that many coils, or k-space is zero or not finite.
    """
    _check_coils(kspace, coils)
    gram = sum((_gram(part.flatten(1)) for part in kspace), torch.zeros(()))
    matrix, kept = _principal(gram, coils)
    energy = _share(kept, gram)
    return _mix(matrix.to(kspace.dtype), kspace), energy


def compress_geometric(kspace: Tensor, coils: int, axis: int) -> tuple[Tensor, float]:
    """Fewer, virtual coils that change along a fully sampled readout.

    Geometric-decomposition coil compression (Zhang et al., MRM 2013, DOI 10.1002/mrm.24267): at
    each position along the readout the principal components over the coils, rotated to be as near
    as possible to those of the neighbour, so that virtual coils are smooth. They keep at least the
    energy that :func:`compress_svd` keeps. The rotations start where the signal is strongest.

    Args:
        kspace: complex ``(slices, coils, *space)``, fully sampled along the readout.
        coils: number of virtual coils.
        axis: the readout: -2 (y) or -1 (x), which is transformed and transformed back, or 0, the
            slices of a 3D acquisition, along which it has been transformed already.

    Returns:
        K-space ``(slices, virtual coils, *space)``, and the share of its energy kept, 0 to 1.

    Raises:
        ValueError: if there are not that many coils, the axis is none of these, or k-space is zero
            or not finite.
    """
    _check_coils(kspace, coils)
    if axis not in (0, -2, -1):
        raise ValueError(f"the readout must be axis 0 (slices), -2 (y) or -1 (x), got {axis}")
    hybrid = ifft(kspace, (axis,)) if axis else kspace
    hybrid = hybrid.movedim(axis, 0).movedim(1 if axis == 0 else 2, 1)
    gram = torch.stack([_gram(position.flatten(1)) for position in hybrid])
    matrices, kept = _principal(gram, coils)
    energy = _share(kept, gram)
    matrices = _align(matrices, int(kept.sum(-1).argmax())).to(kspace.dtype)
    mixed = torch.stack([torch.tensordot(m, h, 1) for m, h in zip(matrices, hybrid, strict=True)])
    mixed = mixed.movedim(1, 1 if axis == 0 else 2).movedim(0, axis)
    return fft(mixed, (axis,)) if axis else mixed, energy


def remove_oversampling(kspace: Tensor, size: int, axis: int) -> Tensor:
    """K-space of the central part of the field of view along a fully sampled axis.

    The transform is orthonormal, so image values are exactly those of before (factor 1), and the
    noise of each sample keeps its variance.

    Args:
        kspace: complex, any shape.
        size: pixels to keep; the central pixel ``n // 2`` becomes ``size // 2``.
        axis: the oversampled axis.

    Returns:
        K-space of length ``size`` along ``axis``; the same tensor if that is its length.

    Raises:
        ValueError: if the size is not 1 to the length of the axis.
    """
    n = kspace.shape[axis]
    if not 1 <= size <= n:
        raise ValueError(f"the size without oversampling must be 1 .. {n}, got {size}")
    if size == n:
        return kspace
    image = ifft(kspace, (axis,)).narrow(axis, n // 2 - size // 2, size)
    return fft(image, (axis,))


def _mix(matrix: Tensor, kspace: Tensor) -> Tensor:
    """The matrix applied to the coils, slice by slice to save memory."""
    mixed = kspace.new_empty(len(kspace), len(matrix), *kspace.shape[2:])
    for part, out in zip(kspace, mixed, strict=True):
        out.copy_(torch.tensordot(matrix, part, 1))
    return mixed


def _gram(samples: Tensor) -> Tensor:
    """``samples samples^H``, complex128 ``(coils, coils)``."""
    return (samples @ samples.mH).to(torch.complex128)


def _principal(gram: Tensor, coils: int) -> tuple[Tensor, Tensor]:
    """Matrices ``(..., virtual, coils)`` of orthonormal rows, and energies ``(..., virtual)``.

    The phase of a row is arbitrary: its largest entry is made real.
    """
    energy, vectors = torch.linalg.eigh(gram)
    energy, rows = energy[..., -coils:].flip(-1), vectors[..., -coils:].flip(-1).mH
    largest = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))
    return rows * (largest.conj() / largest.abs()), energy


def _align(matrices: Tensor, start: int) -> Tensor:
    """Each of the matrices rotated towards its neighbour on the side of ``start``.

    The rotation P minimises ``|P A - B|`` for neighbour B (orthogonal Procrustes): with
    ``B A^H = U S V^H`` it is ``U V^H``.
    """
    aligned = matrices.clone()
    order = [(i, i - 1) for i in range(start + 1, len(matrices))]
    order += [(i, i + 1) for i in range(start - 1, -1, -1)]
    for position, neighbour in order:
        left, _, right = torch.linalg.svd(aligned[neighbour] @ matrices[position].mH)
        aligned[position] = left @ right @ matrices[position]
    return aligned


def _share(kept: Tensor, gram: Tensor) -> float:
    """Share of the energy, rounding errors cut off."""
    total = gram.diagonal(dim1=-2, dim2=-1).real.sum()
    return float((kept.sum() / total).clamp(0, 1))


def _check_kspace(kspace: Tensor) -> int:
    """The number of coils, after checking rank and dtype."""
    if not kspace.is_complex() or kspace.ndim not in (4, 5) or 0 in kspace.shape:
        raise ValueError(
            "k-space must be complex (slices, coils, y, x) or (slices, coils, t, y, x), got "
            f"{kspace.dtype} {tuple(kspace.shape)}"
        )
    return kspace.shape[1]


def _check_coils(kspace: Tensor, coils: int) -> None:
    present = _check_kspace(kspace)
    if not 1 <= coils <= present:
        raise ValueError(
            f"the virtual coils must be 1 .. {present}, the number there is, got {coils}"
        )
    largest = kspace.abs().amax()
    if not bool(0 < largest < torch.inf):
        raise ValueError(
            f"k-space must be finite and not all zero, its largest sample is {largest}"
        )


def _check_covariance(covariance: Tensor) -> None:
    if not bool(torch.isfinite(torch.view_as_real(covariance)).all()):
        raise ValueError("the noise must be finite, got NaN or infinity")
    power = covariance.diagonal().real
    if bool((power <= 0).any()):
        raise ValueError(
            f"coil {int(power.argmin())} is dead: its noise has no power; drop this coil"
        )
