"""What the receivers add: the sensitivities of a coil array, and correlated noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from physics.texture import Axes, uniform


def coil_maps(axes: Axes, coils: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normalised sensitivities of a random array of loops around the head.

    Every loop is a magnetic dipole softened by its radius, whose field on the axis is that of a
    loop; what it receives is the field's transverse part, ``Bx - i By`` (Roemer et al., MRM 1990).

    Args:
        axes: coordinates z, y, x [mm] of the grid; the head is around the origin of y and x.
        coils: number of coils, spread over one ring, or two from 8 coils on.
        generator: source of the randomness.

    Returns:
        The maps, complex64 ``(coils, z, y, x)``, whose squared magnitudes sum to 1 over the coils
        everywhere, and the root sum of squares they were divided by, float32 ``(z, y, x)``, 1 on
        average: the shading that an array gives an image combined with these maps.

    Raises:
        ValueError: if there are no coils.
    """
    if coils < 1:
        raise ValueError(f"there must be at least one coil, got {coils}")
    ring = uniform(115.0, 150.0, generator)
    radius = uniform(45.0, 90.0, generator)
    rings = 2 if coils >= 8 and uniform(0, 1, generator) < 0.7 else 1
    start = uniform(0, 2 * math.pi, generator)
    maps = torch.empty(coils, *(len(axis) for axis in axes), dtype=torch.complex64)
    for coil in range(coils):
        jitter = torch.randn(6, generator=generator).tolist()
        angle = start + 2 * math.pi * (coil + 0.15 * jitter[0]) / coils
        height = (coil % rings - (rings - 1) / 2) * 80 + 10 * jitter[1]
        position = (height, ring * math.sin(angle), ring * math.cos(angle))
        axis = (0.2 * jitter[2], math.sin(angle + 0.15 * jitter[3]), math.cos(angle))
        gain = math.exp(0.2 * jitter[4])
        phase = math.pi * jitter[5]
        field = _loop(axes, position, axis, radius)
        maps[coil] = field * torch.polar(torch.tensor(gain), torch.tensor(phase))
    shading = maps.abs().square_().sum(0).sqrt_()
    return maps.div_(shading), shading / shading.mean()


def add_noise(
    kspace: Tensor, sigma: float, generator: torch.Generator, correlation: Tensor | None = None
) -> Tensor:
    """K-space plus complex Gaussian noise, white over positions.

    Args:
        kspace: complex64 ``(coils, *space)``.
        sigma: standard deviation of the real part and, separately, of the imaginary part.
        generator: source of the randomness.
        correlation: between the coils, Hermitian, positive definite, complex64
            ``(coils, coils)`` with ones on its diagonal; by default the identity.

    Returns:
        complex64 of the same shape.

    Raises:
        ValueError: if sigma is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"the noise must not be negative, got {sigma}")
    draw = torch.randn(*kspace.shape, 2, generator=generator)
    noise = sigma * torch.view_as_complex(draw)
    if correlation is not None:
        mixing = torch.linalg.cholesky(correlation)
        noise = torch.tensordot(mixing, noise, 1)
    return kspace + noise


def noise_correlation(maps: Tensor, body: Tensor, generator: torch.Generator) -> Tensor:
    """Correlation between coils that see the same body, as far as the body makes the noise.

    Args:
        maps: sensitivities, complex64 ``(coils, *space)``.
        body: bool ``(*space)``, where there is tissue.
        generator: draws the body's share of the noise, at most one half.

    Returns:
        complex64 ``(coils, coils)``, Hermitian, positive definite, ones on its diagonal.
    """
    seen = maps[:, body]
    covariance = seen @ seen.mH
    scale = covariance.diagonal().real.sqrt()
    share = uniform(0.0, 0.5, generator)
    correlation = share * covariance / (scale[:, None] * scale)
    return correlation + (1 - share) * torch.eye(len(maps))


def _loop(axes: Axes, position: Sequence[float], normal: Sequence[float], radius: float) -> Tensor:
    """Transverse field of a loop: exact on its axis, and far away that of a dipole."""
    z, y, x = (
        axis.reshape([-1 if i == j else 1 for j in range(3)]) - middle
        for i, (axis, middle) in enumerate(zip(axes, position, strict=True))
    )
    squared = z.square() + y.square() + x.square()
    along = 3 * (normal[0] * z + normal[1] * y + normal[2] * x)
    across = 2 * radius**2 - squared
    strength = radius**3 * (squared + radius**2) ** -2.5
    bx, by = along * x + normal[2] * across, along * y + normal[1] * across
    return torch.complex(strength * bx, -strength * by)
