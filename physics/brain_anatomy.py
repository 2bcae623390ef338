"""A random head, as tissue fractions at physical coordinates.

Bodies are analytic shapes and the folding comes from random fields, so that any plane or volume
of the same head is only other coordinates. Coordinates are z (up), y (to the back), x, in mm; the
head's own frame has its origin in the middle of the brain at the height of the third ventricle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.sequences import BRAIN_TISSUES
from physics.shapes import Canvas, Grid, Point, ellipsoid, tube
from physics.texture import Axes, Sheets, Waves, uniform

TISSUE_INDEX = {tissue.name: index for index, tissue in enumerate(BRAIN_TISSUES)}

# The lateral ventricle of one side: corners (z, y, |x|) and radii [mm].
_VENTRICLE = (
    (
        *((2.0, -34.0, 13.0), (11.0, -22.0, 8.0), (19.0, 0.0, 9.0)),
        *((17.0, 20.0, 15.0), (6.0, 34.0, 25.0), (1.0, 56.0, 23.0)),
    ),
    (2.5, 4.5, 4.5, 5.0, 6.0, 1.5),
)
_TEMPORAL_HORN = (((6.0, 34.0, 25.0), (-12.0, 20.0, 33.0), (-20.0, -5.0, 31.0)), (6.0, 2.5, 1.5))
# The Sylvian fissure and the insula, a sheet that stands on this line: corners y, |x| [mm].
_SYLVIAN = ((-20.0, 42.0), (-12.0, 36.0), (6.0, 37.0), (14.0, 42.0), (4.0, 52.0), (0.0, 68.0))


@dataclass(frozen=True)
class Placement:
    """Where a head lies: the scanner coordinates of its origin, its turn and its size.

    Attributes:
        centre: z, y, x [mm] of the head's origin.
        angle: in-plane rotation [radians].
        tilt: rotation about x, nodding [radians].
        scale: size relative to the average, along z, y, x.
    """

    centre: Point = (0.0, 0.0, 0.0)
    angle: float = 0.0
    tilt: float = 0.0
    scale: Point = (1.0, 1.0, 1.0)

    def rotation(self) -> Tensor:
        """The head's axes z, y, x (rows) along those of the scanner, float32 ``(3, 3)``."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        cosine, sine = math.cos(self.tilt), math.sin(self.tilt)
        nod = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        return nod @ turn


@dataclass(frozen=True)
class Tile:
    """A rectangle of one plane of a head, and what is painted on it; tensors ``(y, x)``.

    Attributes:
        rows: where it lies along the plane's y.
        columns: where it lies along the plane's x.
        axes: its coordinates z (a single one), y, x [mm] of the scanner.
        grid: the head's own coordinates [mm].
        depth: below the surface of the brain [mm], negative outside.
        canvas: tissue fractions.
    """

    rows: slice
    columns: slice
    axes: Axes
    grid: Grid
    depth: Tensor
    canvas: Canvas

    def paint(self, tissue: str, distance: Tensor) -> None:
        """Fill what is free up to this signed distance [mm]."""
        self.canvas.paint(TISSUE_INDEX[tissue], distance)

    def see(self, waves: Waves) -> Tensor:
        """A random field on this rectangle."""
        return waves(self.axes)[0]

    def index(self, part: "Tile") -> tuple[slice, slice]:
        """Where a part of this rectangle lies in it."""
        row, column = self.rows.start, self.columns.start
        return (
            slice(part.rows.start - row, part.rows.stop - row),
            slice(part.columns.start - column, part.columns.stop - column),
        )

    def around(self, inside: Tensor) -> "Tile | None":
        """The smallest part that holds all points marked in bool ``(y, x)``; None if none is."""
        found = (inside.any(1).nonzero(), inside.any(0).nonzero())
        if len(found[0]) == 0:
            return None
        rows, columns = (slice(int(i[0]), int(i[-1]) + 1) for i in found)
        z, y, x = self.axes
        return Tile(
            slice(self.rows.start + rows.start, self.rows.start + rows.stop),
            slice(self.columns.start + columns.start, self.columns.start + columns.stop),
            (z, y[rows], x[columns]),
            (self.grid[0][rows, columns], self.grid[1][rows, columns], self.grid[2][rows, columns]),
            self.depth[rows, columns],
            self.canvas.window(rows, columns),
        )

    def box(self, z: tuple[float, float], y: tuple[float, float], x: float) -> "Tile | None":
        """The part within these limits [mm] of the head's frame, x on both sides."""
        inside = (self.grid[0] > z[0]) & (self.grid[0] < z[1])
        inside &= (self.grid[1] > y[0]) & (self.grid[1] < y[1])
        return self.around(inside.logical_and_(self.grid[2].abs() < x))


