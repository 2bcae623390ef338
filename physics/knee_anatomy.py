"""A random knee, as tissue fractions at physical coordinates.

Bodies are analytic shapes and their irregularities come from random fields, so that any plane or
volume of the same knee is only other coordinates. The scanner's and the knee's frame are those of
:mod:`physics.knee_frame`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from physics.knee_bones import (
    COMPARTMENT,
    femur,
    fibula,
    patella,
    plateau,
    profiles,
    section,
    tibia,
)
from physics.knee_frame import KneeGrid, KneePlacement, Window
from physics.sequences import Tissue
from physics.shapes import Canvas, Point, ellipsoid
from physics.texture import Axes, Waves

# Rounded literature values at 3 T, in label order. Cartilage, muscle, synovial fluid, marrow and
# fat: Gold et al., AJR 2004, and Jordan et al., Eur J Radiol 2013; fat and marrow with the T2 that
# an echo train sees, in which the closely spaced pulses undo J-coupling. Meniscus, tendons with
# ligaments, cortical bone, skin: order of magnitude of the short-T2 literature. Vessels: blood of
# Stanisz et al., MRM 2005, its signal weakened by flow where a scan is made. Air has no protons;
# its times only keep the formulas finite.
KNEE_TISSUES: tuple[Tissue, ...] = (
    Tissue("air", 1000.0, 1.0, 0.0),
    Tissue("bone", 250.0, 0.5, 0.20),
    Tissue("marrow", 370.0, 130.0, 0.80),
    Tissue("cartilage", 1240.0, 40.0, 0.78),
    Tissue("meniscus", 900.0, 11.0, 0.65),
    Tissue("muscle", 1420.0, 33.0, 0.78),
    Tissue("fat", 370.0, 133.0, 0.90),
    Tissue("tendon", 700.0, 6.0, 0.60),
    Tissue("fluid", 3620.0, 767.0, 1.00),
    Tissue("skin", 900.0, 20.0, 0.65),
    Tissue("vessel", 1930.0, 200.0, 0.90),
)
TISSUE_INDEX = {tissue.name: index for index, tissue in enumerate(KNEE_TISSUES)}

_Tube = tuple[tuple[Point, ...], tuple[float, ...]]  # corners (z, y, x) and radii [mm]
_MUSCLES: tuple[_Tube, ...] = (
    (((-24, -130, -28), (-27, -82, -28), (-30, -45, -29)), (27, 23, 8)),  # vastus medialis
    (((24, -130, -28), (27, -88, -28), (27, -58, -32)), (27, 21, 6)),  # vastus lateralis
    (((0, -130, -40), (0, -80, -40), (1, -64, -43)), (14, 8, 2.5)),  # vastus intermedius
    (((30, -130, 26), (33, -60, 26), (37, -12, 26)), (19, 14, 5)),  # biceps femoris
    (((-21, -130, 28), (-25, -50, 30), (-28, -6, 30)), (19, 14, 5)),  # semimembranosus
    (((-10, -130, 44), (-17, -55, 42), (-28, -5, 38)), (11, 7, 2.5)),  # semitendinosus
    (((-42, -130, 12), (-43, -30, 20), (-38, 28, 2)), (9, 8, 3)),  # sartorius
    # The medial and lateral heads of gastrocnemius.
    (((-19, -36, 32), (-18, 0, 37), (-18, 60, 40), (-18, 130, 36)), (6, 12, 19, 20)),
    (((20, -36, 31), (19, 0, 36), (18, 60, 38), (18, 130, 34)), (6, 11, 18, 19)),
    (((22, -4, 20), (4, 25, 26), (-14, 60, 14)), (3, 9, 6)),  # popliteus
    (((18, 30, 26), (8, 70, 28), (5, 130, 26)), (5, 15, 19)),  # soleus
    (((24, 22, -10), (24, 60, -12), (24, 130, -10)), (5, 15, 16)),  # tibialis anterior
    (((16, 44, 8), (13, 85, 10), (12, 130, 10)), (5, 12, 13)),  # tibialis posterior
    (((38, 34, 14), (37, 70, 12), (36, 130, 12)), (4, 10, 11)),  # peroneal
)
# Tendons and ligaments, and how much wider than deep they are along z, y, x.
_CORDS: tuple[tuple[Point, _Tube], ...] = (
    ((5.5, 1, 1), (((1, -16, -54), (1, 14, -45), (1, 38, -29.5)), (2.6, 2.4, 2.2))),  # patellar
    ((5, 1, 1), (((0, -125, -51), (0, -85, -50.5), (0, -50, -50)), (2.2, 3.2, 3.2))),  # quadriceps
    # Posterior cruciate, medial collateral, lateral collateral, biceps femoris.
    (
        (1, 1, 1),
        (((-8, -21, 0), (-6, -23, 8), (-3, -17, 18), (0, -4, 23), (0, 8, 25)), (4, 5, 5, 4.5, 4)),
    ),
    ((1, 1, 5), (((-41, -28, 2), (-40.5, 0, 0), (-32, 48, -4)), (1.1, 1.3, 1.0))),
    ((1, 1, 1), (((39, -27, 2), (39, -10, 7), (36, 14, 16)), (1.5, 1.8, 1.8))),
    ((1, 1, 1), (((37, -14, 27), (36, 10, 21)), (2.4, 2.4))),
)
_ANTERIOR_CRUCIATE: _Tube = (((-2, -1, -10), (2, -14, 0), (8, -27, 12)), (4.5, 3.6, 4.0))
# The popliteal artery and vein.
_VESSELS: tuple[_Tube, ...] = (
    (((-6, -130, 20), (1, -50, 28), (1, -10, 31), (0, 40, 31), (2, 130, 22)), (3, 3, 2.8, 2.6, 2)),
    (((-2, -130, 26), (5, -50, 33), (5, -10, 35), (4, 40, 34), (6, 130, 27)), (4, 4, 3.6, 3, 3)),
)
# The leg without its subcutaneous fat: height, front, back and half width [mm].
_LEG = (
    *((-120, -58, 58, 58), (-75, -55, 51, 53), (-45, -59, 43, 48), (-20, -60, 40, 46)),
    *((0, -57, 40, 44.5), (20, -47, 43, 43), (40, -37, 49, 43), (75, -29, 56, 46)),
    (120, -26, 56, 47),
)


@dataclass(frozen=True)
class _Bone:
    """Distances [mm] in a window: into a bone, its marrow, and bone and cartilage together."""

    window: Window
    surface: Tensor
    marrow: Tensor
    coated: Tensor


class _Picture:
    """A knee and the canvas it is painted on, front to back."""

    def __init__(self, knee: KneeGrid) -> None:
        self.knee = knee
        spacing = (knee.axes[2][1] - knee.axes[2][0]).item()
        self.canvas = Canvas(len(KNEE_TISSUES), knee.grid[0].shape, spacing)

    def paint(self, tissue: str, window: Window, distance: Tensor) -> None:
        self.canvas.window(*window).paint(TISSUE_INDEX[tissue], distance)


def knee_fractions(
    axes: Axes, generator: torch.Generator, placement: KneePlacement | None = None
) -> Tensor:
    """The share of every tissue at every point of a random knee.

    Args:
        axes: coordinates z, y, x [mm], ascending, each of shape (n,); y and x evenly spaced.
        generator: source of the randomness: the same state gives the same knee.
        placement: where the knee lies; by default upright at the origin.

    Returns:
        float32 ``(tissues, z, y, x)`` that sums to 1 over the tissues of ``KNEE_TISSUES``.

    Raises:
        ValueError: if y or x has fewer than 2 points.
    """
    if min(len(axes[1]), len(axes[2])) < 2:
        raise ValueError(f"y and x need at least 2 points, got {[len(axis) for axis in axes]}")
    knee = KneeGrid(axes, placement or KneePlacement(), generator)
    picture = _Picture(knee)
    cartilage = knee.uniform(1.9, 2.9)
    bones = _bones(knee, cartilage)
    for vessel in _VESSELS:
        picture.paint("vessel", *knee.tube(*vessel))
    _paint_bones(picture, bones)
    _paint_ligaments(picture)
    picture.paint("meniscus", *_menisci(knee, cartilage))
    picture.paint("fluid", *_fluid(knee, bones))
    _paint_leg(picture)
    return picture.canvas.fractions


def _bones(knee: KneeGrid, cartilage: float) -> tuple[_Bone, _Bone, _Bone]:
    """Femur, tibia and patella, with cartilage of about this thickness [mm]."""
    gap = 2.05 * cartilage + knee.uniform(0.2, 0.8)  # between femur and tibia
    rise, shift = gap + knee.uniform(27.0, 35.0), knee.uniform(-2.0, 3.0)  # of the patella
    shell = knee.uniform(0.6, 0.9)

    def coat(window: Window) -> Tensor:
        return knee.waves(15.0, 50.0, 24, window).mul_(0.15 * cartilage).add_(cartilage)

    def bone(window: Window, distances: tuple[Tensor, Tensor]) -> _Bone:
        """The shaft's cortex is thick, the shell of the ends thin."""
        surface, coated = distances
        height = knee.height[window[:2]]
        cortex = torch.sigmoid((height.abs() - 64) / 7).mul_(3.0).add_(shell)
        return _Bone(window, surface, surface - cortex, coated)

    window = knee.window((-44, -200, -42), (44, 4, 40))
    z, y, x = knee.part(window)
    height = knee.height[window[:2]] + gap
    thigh = bone(window, femur((z, y + gap, x), height, coat(window)))
    window = knee.window((-42, -14, -34), (42, 200, 32))
    shin = bone(window, tibia(knee.part(window), knee.height[window[:2]], coat(window)))
    window = knee.window((-28, -62, -66), (30, 0, -25))
    z, y, x = knee.part(window)
    kneecap = z - shift, y + rise, x + (28.3 + 2.4 * cartilage)
    return thigh, shin, bone(window, patella(kneecap, coat(window)))


