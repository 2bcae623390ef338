"""The two ventricles in a short-axis slice, from end diastole through one beat and back.

Lengths are in mm, angles in radians. The frame's origin is the middle of the left ventricle and
its first axis, u, points to the right ventricle.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from physics.shapes import ellipsoid
from physics.texture import uniform

# The outline is followed at this many directions, and out to this distance [mm].
_DIRECTIONS, _FARTHEST = 180, 110


@dataclass(frozen=True)
class Contours:
    """The ventricles at one moment.

    Attributes:
        cavity: mean (root mean square) radius of the left cavity, papillary muscles included.
        epicardium: that of the left ventricle's outer surface.
        papillaries: middle (u, v) and radius of each papillary muscle, which touches the wall.
        twist: how far the inner wall has turned since end diastole.
        right: distance of the right ventricle's middle, and its semi-axes along u and v; the
            left ventricle hides a part of that ellipse and leaves a crescent.
        right_wall: thickness of the right ventricle's free wall.
    """

    cavity: float
    epicardium: float
    papillaries: tuple[tuple[float, float, float], ...]
    twist: float
    right: tuple[float, float, float]
    right_wall: float


@dataclass(frozen=True)
class Ventricles:
    """A healthy heart: its shape at end diastole and how far it contracts.

    The left ventricle is as long as it is at end diastole times :meth:`length`; its volume is
    proportional to blood area times length. Its muscle is incompressible: area times length is
    constant, also that of a papillary muscle.

    Attributes:
        cavity: radius of the left cavity at end diastole, papillary muscles included.
        wall: thickness of its wall at end diastole.
        papillaries: angle and radius at end diastole of the papillary muscles; they lie apart.
        ejection_fraction: the share of its blood that the left ventricle ejects.
        shortening: the share of its length that it loses meanwhile.
        systole: the share of the cycle at which it is smallest.
        twist: of the inner wall at that time.
        right: distance and semi-axes as in :class:`Contours`, relative to the left ventricle's
            outer radius at end diastole.
        inner, outer: amplitude and phase of the harmonics 2, 3, ... of both surfaces of the left
            ventricle, float32 ``(2, n)``.
    """

    cavity: float
    wall: float
    papillaries: tuple[tuple[float, float], ...]
    ejection_fraction: float
    shortening: float
    systole: float
    twist: float
    right: tuple[float, float, float]
    inner: Tensor
    outer: Tensor

    @classmethod
    def draw(cls, heart_rate: float, generator: torch.Generator) -> "Ventricles":
        """A random adult heart at this rate [beats per minute]."""
        cavity = uniform(22.0, 27.0, generator)
        papillaries = tuple(
            (math.radians(angle + uniform(-6, 6, generator)), cavity * uniform(*size, generator))
            for angle, size in ((120, (0.13, 0.18)), (242, (0.13, 0.18)), (181, (0.05, 0.09)))
        )
        return cls(
            cavity=cavity,
            wall=uniform(7.5, 10.0, generator),
            papillaries=papillaries,
            ejection_fraction=uniform(0.52, 0.68, generator),
            shortening=uniform(0.11, 0.16, generator),
            # Systole lasts nearly as long at any rate, so it is a larger share of a short cycle.
            systole=0.35 + 0.05 * (heart_rate - 50) / 40,
            twist=math.radians(uniform(3.0, 9.0, generator)),
            right=(
                uniform(0.72, 0.85, generator),
                uniform(0.85, 1.0, generator),
                uniform(1.15, 1.35, generator),
            ),
            inner=_draw_harmonics((0.02, 0.02, *[0.01] * 9), generator),
            outer=_draw_harmonics((0.02, 0.01, 0.008), generator),
        )

    def filling(self, phase: float) -> float:
        """The share of the stroke volume in the left ventricle, 1 at end diastole, 0 at systole.

        Isovolumic contraction, ejection, isovolumic relaxation, rapid filling, diastasis and
        atrial contraction follow each other smoothly; ``phase`` 1 is ``phase`` 0 again.
        """
        phase %= 1
        knots = (
            *((0.0, 1.0), (0.05, 1.0), (self.systole, 0.0), (self.systole + 0.07, 0.0)),
            *((self.systole + 0.27, 0.72), (0.86, 0.78), (1.0, 1.0)),
        )
        for (start, first), (end, last) in pairwise(knots):
            if phase <= end:
                share = (1 - math.cos(math.pi * (phase - start) / (end - start))) / 2
                return first + (last - first) * share
        return 1.0

    def length(self, phase: float) -> float:
        """The left ventricle's length relative to that at end diastole."""
        return 1 - self.shortening * (1 - self.filling(phase))

    def blood_area(self, phase: float) -> float:
        """Area [mm^2] of the left cavity without its papillary muscles."""
        volume = 1 - self.ejection_fraction * (1 - self.filling(phase))
        start = math.pi * self.cavity**2 - self._papillary_area()
        return start * volume / self.length(phase)

    def at(self, phase: float) -> Contours:
        """The contours at a share of the cycle, 0 and 1 being end diastole."""
        emptied, length = 1 - self.filling(phase), self.length(phase)
        cavity = math.sqrt((self.blood_area(phase) + self._papillary_area() / length) / math.pi)
        start = self.cavity + self.wall
        epicardium = math.sqrt(cavity**2 + (start**2 - self.cavity**2) / length)
        twist = self.twist * emptied
        papillaries = []
        for angle, radius in self.papillaries:
            radius /= math.sqrt(length)
            beside = torch.linspace(angle - 0.4, angle + 0.4, 9)
            distance = cavity * _ripple(self.inner, beside).min().item() - radius
            u, v = distance * math.cos(angle + twist), distance * math.sin(angle + twist)
            papillaries.append((u, v, radius))
        distance, along, across = self.right
        along, across = along * (1 - 0.3 * emptied), across * (1 - 0.15 * emptied)
        return Contours(
            cavity=cavity,
            epicardium=epicardium,
            papillaries=tuple(papillaries),
            twist=twist,
            right=(distance * epicardium, along * start, across * start),
            right_wall=2.5 + 1.2 * emptied,
        )

    def left_depth(self, now: Contours, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Depth [mm, positive inside] in the left cavity and below the outer surface."""
        radius, angle = torch.hypot(u, v), torch.atan2(v, u)
        inner = now.cavity * _ripple(self.inner, angle - now.twist) - radius
        return inner, now.epicardium * _ripple(self.outer, angle) - radius

    def right_depth(self, now: Contours, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Depth [mm, positive inside] in the right cavity and below the outer surface.

        Where it reaches into the left ventricle, that one hides it.
        """
        distance, along, across = now.right
        bent = u + 0.35 * v.square() / across  # around the left ventricle
        wall = now.right_wall
        inner = ellipsoid((bent, v), (distance, 0.0), (along, across))
        return inner, ellipsoid((bent, v), (distance, 0.0), (along + wall, across + wall))

    @property
    def middle(self) -> float:
        """How far along u the heart's middle lies from that of the left ventricle, at all times."""
        return 0.3 * (self.cavity + self.wall)

    def outline(self, now: Contours) -> Tensor:
        """Distance [mm] of the heart's outer surface from its middle, at evenly spaced angles.

        Returns:
            float32 ``(n + 1,)`` for the angles 0 to 2 pi, both included.
        """
        angle = torch.linspace(0, 2 * math.pi, _DIRECTIONS + 1)[:, None]
        radius = torch.arange(0.0, _FARTHEST)
        u, v = self.middle + radius * angle.cos(), radius * angle.sin()
        depth = torch.maximum(self.left_depth(now, u, v)[1], self.right_depth(now, u, v)[1])
        last = ((depth > 0) * torch.arange(_FARTHEST)).argmax(1, keepdim=True)
        inside, outside = depth.gather(1, last), depth.gather(1, last + 1)
        surface = (last + inside / (inside - outside))[:, 0]
        # Fat fills the grooves where the ventricles meet.
        reach = _DIRECTIONS // 12
        around = torch.cat((surface[-1 - reach : -1], surface, surface[1 : reach + 1]))
        return torch.maximum(surface, around.unfold(0, 2 * reach + 1, 1).mean(1))

    def _papillary_area(self) -> float:
        return math.pi * sum(radius**2 for _, radius in self.papillaries)


def _ripple(harmonics: Tensor, angle: Tensor) -> Tensor:
    """Relative radius of a contour at these angles; it encloses the area of the unit circle."""
    amplitudes, phases = harmonics
    radius = torch.ones(())
    for order, (amplitude, phase) in enumerate(zip(amplitudes, phases, strict=True), start=2):
        radius = radius + amplitude * torch.cos(order * angle + phase)
    return radius / (1 + amplitudes.square().sum() / 2).sqrt()


def _draw_harmonics(spread: tuple[float, ...], generator: torch.Generator) -> Tensor:
    amplitudes = torch.tensor(spread) * (0.5 + torch.rand(len(spread), generator=generator))
    return torch.stack((amplitudes, 2 * math.pi * torch.rand(len(spread), generator=generator)))
