"""Lesions of the brain: where they are and what they are made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from physics.brain_anatomy import TISSUE_INDEX, Tile
from physics.brain_head import Head
from physics.shapes import Point, ellipsoid
from physics.texture import Axes, Waves, uniform

_BRAIN = [TISSUE_INDEX[name] for name in ("gray", "white", "deep gray")]
_SEARCH = 4.0  # spacing of the points that may become the centre of a lesion [mm]
_CHOICE = 20  # of these points in a plane, even if white matter is not pure there


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid of other tissue, clipped to the tissue of the brain.

    Attributes:
        position: of its centre in the head's frame [mm]: z (up), y (to the back), x.
        size: semi-axes along z, y, x [mm].
        t1: longitudinal relaxation time [ms].
        t2: transverse relaxation time [ms].
        proton_density: relative to water.
        irregularity: how far its border strays from the ellipsoid, as a share of its radius.

    Raises:
        ValueError: if a size, a time or the density is not positive.
    """

    position: Point
    size: Point = (4.0, 4.0, 4.0)
    t1: float = 1500.0
    t2: float = 200.0
    proton_density: float = 0.8
    irregularity: float = 0.15

    def __post_init__(self) -> None:
        if not min(*self.size, self.t1, self.t2, self.proton_density) > 0:
            raise ValueError(
                f"a lesion's size, t1, t2 and proton density must be positive, got {self}"
            )

    def parameters(self) -> dict[str, float | list[float]]:
        """The attributes as plain values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    def cover(self, tile: Tile, ripples: Waves) -> tuple[Tile, Tensor] | None:
        """The part of a painted plane that it touches, and its share of each point.

        Args:
            tile: the painted plane.
            ripples: a random field that shapes its border.

        Returns:
            The part and float32 ``(y, x)``; None if it touches nothing.
        """
        radius = math.prod(self.size) ** (1 / 3)
        inside = torch.ones_like(tile.depth, dtype=torch.bool)
        for coordinate, middle, length in zip(tile.grid, self.position, self.size, strict=True):
            # The tile's own coordinates may stretch a little.
            inside &= (coordinate - middle).abs_() < length + 3 * self.irregularity * radius + 1
        if (part := tile.around(inside)) is None:
            return None
        distance = ellipsoid(part.grid, self.position, self.size)
        distance.add_(part.see(ripples), alpha=self.irregularity * radius)
        share = distance.div_(part.canvas.softness).add_(0.5).clamp_(0, 1)
        return part, share.mul_(part.canvas.fractions[_BRAIN].sum(0))


def draw_lesions(
    head: Head, axes: Axes, white: Sequence[float], count: int, generator: torch.Generator
) -> list[Lesion]:
    """Lesions like white-matter hyperintensities and small tumours, of varied size and contrast.

    Args:
        head: where they are.
        axes: coordinates z, y, x [mm] of the scan; their centres lie on its planes.
        white: t1, t2 [ms] and proton density of the white matter; those of lesions are longer
            and higher, so that they are bright on T2w and FLAIR and dark on T1w images.
        count: how many.
        generator: source of the randomness.

    Raises:
        ValueError: if no white matter is found.
    """
    lesions = []
    for position in _white_points(head, axes, count, generator):
        radius = 2.0 * 5 ** uniform(0.0, 1.0, generator)
        sizes = [radius * uniform(0.7, 1.4, generator) for _ in range(3)]
        lesions.append(
            Lesion(
                position,
                (sizes[0], sizes[1], sizes[2]),
                t1=white[0] * uniform(1.6, 1.9, generator),
                t2=white[1] * uniform(2.3, 3.5, generator),
                proton_density=white[2] * uniform(1.05, 1.15, generator),
                irregularity=uniform(0.0, 0.2, generator),
            )
        )
    return lesions


def _white_points(head: Head, axes: Axes, count: int, generator: torch.Generator) -> list[Point]:
    """Random points deep in the white matter of random planes, in the head's frame."""
    z, y, x = axes
    # The same spacing whatever the voxels: borders are as soft as the grid is coarse.
    y, x = (torch.arange(axis[0].item(), axis[-1].item(), _SEARCH) for axis in (y, x))
    planes = torch.randperm(len(z), generator=generator).tolist()
    found = (_deep_white(head, (z[plane : plane + 1], y, x)) for plane in planes)
    choices = list(islice((points for points in found if len(points)), count))
    if count and not choices:
        raise ValueError("this scan shows no white matter to put lesions into")
    shuffled = [points[torch.randperm(len(points), generator=generator)] for points in choices]
    points = []
    for place in range(count):
        around, plane = divmod(place, len(shuffled))
        candidates = shuffled[plane]
        at_z, at_y, at_x = candidates[around % len(candidates)].tolist()
        points.append((at_z, at_y, at_x))
    return points


def _deep_white(head: Head, axes: Axes) -> Tensor:
    """The points of a plane with the purest white matter, in the head's frame, ``(n, 3)``."""
    if (tile := head.paint(axes)) is None:
        return torch.empty(0, 3)
    white = tile.canvas.fractions[TISSUE_INDEX["white"]]
    white = torch.where((tile.depth > 8) & (tile.grid[0] > -25), white, 0)
    purest = min(0.95, white.flatten().topk(min(_CHOICE, white.numel())).values[-1].item())
    return torch.stack(tile.grid, -1)[(white >= purest) & (white > 0.5)]
