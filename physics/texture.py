"""Smooth random fields at physical coordinates: folding, texture, shading and phase."""

import math

import torch
from torch import Tensor

# The axes of a grid: the coordinates [mm] along z, y and x, each float32 of shape (n,).
Axes = tuple[Tensor, Tensor, Tensor]


def random_waves(
    axes: Axes, shortest: float, longest: float, generator: torch.Generator, count: int = 64
) -> Tensor:
    """A random field: a sum of plane waves of random direction, wavelength and phase.

    Defined at every point of space, so a slice equals the same plane of a volume.

    Args:
        axes: coordinates along z, y and x [mm].
        shortest: shortest wavelength [mm].
        longest: longest wavelength [mm]; wavelengths are drawn uniformly in the logarithm.
        generator: source of the randomness.
        count: number of waves; many make the values Gaussian.

    Returns:
        float32 ``(z, y, x)``, mean 0 and standard deviation 1 over all fields.
    """
    return _sum_of_waves(axes, *_draw_waves(shortest, longest, generator, count))


def random_sheets(
    axes: Axes, spacing: float, generator: torch.Generator, count: int = 48
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Winding sheets that fill space at a regular spacing, as sulci fill the cortex.

    The sheets are the zeros of a random field of nearly one wavelength.

    Args:
        axes: coordinates along z, y and x [mm].
        spacing: typical distance between neighbouring sheets [mm].
        generator: source of the randomness.
        count: number of waves.

    Returns:
        float32 ``(z, y, x)`` each: the approximate distance [mm] to the nearest sheet, at most
        half the spacing, and the z, y and x components of the normal, of length 1 near a sheet.
    """
    waves, phases = _draw_waves(1.7 * spacing, 2.4 * spacing, generator, count)
    field = _sum_of_waves(axes, waves, phases)
    wavenumber = math.pi / spacing
    slopes = [
        _sum_of_waves(axes, waves, phases + math.pi / 2, waves[:, axis] / wavenumber)
        for axis in range(3)
    ]
    steepness = (slopes[0].square() + slopes[1].square() + slopes[2].square()).sqrt_()
    # Exact for a single plane wave; bounded where the slope vanishes.
    distance = torch.atan2(field.abs(), steepness) / wavenumber
    steepness.clamp_(min=0.1)
    z, y, x = (slope / steepness for slope in slopes)
    return distance, z, y, x


def _draw_waves(
    shortest: float, longest: float, generator: torch.Generator, count: int
) -> tuple[Tensor, Tensor]:
    direction = torch.randn(count, 3, generator=generator)
    direction = direction / direction.norm(dim=1, keepdim=True)
    draw = torch.rand(count, 2, generator=generator)
    wavelength = shortest * (longest / shortest) ** draw[:, :1]
    return 2 * math.pi * direction / wavelength, 2 * math.pi * draw[:, 1]


def _sum_of_waves(
    axes: Axes, waves: Tensor, phases: Tensor, amplitudes: Tensor | None = None
) -> Tensor:
    """``sqrt(2 / n) sum_i a_i cos(k_i . r + phase_i)``, by a matrix product for each plane."""
    z, y, x = axes
    scale = math.sqrt(2 / len(phases))
    weights = torch.full_like(phases, scale) if amplitudes is None else scale * amplitudes
    rows = y[:, None] * waves[:, 1] + phases
    columns = waves[:, 2, None] * x
    columns = torch.cat((columns.cos(), columns.sin())) * weights.repeat(2)[:, None]
    field = torch.empty(len(z), len(y), len(x))
    for plane, height in enumerate(z):
        angle = rows + height * waves[:, 0]
        torch.matmul(torch.cat((angle.cos(), -angle.sin()), 1), columns, out=field[plane])
    return field


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number drawn uniformly between ``low`` and ``high``."""
    return low + (high - low) * torch.rand((), generator=generator).item()