def _paint_bones(picture: _Picture, bones: tuple[_Bone, _Bone, _Bone]) -> None:
    knee = picture.knee
    # What the growth plates of femur and tibia left: a thin scar through the marrow.
    heights = -knee.uniform(37.0, 42.0), knee.uniform(14.0, 18.0)
    for bone, height in zip(bones[:2], heights, strict=True):
        window = knee.window((-44, height - 16, -40), (44, height + 8, 36))
        z, y, _ = knee.part(window)
        wave, strength = (knee.waves(*scale, 24, window) for scale in ((12, 50), (5, 25)))
        arch = wave.mul_(1.5).add_(z.square(), alpha=0.005)
        scar = 0.25 + 0.2 * strength - (y - height + arch).abs_()
        marrow = knee.field(bone.window, bone.marrow)[window]
        picture.paint("bone", window, torch.minimum(scar, marrow))
    for bone in bones:
        picture.paint("marrow", bone.window, bone.marrow)
        picture.paint("bone", bone.window, bone.surface)
    window, surface = fibula(knee)
    picture.paint("marrow", window, surface - 1.4)
    picture.paint("bone", window, surface)
    for bone in bones:
        picture.paint("cartilage", bone.window, bone.coated)


def _paint_ligaments(picture: _Picture) -> None:
    knee = picture.knee
    for stretch, cord in _CORDS:
        picture.paint("tendon", *knee.tube(*cord, stretch))
    # The anterior cruciate ligament is loose bundles, between which fat and fluid show.
    window, inside = knee.tube(*_ANTERIOR_CRUCIATE)
    gaps = 1.3 - 0.5 * knee.waves(2.0, 5.0, 24, window)
    picture.paint("tendon", window, torch.minimum(inside, gaps))