Painter = Callable[[Tile], None]


def vessels(generator: torch.Generator) -> Painter:
    """Spots of flow and of the fluid around vessels, and the large sinus at the back."""
    waves = Waves.draw(4.0, 9.0, generator, 96)
    flow, fluid, width = (uniform(*r, generator) for r in ((2.4, 3.4), (2.4, 3.6), (2.5, 5.5)))

    def paint(tile: Tile) -> None:
        z, y, x = tile.grid
        spots, within = tile.see(waves), tile.depth + 1
        tile.paint("blood", torch.minimum(spots - flow, within))
        tile.paint("csf", torch.minimum(-spots - fluid, within))
        sinus = width - x.abs() - 0.5 * tile.depth.clamp(min=0)
        at_the_back = torch.maximum(y - 45, z - 40)
        tile.paint("blood", torch.minimum(torch.minimum(sinus, within), at_the_back))

    return paint


def ventricles(generator: torch.Generator) -> Painter:
    """The four ventricles and the choroid plexus."""
    ripples = Waves.draw(4.0, 12.0, generator, 48)
    width, plexus = uniform(0.5, 1.5, generator), uniform(0.0, 3.0, generator)

    def paint(tile: Tile) -> None:
        if (part := tile.box((-35.0, 35.0), (-55.0, 70.0), 50.0)) is None:
            return
        z, y, x = part.grid
        side = (z, y, x.abs())
        choroid = ellipsoid(side, (8.0, 35.0, 24.0), (6.0, 6.0, 3.0))
        part.paint("gray", choroid.add_(part.see(ripples), alpha=1.5) - plexus)
        for points, radii in (_VENTRICLE, _TEMPORAL_HORN):
            part.paint("csf", tube(side, points, [width * radius for radius in radii]))
        part.paint("csf", ellipsoid(part.grid, (-3.0, 3.0, 0.0), (10.0, 13.0, 0.9 + width)))
        part.paint("csf", ellipsoid(part.grid, (0.0, 33.0, 0.0), (8.0, 4.0, 9.0 * width)))

    return paint


def hindbrain(generator: torch.Generator) -> Painter:
    """Brain stem and cerebellum with its folia, in their cisterns."""
    sway, reach = (Waves.draw(10.0, 40.0, generator, 48) for _ in range(2))
    wide = Waves.draw(15.0, 50.0, generator, 48)
    period, deep, gap = (uniform(*r, generator) for r in ((3.0, 5.0), (9.0, 16.0), (0.1, 0.5)))

    def paint(tile: Tile) -> None:
        if (part := tile.box((-90.0, 0.0), (-30.0, 95.0), 70.0)) is None:
            return
        _, y, x = part.grid
        part.paint("csf", ellipsoid(part.grid, (-35.0, 29.0, 0.0), (14.0, 4.0, 6.0)))
        corners = ((-70.0, 24.0, 0.0), (-32.0, 14.0, 0.0), (-14.0, 10.0, 0.0))
        stem = tube(part.grid, corners, (9, 14, 9))
        part.paint("white", stem)
        inside = ellipsoid(part.grid, (-40.0, 50.0, 0.0), (26.0, 32.0, 50.0))
        inside = torch.minimum(inside, part.depth)
        layer = torch.hypot(y - 20, 0.7 * x).add_(part.see(sway), alpha=1.5)
        fold = torch.remainder(layer, period).sub_(period / 2).abs_()
        folded = (deep - inside).add_(part.see(reach), alpha=3)
        part.paint("csf", torch.minimum(torch.minimum(gap - fold, folded), inside + 0.5))
        cortex = torch.minimum(0.32 * period - fold, folded)
        part.paint("gray", torch.minimum(cortex, inside))
        part.paint("white", inside)
        around = torch.maximum((stem + 1).add_(part.see(wide), alpha=1.5), inside + 1.2)
        cistern = ellipsoid(part.grid, (-24.0, -6.0, 0.0), (8.0, 9.0, 12.0))
        part.paint("csf", torch.maximum(around, cistern))

    return paint


