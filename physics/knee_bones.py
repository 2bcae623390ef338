"""Femur, tibia, fibula and patella with their cartilage, as distances in the knee's own frame.

The frame is that of :mod:`physics.knee_anatomy`: z to the lateral side, y to the feet, x to the
back [mm], origin in the middle of the tibial plateau. Distances are in mm, positive inside.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from physics.knee_frame import KneeGrid, Window
from physics.shapes import Grid, ellipsoid

# Distance [mm] of the middle of either compartment from the middle of the joint.
COMPARTMENT = 21.0
# Height, half width, half depth and middle (x) of the shafts [mm], up to the joint.
_FEMUR = (
    *((-130.0, 14.0, 13.5, -17.0), (-95.0, 15.0, 14.0, -16.0), (-72.0, 19.0, 14.5, -14.5)),
    *((-55.0, 27.0, 16.5, -12.0), (-42.0, 33.0, 18.5, -9.0), (-20.0, 36.0, 19.0, -7.0)),
)
_TIBIA = (
    *((-10.0, 38.0, 26.0, 0.0), (8.0, 37.5, 25.5, 0.0), (20.0, 32.0, 22.0, -1.0)),
    *((34.0, 24.0, 18.5, -3.0), (55.0, 17.0, 16.0, -4.0), (80.0, 14.0, 15.0, -4.0)),
    (130.0, 13.0, 14.0, -4.0),
)
_FIBULA = (((34, 13, 20), (35, 26, 19), (33, 45, 18), (33, 140, 16)), (8.5, 7.5, 5.0, 6.0))
_STEP, _REACH = 0.1, 160.0  # of the tables of profiles [mm]


def profiles(height: Tensor, knots: Sequence[Sequence[float]]) -> list[Tensor]:
    """Smooth curves through knots, at heights [mm] between -160 and 160 and constant beyond.

    Args:
        height: any shape.
        knots: each a height, in ascending order, and the value of every curve there.

    Returns:
        One float32 tensor in the shape of ``height`` for every curve.
    """
    tables = _tables(tuple(tuple(knot) for knot in knots))
    index = ((height + _REACH) / _STEP).clamp_(0, len(tables[0]) - 1).to(torch.int32)
    return [table[index] for table in tables]


@lru_cache
def _tables(knots: tuple[tuple[float, ...], ...]) -> list[Tensor]:
    at, *values = torch.tensor(knots, dtype=torch.float32).T.contiguous()
    places = torch.arange(-_REACH, _REACH, _STEP)
    upper = torch.searchsorted(at, places).clamp_(1, len(at) - 1)
    share = ((places - at[upper - 1]) / (at[upper] - at[upper - 1])).clamp_(0, 1)
    curves = []
    for value in values:
        line = torch.lerp(value[upper - 1], value[upper], share)[None]
        for _ in range(2):  # rounds the corners over about a centimetre
            line = avg_pool1d(line, 101, 1, 50, count_include_pad=False)
        curves.append(line[0])
    return curves


def section(across: Tensor, along: Tensor, radii: Sequence[Tensor], corner: float = 0.0) -> Tensor:
    """Distance into a cross-section: an ellipse, or with ``corner`` up to 0.5 nearer a rectangle.

    Args:
        across: one coordinate, from the middle [mm].
        along: the other.
        radii: semi-axes [mm] in the same order, that broadcast with the coordinates.
        corner: how much the corners bulge.
    """
    a, b = (across / radii[0]).square_(), (along / radii[1]).square_()
    slope = torch.addcmul(a / radii[0].square(), b, radii[1].square().reciprocal())
    slope = slope.sqrt_().clamp_(min=1e-6)
    bulge = (a * b).clamp_(max=1.0)  # on the outline a and b are at most 1
    level = (a + b).sub_(bulge, alpha=corner).clamp_(min=1e-9).sqrt_()
    return (1 - level).mul_(level).div_(slope)


def blend(first: Tensor, second: Tensor, radius: float) -> Tensor:
    """The union of two bodies, its concave edges filled with about this radius [mm]."""
    overlap = (radius - (first - second).abs()).clamp_(min=0)
    return torch.maximum(first, second) + overlap.square_() / (4 * radius)


def femur(grid: Grid, height: Tensor, cartilage: Tensor) -> tuple[Tensor, Tensor]:
    """The femur and its cartilage.

    Args:
        grid: coordinates with y = 0 at the lowest points of the condyles' bone.
        height: y on the middle line of the leg, ``(z, y, 1)``.
        cartilage: thickness [mm].

    Returns:
        Distance into the bone, and into bone and cartilage together.
    """
    z, y, x = grid
    medial = torch.sigmoid(-z / 6)
    forward = x + 2.0 - 3.0 * medial  # the lateral condyle lies and reaches further in front
    side = z.abs()
    profile = blend(
        ellipsoid((y, forward), (-21.0, -1.0), (21.0, 28.0)),
        ellipsoid((y, forward), (-20.5, 12.0), (20.0, 19.5)),
        3.0,
    )
    profile = profile + medial  # as far as the tibia is dished there
    off = side - COMPARTMENT
    share = (off / 12.5).square_()
    steepness = off * share * (16 / 12.5**2)
    condyles = (profile - 4 * share.square_()) / (1 + steepness.square_()).sqrt_()
    notch = 0.13 * x + 0.06 * y + 9.5 - side  # between them, wider below and behind
    condyles = -blend(-condyles, notch, 2.0)
    front = ellipsoid((y, forward), (-29.0, -13.0), (25.0, 21.0))
    groove = 6.0 * torch.exp(-(z / 8.5).square_()) + 6 * (side / 25).square_().square_()
    trochlea = front - groove
    *radii, middle = profiles(height, _FEMUR)
    roof = -0.79 * (x - 8) - 0.61 * (y + 40)  # of the notch, above which the shaft ends
    shaft = torch.minimum(section(z, x - middle, radii), torch.minimum(roof, -24 - y))
    bone = blend(blend(condyles, trochlea, 3.0), shaft, 6.0)
    weight_bearing = torch.minimum(torch.minimum(12.5 - off.abs(), y + 37), -1 - notch)
    gliding = torch.minimum(torch.minimum(24 - side, y + 48), -6 - x)
    coated = torch.maximum(
        condyles + cartilage * (weight_bearing / 4).clamp_(-0.3, 1),
        trochlea + 1.1 * cartilage * (gliding / 4).clamp_(-0.3, 1),
    )
    return bone, coated


def plateau(grid: Grid) -> Tensor:
    """Depth below the surface of the tibial plateau [mm]: dished, with its eminences, sloping."""
    z, y, x = grid
    off = z.abs() - COMPARTMENT
    dish = 1.6 * torch.exp(-(off / 9).square_() - (x / 13).square()) * torch.sigmoid(-z / 3)
    peaks = 8.0 * torch.exp(-((z.abs() - 5) / 4.5).square_() - ((x - 3) / 8).square())
    return y - (0.09 * x).add_(dish).sub_(peaks)


def tibia(grid: Grid, height: Tensor, cartilage: Tensor) -> tuple[Tensor, Tensor]:
    """The tibia and its cartilage, as :func:`femur`; y is that of the knee's frame."""
    z, _, x = grid
    *radii, middle = profiles(height, _TIBIA)
    around = section(z, x - middle, radii, 0.35)
    around = blend(around, ellipsoid(grid, (2.0, 33.0, -19.0), (9.0, 17.0, 9.5)), 4.0)
    top = plateau(grid)
    bone = -blend(-around, -top, 4.0)
    gliding = torch.minimum(13.5 - (z.abs() - COMPARTMENT).abs(), around)
    coated = bone + cartilage * (gliding / 5).clamp_(-0.3, 1)
    return bone, torch.minimum(coated, 3 - top)


def fibula(knee: KneeGrid) -> tuple[Window, Tensor]:
    """The window of the fibula, and the distance into it there."""
    return knee.tube(*_FIBULA)


def patella(grid: Grid, cartilage: Tensor) -> tuple[Tensor, Tensor]:
    """The patella and its cartilage; the grid's origin is the ridge of its back, mid-height."""
    z, y, x = grid
    # The apex lies in front of the middle, where the patellar tendon takes it up.
    body = ellipsoid((z, y, x + 0.35 * y.clamp(min=0)), (0.0, 0.0, -9.0), (22.0, 21.5, 11.0))
    ridge = (z.square() + 9).sqrt_().sub_(3)
    back = -x - 0.42 * ridge
    bone = -blend(-body, -back, 2.0)
    gliding = torch.minimum(body + 3, 11 - y)
    coated = back + cartilage * (gliding / 4).clamp_(-0.3, 1)
    return bone, torch.minimum(torch.minimum(coated, body + 1.5), 3 - back)
