"""The part of a chest that moves with the heart: what is where at every moment of a beat."""

import math

import torch
from torch import Tensor

from physics.heart_anatomy import HEART_INDEX, HEART_TISSUES, RIB_CAGE, ChestPlacement
from physics.heart_cycle import Contours, Ventricles
from physics.shapes import Canvas, ellipsoid
from physics.texture import Axes, uniform

# The tissue next to the heart follows its surface, less and less up to this distance [mm].
_REACH = 22.0
# The share of the surface's way that the tissue next to it follows; fat fills the rest.
_FOLLOWING = 0.5


class BeatingHeart:
    """Both ventricles and the fat around them, in the window of a grid that they move.

    Args:
        ventricles: the heart.
        placement: where it lies.
        axes: coordinates z (one), y, x [mm] in the scanner; y and x evenly spaced alike.
        step: every so many points, counted from the grid's middle (index ``n // 2``), is one of a
            coarser grid; the window starts with such a point.
        generator: draws the thickness of the fat.

    Attributes:
        window: rows and columns of the grid outside which nothing moves.
    """

    def __init__(
        self,
        ventricles: Ventricles,
        placement: ChestPlacement,
        axes: Axes,
        step: int,
        generator: torch.Generator,
    ) -> None:
        self._ventricles, self._placement = ventricles, placement
        self._spacing = (axes[2][1] - axes[2][0]).item()
        outline = ventricles.outline(ventricles.at(0))
        self._fat = _fat(len(outline), generator)
        self._start = outline + self._fat  # of the fat's surface
        y, x = axes[1], axes[2]
        _, _, radius, share = self._polar(y, x)
        moving = radius < _at(self._start, share) + _REACH
        self.window = _window(moving.any(1), step), _window(moving.any(0), step)
        self._y, self._x = y[self.window[0]], x[self.window[1]]
        self._u, self._v, self._radius, self._share = self._polar(self._y, self._x)
        depth = ellipsoid(placement.body_frame(self._y[:, None], self._x), *RIB_CAGE)
        self._free = ((depth - 3) / 12).clamp_(0, 1)  # the rib cage does not follow
        self._middle = placement.from_heart_frame(ventricles.middle, 0.0)
        # Grid_sample's coordinates are -1 at the first and 1 at the last point of the whole grid.
        self._ends = (x[0], x[-1]), (y[0], y[-1])

    def origins(self, now: Contours) -> Tensor:
        """Where the tissue was at end diastole that lies at the window's points now.

        Returns:
            float32 ``(1, y, x, 2)``, a grid for ``grid_sample`` with aligned corners of an image
            on the whole grid.
        """
        surface = self._surface(now)
        start = _at(self._start, self._share)
        fading = (1 - (self._radius - surface) / _REACH).clamp_(0, 1).square_()
        way = (start - surface) * torch.minimum(fading, self._free)
        outside = 1 + way / self._radius.clamp(min=1)
        stretch = torch.where(self._radius < surface, start / surface, outside)
        y = self._middle[0] + (self._y[:, None] - self._middle[0]) * stretch
        x = self._middle[1] + (self._x - self._middle[1]) * stretch
        (left, right), (top, bottom) = self._ends
        across, down = (x - left) / (right - left), (y - top) / (bottom - top)
        return torch.stack((2 * across - 1, 2 * down - 1), -1)[None]

    def fractions(self, now: Contours, trabeculae: Tensor) -> Tensor:
        """The share of every tissue of the heart; that of tissue 0 is what the chest has left.

        Args:
            now: the contours at this moment.
            trabeculae: a random field on the window; where it is high, muscle stands in the right
                ventricle.

        Returns:
            float32 ``(tissues, y, x)`` over ``HEART_TISSUES``, on the window.
        """
        canvas = Canvas(len(HEART_TISSUES), self._radius.shape, self._spacing)
        inner, outer = self._ventricles.left_depth(now, self._u, self._v)
        for u, v, radius in now.papillaries:
            distance = radius - torch.hypot(self._u - u, self._v - v)
            canvas.paint(HEART_INDEX["myocardium"], distance)
        canvas.paint(HEART_INDEX["left ventricle"], inner)
        canvas.paint(HEART_INDEX["myocardium"], outer)
        inner, outer = self._ventricles.right_depth(now, self._u, self._v)
        beams = 3 * (trabeculae - 0.9 - 0.12 * inner)
        canvas.paint(HEART_INDEX["myocardium"], torch.minimum(beams, inner))
        canvas.paint(HEART_INDEX["right ventricle"], inner)
        canvas.paint(HEART_INDEX["myocardium"], outer)
        fat = self._surface(now) - self._radius
        canvas.paint(HEART_INDEX["fat"], fat)
        canvas.paint(HEART_INDEX["connective"], fat + 1.2)
        return canvas.fractions

    def _surface(self, now: Contours) -> Tensor:
        """Distance of the fat's surface from the heart's middle, in the direction of each point."""
        tight = self._ventricles.outline(now) + self._fat
        return _at(_FOLLOWING * tight + (1 - _FOLLOWING) * self._start, self._share)

    def _polar(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heart coordinates, then distance from its middle and direction as a share of a turn."""
        u, v = self._placement.heart_frame(y[:, None], x)
        aside = u - self._ventricles.middle
        return u, v, torch.hypot(aside, v), torch.atan2(v, aside) / (2 * math.pi) % 1


def _fat(count: int, generator: torch.Generator) -> Tensor:
    """Thickness [mm] of the fat on the heart at evenly spaced angles, most on the right side."""
    little, much = uniform(0.5, 1.5, generator), uniform(2.0, 5.0, generator)
    angle = torch.linspace(0, 2 * math.pi, count)
    vary = torch.ones(())
    for order in range(2, 6):
        phase = uniform(0, 2 * math.pi, generator)
        vary = vary + uniform(0.1, 0.3, generator) * torch.cos(order * angle + phase)
    return little + (much - little) * (0.5 + 0.5 * angle.cos()) * vary.clamp(min=0)


def _at(table: Tensor, share: Tensor) -> Tensor:
    """A function of the angle, given at even steps of a turn, at these shares of a turn."""
    place = share * (len(table) - 1)
    index = place.long().clamp_(max=len(table) - 2)
    return torch.lerp(table[index], table[index + 1], place - index)


def _window(inside: Tensor, step: int) -> slice:
    """The smallest stretch that holds all that is inside and starts on the coarser grid."""
    indices = inside.nonzero()
    first, last = int(indices[0]), int(indices[-1])
    aligned = first - (first - len(inside) // 2) % step
    return slice(aligned if aligned >= 0 else aligned + step, last + 1)
