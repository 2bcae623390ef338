"""A random head, as tissue fractions at physical coordinates.

Bodies are analytic shapes and the folding comes from random fields, so that any plane or volume
of the same head is only other coordinates. Coordinates are z (up), y (to the back), x, in mm; the
head's own frame has its origin in the middle of the brain at the height of the third ventricle.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.sequences import BRAIN_TISSUES
from physics.shapes import Canvas, Grid, Point, ellipsoid, tube
from physics.texture import Axes, random_sheets, random_waves, uniform

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

    Args:
        centre: z, y, x [mm] of the head's origin.
        angle: in-plane rotation [radians].
        tilt: rotation about x, nodding [radians].
        scale: size relative to the average, along z, y, x.
    """

    centre: Point = (0.0, 0.0, 0.0)
    angle: float = 0.0
    tilt: float = 0.0
    scale: Point = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _Head:
    """What the painting of every part needs: the grid in the head's frame and the randomness."""

    canvas: Canvas
    axes: Axes
    placement: Placement
    grid: Grid
    depth: Tensor  # below the surface of the brain [mm], negative outside
    generator: torch.Generator

    def paint(self, tissue: str, distance: Tensor) -> None:
        self.canvas.paint(TISSUE_INDEX[tissue], distance)

    def waves(self, shortest: float, longest: float, count: int = 48) -> Tensor:
        return random_waves(self.axes, shortest, longest, self.generator, count)

    def uniform(self, low: float, high: float) -> float:
        return uniform(low, high, self.generator)


def brain_fractions(
    axes: Axes, generator: torch.Generator, placement: Placement | None = None
) -> Tensor:
    """The share of every tissue at every point of a random head.

    Args:
        axes: coordinates z, y, x [mm], each of shape (n,); y and x evenly spaced.
        generator: source of the randomness: the same state gives the same head.
        placement: where the head lies; by default upright at the origin.

    Returns:
        float32 ``(tissues, z, y, x)`` that sums to 1 over the tissues of ``BRAIN_TISSUES``.

    Raises:
        ValueError: if y or x has fewer than 2 points.
    """
    if min(len(axes[1]), len(axes[2])) < 2:
        raise ValueError(f"y and x need at least 2 points, got {[len(axis) for axis in axes]}")
    placement = placement or Placement()
    grid = _head_frame(axes, placement, generator)
    spacing = (axes[2][1] - axes[2][0]).abs().item()
    canvas = Canvas(len(BRAIN_TISSUES), grid[0].shape, spacing)
    depth = _depth_in_brain(grid, axes, generator)
    head = _Head(canvas, axes, placement, grid, depth, generator)
    _paint_vessels(head)
    _paint_ventricles(head)
    _paint_hindbrain(head)
    _paint_cerebrum(head)
    _paint_skull_and_scalp(head)
    return canvas.fractions


def brain_labels(fractions: Tensor) -> Tensor:
    """The prevailing tissue: fractions ``(tissues, *space)`` to labels uint8 ``(*space)``."""
    return fractions.argmax(0).to(torch.uint8)


def _turn(placement: Placement, z: Tensor, y: Tensor, x: Tensor) -> Grid:
    """Components along the scanner's axes to components along the head's."""
    cosine, sine = math.cos(placement.angle), math.sin(placement.angle)
    y, x = cosine * y - sine * x, sine * y + cosine * x
    cosine, sine = math.cos(placement.tilt), math.sin(placement.tilt)
    return cosine * z - sine * y, sine * z + cosine * y, x


def _head_frame(axes: Axes, placement: Placement, generator: torch.Generator) -> Grid:
    """The grid in the head's own coordinates, slightly warped so that no side is a mirror."""
    z, y, x = (
        axis.reshape([-1 if i == j else 1 for j in range(3)]) - middle
        for i, (axis, middle) in enumerate(zip(axes, placement.centre, strict=True))
    )
    z, y, x = (
        coordinate / scale + amplitude * random_waves(axes, 45.0, 160.0, generator, 24)
        for coordinate, scale, amplitude in zip(
            _turn(placement, z, y, x), placement.scale, (2.0, 2.0, 1.5), strict=True
        )
    )
    return z, y, x