def _menisci(knee: KneeGrid, cartilage: float) -> tuple[Window, Tensor]:
    """Wedges that fill the outer part of the gap between femur and tibia, open to the middle."""
    height, width = knee.uniform(5.0, 7.0), knee.uniform(8.5, 11.0)
    window = knee.window((-42, -12, -28), (42, 4, 28))
    z, y, x = knee.part(window)
    off = z.abs() - COMPARTMENT
    radius = ((1.35 * off).square() + (x - 1).square()).sqrt_()
    outer = 20.5 + 2.5 * torch.sigmoid(-z / 3)  # the medial one is larger
    from_rim = outer - radius
    above = -plateau((z, y, x))
    wall = from_rim - 0.05 * (above - 3.5).square()
    wedge = cartilage + height * (1 - from_rim / width) - above
    return window, torch.minimum(torch.minimum(wall, off + 11), torch.minimum(wedge, above + 1))


def _fluid(knee: KneeGrid, bones: tuple[_Bone, _Bone, _Bone]) -> tuple[Window, Tensor]:
    """Synovial fluid: a film on cartilage that faces cartilage, and the recesses of the joint."""
    film, effusion = knee.uniform(0.4, 0.9), knee.uniform(0.0, 1.0)
    joint = knee.window((-46, -96, -70), (46, 14, 44))
    wave = knee.waves(10.0, 40.0, 24, joint)
    thigh, shin, kneecap = (knee.field(bone.window, bone.coated)[joint] for bone in bones)
    narrow = thigh + torch.maximum(shin, kneecap) + 3.0  # gaps of up to this width are full
    fluid = torch.minimum(thigh, torch.maximum(shin + 3.5, kneecap + 4.0))
    fluid = torch.maximum(fluid + (0.3 * wave + film), narrow)
    grid = knee.part(joint)
    for centre, radii in (
        ((0, -68, -38), (20, 24, 1.0 + 3 * effusion)),  # above the patella
        ((20, -34, 30), (9, 8, 2.0 + effusion)),
        ((-20, -34, 30), (9, 8, 2.0 + effusion)),
        ((0, -8, 9), (5, 3.5 + effusion, 6)),  # by the cruciate ligaments
    ):
        pool = ellipsoid(grid, centre, radii).add_(wave, alpha=0.8).sub_(0.8)
        torch.maximum(fluid, pool, out=fluid)
    return joint, fluid