def cerebrum(generator: torch.Generator, rotation: Tensor, thickness: float) -> Painter:
    """The hemispheres: falx, fluid, nuclei, folded cortex and white matter."""
    age, ribbon = uniform(0.0, 1.0, generator), uniform(2.5, 3.4, generator)
    opening_waves = Waves.draw(15.0, 60.0, generator, 48)
    to_fissure = _fissure(generator)
    to_sylvian = _sylvian(generator)
    to_sulci = _sulci(generator, rotation, thickness)

    def paint(tile: Tile) -> None:
        x = tile.grid[2]
        fissure, sylvian = to_fissure(tile), to_sylvian(tile)
        falx = torch.minimum(0.35 - x.abs(), 3 - fissure)
        tile.paint("connective", torch.minimum(falx, tile.depth))
        opening = tile.see(opening_waves)
        nearest = torch.minimum(tile.depth, fissure)
        sulcus, smear = to_sulci(tile, torch.minimum(nearest, sylvian + 4), fissure)
        csf = ((0.3 * opening).add_(0.1 + 0.55 * age).clamp_(min=0.05) - sulcus).div_(smear)
        csf = torch.maximum(csf, 0.4 + 0.8 * age - fissure)
        csf = torch.maximum(csf, (0.5 * opening).add_(0.5 + 0.8 * age).sub_(sylvian))
        tile.paint("csf", torch.minimum(csf, tile.depth))
        _paint_nuclei(tile)
        pial = torch.minimum(torch.minimum(nearest, sulcus), sylvian)
        gray = opening.mul_(0.35).add_(ribbon).sub_(pial).div_(smear)
        tile.paint("gray", torch.minimum(gray, tile.depth))
        tile.paint("white", tile.depth)

    return paint


def _fissure(generator: torch.Generator) -> Callable[[Tile], Tensor]:
    """Distance to the gap between the hemispheres, which ends at the corpus callosum."""
    waves = Waves.draw(12.0, 40.0, generator, 24)

    def distance(tile: Tile) -> Tensor:
        z, y, x = tile.grid
        bridge = ellipsoid((z, y), (6.0, 2.0), (30.0, 41.0))
        return torch.hypot(torch.add(x, tile.see(waves), alpha=0.8), bridge.clamp_(min=0))

    return distance


def _sylvian(generator: torch.Generator) -> Callable[[Tile], Tensor]:
    """Distance to the Sylvian fissure, at most 60 mm."""
    along, across = (Waves.draw(15.0, 40.0, generator, 24) for _ in range(2))

    def distance(tile: Tile) -> Tensor:
        z, y, x = tile.grid
        above = (z.abs() - 16).clamp_(min=0)
        if above.min() > 60:
            return above.fill_(60)
        y = torch.add(y, tile.see(along), alpha=3)
        x = x.abs().add_(tile.see(across), alpha=2.5)
        return torch.hypot(tube((y, x), _SYLVIAN, [0.0] * len(_SYLVIAN)), above)

    return distance


def _sulci(
    generator: torch.Generator, rotation: Tensor, thickness: float
) -> Callable[[Tile, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Distance to winding sheets that stand on the surface and end at a varying depth.

    With it comes how many times softer than a voxel a slice's thickness makes their borders.
    """
    sheets = Sheets.draw(uniform(8.5, 11.5, generator), generator)
    deepest, waves = uniform(18.0, 26.0, generator), Waves.draw(20.0, 80.0, generator, 48)

    def distance(tile: Tile, surface: Tensor, fissure: Tensor) -> tuple[Tensor, Tensor]:
        z, y, x = tile.grid
        sheet, normal = (part.select(-3, 0) for part in sheets(tile.axes, rotation))
        radius = (z * z).addcmul_(y, y).addcmul_(x, x).sqrt_().clamp_(min=1)
        radial = (normal[0] * z).addcmul_(normal[1], y).addcmul_(normal[2], x).div_(radius)
        standing = 1 - torch.where(fissure < tile.depth, normal[2], radial).square_()
        reach = tile.see(waves).mul_(5).add_(deepest)
        core = ellipsoid(tile.grid, (4.0, 2.0, 0.0), (24.0, 40.0, 33.0))  # nuclei, white matter
        beyond = torch.maximum(torch.addcmul(surface, reach, standing, value=-1), core.add_(4))
        through = torch.tensordot(rotation[:, 0], normal, 1).abs_()
        smear = through.mul_(thickness / tile.canvas.softness).add_(1.3)
        return torch.hypot(sheet, beyond.clamp_(min=0)), smear

    return distance


def _paint_nuclei(tile: Tile) -> None:
    """Thalamus, caudate, and lentiform nucleus; their borders are blurred."""
    if (part := tile.box((-15.0, 25.0), (-35.0, 35.0), 40.0)) is None:
        return
    z, y, x = part.grid
    z, y, x = side = (z, y, x.abs())
    turned = (z, 0.95 * y + 0.31 * (x - 24), 0.95 * (x - 24) - 0.31 * y)
    for nucleus in (
        ellipsoid(side, (5.0, 10.0, 10.0), (10.0, 14.0, 8.5)),
        ellipsoid(side, (8.0, -19.0, 15.0), (13.0, 9.0, 5.0)),
        ellipsoid(turned, (3.0, 0.0, 0.0), (12.0, 18.0, 6.5)),
    ):
        part.paint("deep gray", nucleus.div_(3))