def _depth_in_brain(grid: Grid, axes: Axes, generator: torch.Generator) -> Tensor:
    z, y, x = grid
    # Heads are wider at the back, and below the middle a head is more a cylinder than a ball.
    egg = x / (1 + uniform(0.0, 0.0012, generator) * y.clamp(-90, 90))
    height = torch.where(z > 0, z, z * 0.6)
    depth = ellipsoid((height, y, egg), (0.0, 0.0, 0.0), (74.0, 86.0, 68.0))
    return depth.add_(random_waves(axes, 40.0, 120.0, generator, 24), alpha=0.6)


def _paint_vessels(head: _Head) -> None:
    """Spots of flow and of the fluid around vessels, and the large sinus at the back."""
    z, y, x = head.grid
    spots = head.waves(4.0, 9.0, 96)
    within = head.depth + 1
    head.paint("blood", torch.minimum(spots - head.uniform(2.4, 3.4), within))
    head.paint("csf", torch.minimum(-spots - head.uniform(2.4, 3.6), within))
    sinus = head.uniform(2.5, 5.5) - x.abs() - 0.5 * head.depth.clamp(min=0)
    at_the_back = torch.maximum(y - 45, z - 40)
    head.paint("blood", torch.minimum(torch.minimum(sinus, within), at_the_back))


def _paint_ventricles(head: _Head) -> None:
    z, y, x = head.grid
    width = head.uniform(0.5, 1.5)
    side = (z, y, x.abs())
    choroid = ellipsoid(side, (8.0, 35.0, 24.0), (6.0, 6.0, 3.0))
    head.paint("gray", choroid.add_(head.waves(4.0, 12.0), alpha=1.5) - head.uniform(0.0, 3.0))
    for points, radii in (_VENTRICLE, _TEMPORAL_HORN):
        head.paint("csf", tube(side, points, [width * radius for radius in radii]))
    head.paint("csf", ellipsoid(head.grid, (-3.0, 3.0, 0.0), (10.0, 13.0, 0.9 + width)))
    head.paint("csf", ellipsoid(head.grid, (0.0, 33.0, 0.0), (8.0, 4.0, 9.0 * width)))


def _paint_hindbrain(head: _Head) -> None:
    """Brain stem and cerebellum with its folia, in their cisterns."""
    _, y, x = head.grid
    head.paint("csf", ellipsoid(head.grid, (-35.0, 29.0, 0.0), (14.0, 4.0, 6.0)))
    stem = tube(head.grid, ((-70.0, 24.0, 0.0), (-32.0, 14.0, 0.0), (-14.0, 10.0, 0.0)), (9, 14, 9))
    head.paint("white", stem)
    inside = ellipsoid(head.grid, (-40.0, 50.0, 0.0), (26.0, 32.0, 50.0))
    inside = torch.minimum(inside, head.depth)
    layer = torch.hypot(y - 20, 0.7 * x) + 1.5 * head.waves(10.0, 40.0)
    period = head.uniform(3.0, 5.0)
    fold = (torch.remainder(layer, period) - period / 2).abs()
    folded = head.uniform(9.0, 16.0) - inside + 3 * head.waves(10.0, 40.0)
    gap = torch.minimum(head.uniform(0.1, 0.5) - fold, folded)
    head.paint("csf", torch.minimum(gap, inside + 0.5))
    head.paint("gray", torch.minimum(torch.minimum(0.32 * period - fold, folded), inside))
    head.paint("white", inside)
    around = torch.maximum(stem + 1 + 1.5 * head.waves(15.0, 50.0), inside + 1.2)
    cistern = ellipsoid(head.grid, (-24.0, -6.0, 0.0), (8.0, 9.0, 12.0))
    head.paint("csf", torch.maximum(around, cistern))


def _paint_cerebrum(head: _Head) -> None:
    z, y, x = head.grid
    fissure = _distance_to_fissure(head)
    falx = torch.minimum(0.35 - x.abs(), 3 - fissure)
    head.paint("connective", torch.minimum(falx, head.depth))
    age = head.uniform(0.0, 1.0)
    opening = head.waves(15.0, 60.0)
    sylvian = _distance_to_sylvian(head)
    surface = torch.minimum(torch.minimum(head.depth, fissure), sylvian + 4)
    sulcus, smear = _distance_to_sulci(head, surface, fissure)
    csf = ((0.1 + 0.55 * age + 0.3 * opening).clamp_(min=0.05) - sulcus) / smear
    csf = torch.maximum(csf, 0.4 + 0.8 * age - fissure)
    csf = torch.maximum(csf, 0.5 + 0.8 * age + 0.5 * opening - sylvian)
    head.paint("csf", torch.minimum(csf, head.depth))
    for nucleus in _nuclei((z, y, x.abs())):
        head.paint("deep gray", nucleus / 3)  # their borders are blurred
    thickness = head.uniform(2.5, 3.4) + 0.35 * opening
    pial = torch.minimum(torch.minimum(head.depth, sulcus), torch.minimum(fissure, sylvian))
    head.paint("gray", torch.minimum((thickness - pial) / smear, head.depth))
    head.paint("white", head.depth)


