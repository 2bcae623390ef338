"""Where a knee lies in the scanner, and the scanner's grid as the knee sees it.

Scanner coordinates are z (to the patient's left), y (to the feet), x (to the back), in mm. The
knee's own frame has z to the lateral side, y to the feet, x to the back, and its origin in the
middle of the tibial plateau.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from physics.shapes import Grid, Point, tube
from physics.texture import Axes, Waves, uniform

Window = tuple[slice, slice, slice]
_OUTSIDE = -99.0  # distance [mm] where nothing has been drawn
_MARGIN = 5.0  # of windows [mm]: for the warping of the grid and the softness of borders


@dataclass(frozen=True)
class KneePlacement:
    """Where a knee lies: the scanner coordinates of its origin, its turn, size and side.

    Args:
        centre: z, y, x [mm] of the knee's origin.
        turn: rotation about z, y and x [radians].
        scale: size relative to the average, along z, y, x.
        flexion: of the joint [radians], small: it bends the thigh back against the leg.
        fat: thickness of the subcutaneous fat [mm].
        left: whether it is a left knee: lateral is then +z.
    """

    centre: Point = (0.0, 0.0, 0.0)
    turn: Point = (0.0, 0.0, 0.0)
    scale: Point = (1.0, 1.0, 1.0)
    flexion: float = 0.0
    fat: float = 7.0
    left: bool = True


class KneeGrid:
    """A grid in the frame of one knee, slightly warped, and the knee's source of randomness.

    Args:
        axes: coordinates z, y, x [mm], ascending, each of shape (n,).
        placement: where the knee lies.
        generator: source of the randomness.

    Attributes:
        grid: z, y, x [mm] of the knee's frame, float32 ``(z, y, x)`` each.
        height: y [mm] on the middle line of the leg, ``(z, y, 1)``, for what changes little
            along the leg.
    """

    def __init__(self, axes: Axes, placement: KneePlacement, generator: torch.Generator) -> None:
        self.axes, self.placement, self.generator = axes, placement, generator
        matrix = _frame(placement)
        self._back = torch.linalg.inv(matrix).tolist()
        offsets = [axis - at for axis, at in zip(axes, placement.centre, strict=True)]
        parts = []
        for factors in matrix.tolist():
            z, y, x = (offset * factor for offset, factor in zip(offsets, factors, strict=True))
            plane = z[:, None, None] + y[:, None]
            parts.append((plane, self.waves(50.0, 160.0, 16).add_(plane).add_(x)))
        (_, z), (self.height, y), (_, x) = parts
        # Bent smoothly from the middle of the condyles upwards.
        x -= softplus((-24 - self.height) / 8).mul_(8 * placement.flexion)
        self.grid: Grid = z, y, x

    def uniform(self, low: float, high: float) -> float:
        """A number drawn uniformly."""
        return uniform(low, high, self.generator)

    def waves(
        self, shortest: float, longest: float, count: int = 24, window: Window | None = None
    ) -> Tensor:
        """A random field with these wavelengths [mm], on all of the grid or a part of it."""
        waves = Waves.draw(shortest, longest, self.generator, count)
        z, y, x = self.axes
        if window is not None:
            z, y, x = z[window[0]], y[window[1]], x[window[2]]
        return waves((z, y, x))

    def field(self, window: Window | None = None, distance: Tensor | None = None) -> Tensor:
        """A body's distance, known in a window, on all of the grid; by default that of nothing."""
        field = torch.full(self.grid[0].shape, _OUTSIDE)
        if window is not None and distance is not None:
            field[window] = distance
        return field

    def window(self, lower: Sequence[float], upper: Sequence[float]) -> Window:
        """The part of the grid that holds a box of the knee's frame [mm]."""
        middle = [(a + b) / 2 for a, b in zip(lower, upper, strict=True)]
        half = [(b - a) / 2 + _MARGIN for a, b in zip(lower, upper, strict=True)]
        bend = self.placement.flexion * max(0.0, -14 - lower[1])
        middle[2] += bend / 2
        half[2] += abs(bend) / 2
        slices = []
        for axis, origin, row in zip(self.axes, self.placement.centre, self._back, strict=True):
            centre = origin + sum(r * m for r, m in zip(row, middle, strict=True))
            reach = sum(abs(r) * h for r, h in zip(row, half, strict=True))
            ends = torch.searchsorted(axis, torch.tensor([centre - reach, centre + reach]))
            slices.append(slice(*ends.tolist()))
        return slices[0], slices[1], slices[2]

    def part(self, window: Window) -> Grid:
        """The coordinates in a part of the grid."""
        z, y, x = self.grid
        return z[window], y[window], x[window]

    def tube(
        self,
        points: Sequence[Sequence[float]],
        radii: Sequence[float],
        stretch: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> tuple[Window, Tensor]:
        """The window of a tube, and the distance into it there [mm].

        Args:
            points: corners z, y, x [mm].
            radii: at the corners [mm].
            stretch: how much wider it is along z, y, x; a flat band has one large number.
        """
        reach = [max(radii) * s for s in stretch]
        columns = list(zip(*points, strict=True))
        window = self.window(
            [min(c) - r for c, r in zip(columns, reach, strict=True)],
            [max(c) + r for c, r in zip(columns, reach, strict=True)],
        )
        part = self.part(window)
        if not part[0].numel():
            return window, part[0]
        if max(stretch) == 1:
            return window, tube(part, points, radii)
        narrow = [[c / s for c, s in zip(point, stretch, strict=True)] for point in points]
        scaled = [c if s == 1 else c / s for c, s in zip(part, stretch, strict=True)]
        return window, tube(scaled, narrow, radii)


def _frame(placement: KneePlacement) -> Tensor:
    """What takes offsets from the knee's origin along the scanner's axes to the knee's frame."""
    matrix = torch.eye(3)
    for axis, angle in enumerate(placement.turn):
        first, second = (other for other in range(3) if other != axis)
        rotation = torch.eye(3)
        rotation[first, first] = rotation[second, second] = math.cos(angle)
        rotation[first, second], rotation[second, first] = math.sin(angle), -math.sin(angle)
        matrix = rotation @ matrix
    side = 1.0 if placement.left else -1.0
    scale = torch.tensor([side * placement.scale[0], *placement.scale[1:]])
    return matrix / scale[:, None]
