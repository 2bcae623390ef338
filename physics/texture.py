"""Smooth random fields at physical coordinates: folding, texture, shading and phase."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The axes of a grid: the coordinates [mm] along z, y and x, each float32 of shape (n,).
Axes = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Waves:
    """A random field, ``sqrt(2 / n) sum_i cos(k_i . r + phase_i)``, seen on any grid.

    Defined at every point of space, so a slice equals the same plane of a volume.

    Attributes:
        vectors: wave vectors k [radians / mm] along z, y and x, float32 ``(n, 3)``.
        phases: [radians], float32 ``(n,)``.
    """

    vectors: Tensor
    phases: Tensor

    @classmethod
    def draw(
        cls, shortest: float, longest: float, generator: torch.Generator, count: int = 64
    ) -> "Waves":
        """Random directions, phases and wavelengths [mm], these uniform in the logarithm."""
        direction = torch.randn(count, 3, generator=generator)
        direction /= direction.norm(dim=1, keepdim=True)
        share, phase = torch.rand(2, count, generator=generator)
        wavelength = shortest * (longest / shortest) ** share
        return cls(2 * math.pi * direction / wavelength[:, None], 2 * math.pi * phase)

    def __call__(self, axes: Axes) -> Tensor:
        """The field, float32 ``(z, y, x)``; mean 0 and standard deviation 1 over all fields."""
        return self._sum(axes, self._columns(axes[2]))

    def with_slopes(self, axes: Axes, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The field ``(z, y, x)`` and its slopes [1 / mm] ``(z, d, y, x)``.

        Args:
            axes: coordinates z, y, x [mm].
            directions: unit vectors, float32 ``(d, 3)``.
        """
        columns = self._columns(axes[2])
        # A quarter period on: of cos(row) cos(column) + sin(row) (-sin(column)) the sines swap.
        first, second = columns.chunk(2)
        ahead = torch.cat((-second, first))
        steepness = (self.vectors @ directions.T).repeat(2, 1)
        parts = [columns, *(ahead * along[:, None] for along in steepness.T)]
        field = self._sum(axes, torch.cat(parts, 1))
        values = field.unflatten(-1, (len(parts), -1)).movedim(2, 1)
        return values[:, 0], values[:, 1:]

    def _columns(self, x: Tensor) -> Tensor:
        angle = torch.cat((self.vectors[:, 2, None] * x,) * 2)
        angle[len(self.phases) :] -= math.pi / 2
        return angle.cos_().mul_(math.sqrt(2 / len(self.phases)))

    def _sum(self, axes: Axes, columns: Tensor) -> Tensor:
        """``cos(r + c) = cos(r) cos(c) + cos(r + 90) cos(c - 90)``, a product for each plane."""
        z, y, _ = axes
        vectors = self.vectors.repeat(2, 1)
        phases = torch.cat((self.phases, self.phases + math.pi / 2))
        rows = torch.addcmul(phases, y[:, None], vectors[:, 1])
        field = torch.empty(len(z), len(y), columns.shape[1])
        for plane, height in enumerate(z):
            torch.matmul((rows + height * vectors[:, 0]).cos_(), columns, out=field[plane])
        return field


def random_waves(
    axes: Axes, shortest: float, longest: float, generator: torch.Generator, count: int = 64
) -> Tensor:
    """A random field: a sum of plane waves of random direction, wavelength and phase.

    Args:
        axes: coordinates along z, y and x [mm].
        shortest: shortest wavelength [mm].
        longest: longest wavelength [mm]; wavelengths are drawn uniformly in the logarithm.
        generator: source of the randomness.
        count: number of waves; many make the values Gaussian.

    Returns:
        float32 ``(z, y, x)``, mean 0 and standard deviation 1 over all fields.
    """
    return Waves.draw(shortest, longest, generator, count)(axes)


@dataclass(frozen=True)
class Sheets:
    """Winding sheets that fill space at a regular spacing, as sulci fill the cortex.

    The sheets are the zeros of a random field of nearly one wavelength.

    Attributes:
        waves: the field.
        spacing: typical distance between neighbouring sheets [mm].
    """

    waves: Waves
    spacing: float

    @classmethod
    def draw(cls, spacing: float, generator: torch.Generator, count: int = 48) -> "Sheets":
        """Random sheets at this spacing [mm]."""
        return cls(Waves.draw(1.7 * spacing, 2.4 * spacing, generator, count), spacing)

    def __call__(self, axes: Axes, directions: Tensor) -> tuple[Tensor, Tensor]:
        """How far the next sheet is and where it faces.

        Args:
            axes: coordinates z, y, x [mm].
            directions: three orthogonal unit vectors, float32 ``(3, 3)``.

        Returns:
            The approximate distance [mm] to the nearest sheet, at most half the spacing, float32
            ``(z, y, x)``, and the components of its normal along the directions, float32
            ``(3, z, y, x)``, of length 1 near a sheet.
        """
        field, slopes = self.waves.with_slopes(axes, directions)
        wavenumber = math.pi / self.spacing
        normal = slopes.movedim(1, 0)
        steepness = (normal[0] * normal[0]).addcmul_(normal[1], normal[1])
        steepness = steepness.addcmul_(normal[2], normal[2]).sqrt_().div_(wavenumber)
        # Exact for a single plane wave; bounded where the slope vanishes.
        distance = torch.atan2(field.abs(), steepness).div_(wavenumber)
        return distance, normal / steepness.clamp_(min=0.1).mul_(wavenumber)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number drawn uniformly between ``low`` and ``high``."""
    return low + (high - low) * torch.rand((), generator=generator).item()
