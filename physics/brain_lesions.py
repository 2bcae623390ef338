"""Lesions of the brain: where they are and what they are made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.brain_anatomy import TISSUE_INDEX, Tile
from physics.brain_head import Head
from physics.shapes import Point, ellipsoid
from physics.texture import Axes, Waves, uniform

_BRAIN = [TISSUE_INDEX[name] for name in ("gray", "white", "deep gray")]
_ATTEMPTS = 200
_SEARCH = 4.0  # spacing of the points that may become the centre of a lesion [mm]


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
    for _ in range(count):
        radius = 2.0 * 5 ** uniform(0.0, 1.0, generator)
        sizes = [radius * uniform(0.7, 1.4, generator) for _ in range(3)]
        lesions.append(
            Lesion(
                _white_point(head, axes, generator),
                (sizes[0], sizes[1], sizes[2]),
                t1=white[0] * uniform(1.6, 1.9, generator),
                t2=white[1] * uniform(2.3, 3.5, generator),
                proton_density=white[2] * uniform(1.05, 1.15, generator),
                irregularity=uniform(0.0, 0.2, generator),
            )
        )
    return lesions


def _white_point(head: Head, axes: Axes, generator: torch.Generator) -> Point:
    """A random point deep in the white matter of a random plane, in the head's frame."""
    z, y, x = axes
    step = max(1, int(_SEARCH / (x[1] - x[0]).abs().item()))
    for _ in range(_ATTEMPTS):
        plane = int(uniform(0, len(z), generator))
        tile = head.paint((z[plane : plane + 1], y[::step], x[::step]))
        if tile is None:
            continue
        white = tile.canvas.fractions[TISSUE_INDEX["white"]] > 0.95
        candidates = (white & (tile.depth > 8) & (tile.grid[0] > -25)).nonzero()
        if len(candidates):
            row, column = candidates[int(uniform(0, len(candidates), generator))].tolist()
            at_z, at_y, at_x = (part[row, column].item() for part in tile.grid)
            return at_z, at_y, at_x
    raise ValueError("this scan shows no white matter to put lesions into")
