"""What a head has below the brain: orbits, air cells, neck. Air shows as bone, which is as dark."""

import torch
from torch import Tensor

from physics.brain_anatomy import Tile
from physics.shapes import Grid, ellipsoid, tube
from physics.texture import Waves, uniform

_EDGE = 20.0  # radius of the edge between the vault and the base of the skull [mm]


class Face:
    """The face and the neck of a random head.

    Args:
        generator: source of the randomness.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._fibres = Waves.draw(8.0, 30.0, generator, 48)
        self._marbling = uniform(-0.9, 0.3, generator)
        self._fat = uniform(2.0, 6.0, generator)
        self._wide = uniform(0.9, 1.1, generator)

    @staticmethod
    def skull_base(grid: Grid, depth: Tensor) -> Tensor:
        """The depth in a brain that also ends at the base of the skull, with a rounded edge.

        Args:
            grid: the head's coordinates [mm].
            depth: below the surface that the brain would have without a base [mm]; changed.
        """
        above = (grid[0] + 53).add_(grid[1], alpha=0.38).mul_(0.93)  # a plane, lower at the back
        nearest = torch.minimum(above, depth)
        edge = torch.hypot((_EDGE - above).clamp_(min=0), depth.neg_().add_(_EDGE).clamp_(min=0))
        return (nearest - _EDGE).clamp_(min=0).add_(_EDGE).sub_(edge)

    def surface(self, tile: Tile) -> Tensor | None:
        """Distance [mm] into face and neck, float32 ``(y, x)``; None far above them."""
        if tile.grid[0].min() > 5:
            return None
        z, y, x = tile.grid
        jaw = ellipsoid((z, y, x / self._wide), (-80.0, -46.0, 0.0), (52.0, 50.0, 61.0))
        neck = tube(tile.grid, ((-60.0, 25.0, 0.0), (-220.0, 40.0, 0.0)), (62.0, 58.0))
        return torch.maximum(jaw, neck)

    def paint_inside(self, tile: Tile, surface: Tensor) -> None:
        """Paint what lies beyond the skull's base, up to the fat under the skin."""
        part = tile.around((surface > -2) & (tile.depth < -3))
        if part is None:
            return
        tile, surface = part, surface[tile.index(part)]
        z, y, x = tile.grid
        side = (z, y, x.abs())
        outside = -4 - tile.depth
        fibres = tile.see(self._fibres)
        cord = ((-66.0, 24.0, 0.0), (-220.0, 42.0, 0.0))
        spine = ((-74.0, 6.0, 0.0), (-220.0, 24.0, 0.0))
        airway = ((-75.0, -30.0, 0.0), (-110.0, -10.0, 0.0), (-220.0, -6.0, 0.0))
        sinuses = torch.maximum(
            ellipsoid(tile.grid, (-62.0, -64.0, 0.0), (22.0, 26.0, 10.0)),
            ellipsoid(side, (-84.0, -62.0, 26.0), (15.0, 15.0, 11.0)),
        )
        mastoid = ellipsoid(side, (-54.0, 28.0, 58.0), (15.0, 12.0, 9.0)).add_(fibres, alpha=3)
        muscle = torch.minimum(fibres - self._marbling, surface - self._fat)
        within = torch.minimum(outside, surface - 1)
        for tissue, distance in (
            ("connective", ellipsoid(side, (-52.0, -73.0, 32.0), (4.5, 2.2, 4.5))),  # lens
            ("csf", ellipsoid(side, (-52.0, -64.0, 32.0), (11.5, 11.5, 11.5))),  # eye
            ("connective", ellipsoid(side, (-52.0, -64.0, 32.0), (12.5, 12.5, 12.5))),
            ("white", tube(side, ((-52.0, -53.0, 30.0), (-46.0, -25.0, 8.0)), (2.0, 2.0))),
            ("fat", ellipsoid(side, (-52.0, -54.0, 29.0), (17.0, 27.0, 16.0))),
            (
                "bone",
                torch.maximum(sinuses, torch.maximum(mastoid, tube(tile.grid, airway, (10, 8, 9)))),
            ),
            ("white", tube(tile.grid, cord, (5.5, 5.0))),
            ("csf", tube(tile.grid, cord, (9.0, 8.0))),
            ("marrow", tube(tile.grid, spine, (10.0, 10.0))),
            ("bone", tube(tile.grid, spine, (12.0, 12.0))),
            ("muscle", muscle),
            ("fat", surface - 2),
        ):
            tile.paint(tissue, torch.minimum(distance, within))