def _muscles(knee: KneeGrid) -> Tensor:
    """Distance into muscles with fat between them and in streaks within."""
    best, second = knee.field(), knee.field()
    for body in _MUSCLES:
        window, muscle = knee.tube(*body)
        first, then = best[window], second[window]
        torch.maximum(then, torch.minimum(first, muscle), out=then)
        torch.maximum(first, muscle, out=first)
    waves = Waves.draw(3.0, 9.0, knee.generator, 24)
    along = torch.tensor([1.0, 0.12, 1.0])  # fibres run along the leg
    streaks = Waves(waves.vectors * along, waves.phases)(knee.axes)
    apart = best - second.clamp_(min=-9).add_(knee.uniform(0.4, 1.2))
    return torch.minimum(torch.minimum(best, apart, out=best), 2.0 - streaks, out=best)


def _paint_leg(picture: _Picture) -> None:
    """Muscles, and the fat around them and below the skin, with sheets of connective tissue."""
    knee = picture.knee
    z, _, x = knee.grid
    front, back, half = profiles(knee.height, _LEG)
    narrowing = (10 - x).clamp_(min=0).square_().mul_(6e-5).add_(1)
    middle = (front + back) / 2
    deep = section(z * narrowing, x - middle, (half, back - middle), 0.35)
    thickness = knee.waves(50.0, 150.0).mul_(0.15).add_(1).mul_(knee.placement.fat)
    outer = deep + thickness.mul_(2.2 - 1.2 * narrowing)  # of the fat, thinner in front
    everywhere = slice(None), slice(None), slice(None)
    muscles = _muscles(knee)
    picture.paint("muscle", everywhere, torch.minimum(muscles, deep - 0.8, out=muscles))
    sheets = 0.12 - knee.waves(7.0, 20.0).abs_().mul_(2.5)  # about the distance in mm
    sheets -= 0.13 * (deep > 0)
    fascia = 0.35 - deep.abs_()
    sheets = torch.maximum(sheets, fascia, out=sheets)
    picture.paint("tendon", everywhere, torch.minimum(sheets, outer, out=sheets))
    picture.paint("fat", everywhere, outer)
    picture.paint("skin", everywhere, outer + 1.8)