def _distance_to_fissure(head: _Head) -> Tensor:
    """Distance to the gap between the hemispheres, which ends at the corpus callosum."""
    z, y, x = head.grid
    bridge = ellipsoid((z, y), (6.0, 2.0), (30.0, 41.0))
    return torch.hypot(x + 0.8 * head.waves(12.0, 40.0, 24), bridge.clamp_(min=0))


def _distance_to_sylvian(head: _Head) -> Tensor:
    z, y, x = head.grid
    y, x = y + 3 * head.waves(15.0, 40.0, 24), x.abs() + 2.5 * head.waves(15.0, 40.0, 24)
    line = tube((y, x), _SYLVIAN, [0.0] * len(_SYLVIAN))
    return torch.hypot(line, (z.abs() - 16).clamp_(min=0))


def _distance_to_sulci(head: _Head, surface: Tensor, fissure: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to winding sheets that stand on the surface and end at a varying depth.

    With it comes how many times softer than a voxel a slice's thickness makes their borders.
    """
    distance, *normal = random_sheets(head.axes, head.uniform(8.5, 11.5), head.generator)
    across = _turn(head.placement, *normal)
    length = sum((c.square() for c in head.grid), start=torch.zeros(())).sqrt_().clamp_(min=1.0)
    radial = sum((n * c for n, c in zip(across, head.grid, strict=True)), start=torch.zeros(()))
    lying = torch.where(fissure < head.depth, across[2], radial / length).square()
    reach = head.uniform(18.0, 26.0) + 5 * head.waves(20.0, 80.0)
    core = ellipsoid(head.grid, (4.0, 2.0, 0.0), (24.0, 40.0, 33.0))  # of nuclei and white matter
    beyond = torch.maximum(surface - reach * (1 - lying), core + 4)
    distance = torch.hypot(distance, beyond.clamp_(min=0))
    slab = head.uniform(0.5, 4.0) / head.canvas.softness
    return distance, 1.3 + slab * normal[0].abs()


def _nuclei(side: Grid) -> list[Tensor]:
    """Thalamus, caudate, and lentiform nucleus of the side (z, y, |x|)."""
    z, y, x = side
    turned = (z, 0.95 * y + 0.31 * (x - 24), 0.95 * (x - 24) - 0.31 * y)
    return [
        ellipsoid(side, (5.0, 10.0, 10.0), (10.0, 14.0, 8.5)),
        ellipsoid(side, (8.0, -19.0, 15.0), (13.0, 9.0, 5.0)),
        ellipsoid(turned, (3.0, 0.0, 0.0), (12.0, 18.0, 6.5)),
    ]


def _paint_skull_and_scalp(head: _Head) -> None:
    """The layers around the brain, from inside out."""
    z, y, x = head.grid
    vary, fine = head.waves(40.0, 150.0), head.waves(8.0, 30.0)
    temple = torch.exp(-((y + 25) / 32).square() - (68 - x.abs()).clamp_(min=0) / 12)
    temple = temple * torch.sigmoid((20 - z) / 6)
    layers = (
        ("csf", head.uniform(0.3, 2.5) * (1 + 0.4 * vary) + 0.2 * fine),
        ("connective", 0.5 + 0.1 * fine),
        ("bone", head.uniform(1.0, 2.0) + 0.2 * fine),
        ("marrow", head.uniform(0.5, 4.0) * (1 - 0.4 * vary) - 0.2 * fine - 2 * temple),
        ("bone", head.uniform(1.0, 2.2) - 0.2 * fine),
        ("muscle", head.uniform(4.0, 11.0) * temple),
        ("connective", 0.5 + 0.1 * fine),
        ("fat", head.uniform(1.5, 6.0) * (1 + 0.25 * vary)),
        ("connective", head.uniform(1.0, 2.2) + 0.1 * fine),
    )
    outer = -head.depth
    for name, thickness in layers:
        outer = outer - thickness.clamp(min=0.0)
        head.paint(name, -outer)
