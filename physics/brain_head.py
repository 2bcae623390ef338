"""A whole head: where it lies, the layers around its brain, and its tissues on any grid."""

from collections.abc import Callable

import torch
from torch import Tensor

from physics.brain_anatomy import (
    Placement,
    Tile,
    cerebrum,
    hindbrain,
    ventricles,
    vessels,
)
from physics.brain_face import Face
from physics.sequences import BRAIN_TISSUES
from physics.shapes import Canvas, Grid, ellipsoid
from physics.texture import Axes, Waves, uniform

_COARSE = 6.0  # spacing of the grid that finds where the head is, and its margin [mm]
# Of the layers around the brain [mm]: fluid, inner table, marrow, outer table, muscle, fat, skin.
_THICKNESSES = ((0.3, 2.5), (1.0, 2.0), (0.5, 4.0), (1.0, 2.2), (4.0, 11.0), (1.5, 6.0), (1.0, 2.2))


class Head:
    """A random head, analytic at every point of space.

    Args:
        generator: source of the randomness: the same state gives the same head.
        placement: where the head lies; by default upright at the origin.
        thickness: of the slices that it will be seen in [mm], which blurs what slants.
    """

    def __init__(
        self,
        generator: torch.Generator,
        placement: Placement | None = None,
        thickness: float = 0.0,
    ) -> None:
        placement = placement or Placement()
        rotation = placement.rotation()
        self._linear = rotation / torch.tensor(placement.scale)[:, None]
        self._offset = -self._linear @ torch.tensor(placement.centre)
        self._warps = [Waves.draw(45.0, 160.0, generator, 24) for _ in range(3)]
        self._egg = uniform(0.0, 0.0012, generator)
        self._bumps = Waves.draw(40.0, 120.0, generator, 24)
        self._parts = (
            vessels(generator),
            ventricles(generator),
            hindbrain(generator),
            cerebrum(generator, rotation, thickness),
        )
        self._layers = _layers(generator)
        self._face = Face(generator)

    def coordinates(self, axes: Axes) -> Grid:
        """The head's own coordinates z, y, x [mm] of a grid, float32 ``(z, y, x)`` each.

        They are slightly warped, so that no side is a mirror of the other.
        """
        z, y, x = axes
        grid = []
        for along, offset, warp, amplitude in zip(
            self._linear, self._offset, self._warps, (2.0, 2.0, 1.5), strict=True
        ):
            rows = along[0] * z[:, None] + along[1] * y + offset
            coordinate = warp(axes).mul_(amplitude)
            grid.append(coordinate.add_(rows[..., None]).add_(along[2] * x))
        return grid[0], grid[1], grid[2]

    def fractions(self, axes: Axes) -> Tensor:
        """The share of every tissue at every point, float32 ``(tissues, z, y, x)``.

        Args:
            axes: coordinates z, y, x [mm], each of shape (n,); y and x evenly spaced.

        Raises:
            ValueError: if y or x has fewer than 2 points.
        """
        if min(len(axes[1]), len(axes[2])) < 2:
            raise ValueError(f"y and x need at least 2 points, got {[len(axis) for axis in axes]}")
        fractions = torch.zeros(len(BRAIN_TISSUES), *(len(axis) for axis in axes))
        fractions[0] = 1
        for plane in range(len(axes[0])):
            tile = self.paint((axes[0][plane : plane + 1], *axes[1:]))
            if tile is not None:
                fractions[:, plane, tile.rows, tile.columns] = tile.canvas.fractions
        return fractions

    def paint(self, axes: Axes) -> Tile | None:
        """The painted rectangle of one plane that holds the head; outside there is only air.

        Args:
            axes: coordinates z (a single one), y, x [mm].

        Returns:
            The rectangle, which begins at an even row and column; None if the plane misses the
            head.
        """
        z, y, x = axes
        spacing = (x[1] - x[0]).abs().item()
        step = 2 * max(1, int(_COARSE / spacing / 2))
        everything = slice(0, None)
        coarse = self._tile(everything, everything, (z, y[::step], x[::step]), spacing)
        outermost, face = self._layers(coarse)[-1][1], self._face.surface(coarse)
        outermost = outermost if face is None else torch.maximum(outermost, face)
        near = outermost > -1.5 * _COARSE  # the corners around every point
        if not near.any():
            return None
        found = (near.any(1).nonzero(), near.any(0).nonzero())
        rows, columns = (slice(step * int(i[0]), step * int(i[-1] + 1)) for i in found)
        return self._paint(self._tile(rows, columns, (z, y[rows], x[columns]), spacing))

    def _tile(self, rows: slice, columns: slice, axes: Axes, spacing: float) -> Tile:
        z, y, x = (part[0] for part in self.coordinates(axes))
        # Heads are wider at the back, and below the middle more a cylinder than a ball.
        egg = x / y.clamp(-90, 90).mul_(self._egg).add_(1)
        height = torch.maximum(z, -0.6 * z)
        depth = ellipsoid((height, y, egg), (0.0, 0.0, 0.0), (74.0, 86.0, 68.0))
        depth = self._face.skull_base((z, y, x), depth)
        depth.add_(self._bumps(axes)[0], alpha=0.6)
        canvas = Canvas(len(BRAIN_TISSUES), depth.shape, spacing)
        return Tile(rows, columns, axes, (z, y, x), depth, canvas)

    def _paint(self, tile: Tile) -> Tile:
        if (brain := tile.around(tile.depth > -3 * tile.canvas.softness - 1)) is not None:
            for paint in self._parts:
                paint(brain)
        if (face := self._face.surface(tile)) is not None:
            self._face.paint_inside(tile, face)
        for name, distance in self._layers(tile):
            tile.paint(name, distance)
        if face is not None:
            tile.paint("connective", face)  # skin
        return tile


def _layers(generator: torch.Generator) -> Callable[[Tile], list[tuple[str, Tensor]]]:
    """The layers around the brain, from inside out: tissue, and distance into its outside."""
    vary, fine = (Waves.draw(*r, generator, 48) for r in ((40.0, 150.0), (8.0, 30.0)))
    fluid, table, marrow, outer, muscle, fat, skin = (
        uniform(low, high, generator) for low, high in _THICKNESSES
    )

    def surfaces(tile: Tile) -> list[tuple[str, Tensor]]:
        z, y, x = tile.grid
        wide, fines = tile.see(vary), tile.see(fine)
        temple = ((y + 25) / 32).square_().add_((68 - x.abs()).clamp_(min=0), alpha=1 / 12)
        temple = temple.neg_().exp_().mul_(torch.sigmoid((20 - z).div_(6)))
        dura = (0.1 * fines).add_(0.5)
        inside = tile.depth
        surfaces = []
        for name, thickness in (
            ("csf", (0.4 * fluid * wide).add_(fines, alpha=0.2).add_(fluid)),
            ("connective", dura),
            ("bone", (0.2 * fines).add_(table)),
            (
                "marrow",
                (-0.4 * marrow * wide).sub_(fines, alpha=0.2).sub_(temple, alpha=2).add_(marrow),
            ),
            ("bone", (-0.2 * fines).add_(outer)),
            ("muscle", muscle * temple),
            ("connective", dura.clone()),
            ("fat", (0.25 * fat * wide).add_(fat)),
            ("connective", (0.1 * fines).add_(skin)),
        ):
            inside = inside + thickness.clamp_(min=0)
            surfaces.append((name, inside))
        return surfaces

    return surfaces
