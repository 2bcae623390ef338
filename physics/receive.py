"""What the receivers add: the sensitivities of a coil array, and correlated noise."""

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.texture import Axes, uniform

_BLOCK = 2**16  # numbers handled at a time


@dataclass(frozen=True)
class CoilArray:
    """Loops on an elliptical tube around the body; lengths in mm, angles in degrees.

    Its origin is the middle of the subject in the plane of the rings.

    Attributes:
        coils: how many, dealt out evenly over the rings.
        rings: number of rings along z.
        semi_axes: distance of the loops from the origin along y and along x.
        loop_radius: of every loop.
        ring_distance: between neighbouring rings.
        arcs: stretches of each ring that carry loops, evenly filled: 0 is +x, 90 is +y (the
            back), so ``((45, 135), (225, 315))`` is a posterior and an anterior array.
        jitter: 0 for a perfectly regular array, 1 for that of a flexible one put on by hand.
        turn: of tube and arcs about z, counter-clockwise on a screen, where y goes down.

    Raises:
        ValueError: if there are no coils or no rings, or more rings than coils.
    """

    coils: int = 8
    rings: int = 1
    semi_axes: tuple[float, float] = (130.0, 130.0)
    loop_radius: float = 65.0
    ring_distance: float = 80.0
    arcs: tuple[tuple[float, float], ...] = ((0.0, 360.0),)
    jitter: float = 1.0
    turn: float = 0.0

    def __post_init__(self) -> None:
        if self.coils < 1 or not 1 <= self.rings <= self.coils:
            raise ValueError(
                "there must be at least one coil, and 1 .. coils rings, got "
                f"{self.coils} coils on {self.rings} rings"
            )


def coil_maps(axes: Axes, array: CoilArray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normalised sensitivities of an array of loops.

    Every loop is a magnetic dipole softened by its radius, whose field on the axis is that of a
    loop; what it receives is the field's transverse part, ``Bx - i By`` (Roemer et al., MRM 1990).

    Args:
        axes: coordinates z, y, x [mm] of the grid; their origin is that of the array, the middle
            of the subject.
        array: the layout.
        generator: source of the randomness: jitter, gains and phases of the loops.

    Returns:
        The maps, complex64 ``(coils, z, y, x)``, whose squared magnitudes sum to 1 over the coils
        everywhere, and the root sum of squares they were divided by, float32 ``(z, y, x)``, 1 on
        average: the shading that an array gives an image combined with these maps.
    """
    maps = torch.empty(array.coils, *(len(axis) for axis in axes), dtype=torch.complex64)
    power = torch.zeros(maps.shape[1:])
    full_circle = sum(last - first for first, last in array.arcs) >= 360
    start = uniform(0, 2 * math.pi, generator) if full_circle else 0.0
    turn = math.radians(array.turn)
    for coil in range(array.coils):
        jitter = torch.randn(6, generator=generator).tolist()
        place, ring = divmod(coil, array.rings)
        count = len(range(ring, array.coils, array.rings))
        # Neighbouring rings are staggered, so that their loops overlap like bricks.
        place += (ring + 0.5) / array.rings + 0.15 * array.jitter * jitter[0]
        angle = start + _angle(array.arcs, place / count)
        height = (ring - (array.rings - 1) / 2) * array.ring_distance
        y, x = array.semi_axes[0] * math.sin(angle), array.semi_axes[1] * math.cos(angle)
        position = (
            height + 10 * array.jitter * jitter[1],
            math.cos(turn) * y - math.sin(turn) * x,
            math.cos(turn) * x + math.sin(turn) * y,
        )
        tilt = angle - turn + 0.15 * array.jitter * jitter[3]
        normal = (0.2 * array.jitter * jitter[2], math.sin(tilt), math.cos(tilt))
        bx, by = _loop(axes, position, normal, array.loop_radius)
        gain = math.exp(0.2 * array.jitter * jitter[4])
        maps[coil] = torch.complex(bx, by.neg_()).mul_(cmath.rect(gain, math.pi * jitter[5]))
        power.add_(bx.square_().add_(by.square_()), alpha=gain**2)
    shading = power.sqrt_()
    torch.view_as_real(maps).mul_(shading.reciprocal()[..., None])
    return maps, shading.div_(shading.mean())


def _angle(arcs: Sequence[tuple[float, float]], share: float) -> float:
    """The angle [radians] at this share, 0 to 1, of the arcs' total length."""
    lengths = [last - first for first, last in arcs]
    rest = (share % 1) * sum(lengths)
    for (first, _), length in zip(arcs, lengths, strict=True):
        if rest < length:
            return math.radians(first + rest)
        rest -= length
    return math.radians(arcs[-1][1])


def add_noise(
    kspace: Tensor, sigma: float, generator: torch.Generator, correlation: Tensor | None = None
) -> Tensor:
    """Adds complex Gaussian noise, white over positions, to k-space in place.

    Args:
        kspace: complex64 ``(coils, *space)``; changed.
        sigma: standard deviation of the real part and, separately, of the imaginary part.
        generator: source of the randomness.
        correlation: between the coils, Hermitian, positive definite, complex64
            ``(coils, coils)`` with ones on its diagonal; by default the identity.

    Returns:
        The same tensor.

    Raises:
        ValueError: if sigma is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"the noise must not be negative, got {sigma}")
    if sigma == 0:
        return kspace
    mixing = sigma * torch.eye(len(kspace), dtype=kspace.dtype)
    if correlation is not None:
        mixing = sigma * torch.linalg.cholesky(correlation)
    # In blocks: the noise of a whole volume would take the memory of its k-space twice more.
    for block in kspace.split(max(1, _BLOCK // kspace[:, 0].numel()), 1):
        draw = torch.randn(*block.shape, 2, generator=generator)
        block += torch.tensordot(mixing, torch.view_as_complex(draw), 1)
    return kspace


def noise_correlation(maps: Tensor, body: Tensor, generator: torch.Generator) -> Tensor:
    """Correlation between coils that see the same body, as far as the body makes the noise.

    Args:
        maps: sensitivities, complex64 ``(coils, *space)``.
        body: bool ``(*space)``, where there is tissue.
        generator: draws the body's share of the noise, at most one half.

    Returns:
        complex64 ``(coils, coils)``, Hermitian, positive definite, ones on its diagonal.
    """
    # Maps are smooth, and a part of the points tells as much as all of them.
    stride = math.ceil((body.numel() / _BLOCK) ** (1 / body.ndim))
    thin = (slice(None, None, stride),) * body.ndim
    seen = maps[(slice(None), *thin)][:, body[thin]]
    covariance = seen @ seen.mH
    scale = covariance.diagonal().real.sqrt()
    share = uniform(0.0, 0.5, generator)
    correlation = share * covariance / (scale[:, None] * scale)
    return correlation + (1 - share) * torch.eye(len(maps))


def _loop(
    axes: Axes, position: Sequence[float], normal: Sequence[float], radius: float
) -> tuple[Tensor, Tensor]:
    """Field along x and y of a loop: exact on its axis, and far away that of a dipole."""
    z, y, x = (
        axis.reshape([-1 if i == j else 1 for j in range(3)]) - middle
        for i, (axis, middle) in enumerate(zip(axes, position, strict=True))
    )
    squared = (z.square() + y.square()) + x.square()
    along = 3 * (normal[0] * z + normal[1] * y) + 3 * normal[2] * x
    falloff = (squared + radius**2).rsqrt_()
    strength = falloff.square().square_().mul_(falloff).mul_(radius**3)
    across = squared.neg_().add_(2 * radius**2)
    by = (along * y).add_(across, alpha=normal[1]).mul_(strength)
    bx = along.mul_(x).add_(across, alpha=normal[2]).mul_(strength)
    return bx, by
