"""A random chest around a heart: tissues, and what stands still, as soft tissue fractions.

The chest's own frame has y to the back and x to the patient's left, in mm, and its origin in the
middle of an elliptical body; the slice is a short axis of the heart, oblique in the body.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.sequences import Tissue
from physics.shapes import Canvas, ellipsoid, tube
from physics.texture import Axes, random_waves, uniform

# Rounded literature values at 1.5 T, in label order. Myocardium, blood, muscle, liver and cord:
# Stanisz et al., MRM 2005; fat, marrow and spleen: de Bazelaire et al., Radiology 2004; lung, bone
# and connective tissue (skin, pericardium): order of magnitude of the short-T2 literature. Air has
# no protons; its times only keep the formulas finite.
HEART_TISSUES: tuple[Tissue, ...] = (
    Tissue("air", 1000.0, 1.0, 0.0),
    Tissue("lung", 1200.0, 1.5, 0.20),
    Tissue("myocardium", 1030.0, 45.0, 0.80),
    Tissue("left ventricle", 1440.0, 250.0, 0.90),
    Tissue("right ventricle", 1440.0, 250.0, 0.90),
    Tissue("vessel", 1440.0, 250.0, 0.90),
    Tissue("muscle", 1010.0, 40.0, 0.78),
    Tissue("fat", 340.0, 60.0, 0.85),
    Tissue("liver", 580.0, 46.0, 0.75),
    Tissue("spleen", 1060.0, 75.0, 0.80),
    Tissue("stomach", 1300.0, 90.0, 0.60),
    Tissue("bone", 250.0, 0.5, 0.25),
    Tissue("marrow", 550.0, 49.0, 0.35),
    Tissue("csf", 4200.0, 1500.0, 1.00),
    Tissue("cord", 750.0, 74.0, 0.70),
    Tissue("connective", 900.0, 15.0, 0.50),
)
# Middle and semi-axes, y and x [mm], of the inside of the rib cage of an average body.
RIB_CAGE = ((-6.0, 0.0), (78.0, 126.0))
HEART_INDEX = {tissue.name: index for index, tissue in enumerate(HEART_TISSUES)}


@dataclass(frozen=True)
class ChestPlacement:
    """Where a chest and its heart lie.

    Args:
        centre: y, x [mm] of the body's middle in the scanner.
        turn: of the body in the slice, counter-clockwise on a screen [radians].
        scale: size of the body relative to the average, along its own y and x.
        heart: y, x [mm] of the left ventricle's middle, in the scanner.
        heart_turn: direction from there to the right ventricle, in the scanner: 0 is +x, and a
            quarter turn is +y [radians].
    """

    centre: tuple[float, float]
    turn: float
    scale: tuple[float, float]
    heart: tuple[float, float]
    heart_turn: float

    def body_frame(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scanner coordinates to those of an average body."""
        y, x = y - self.centre[0], x - self.centre[1]
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        return (cosine * y + sine * x) / self.scale[0], (cosine * x - sine * y) / self.scale[1]

    def heart_frame(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scanner coordinates to u and v of the heart."""
        y, x = y - self.heart[0], x - self.heart[1]
        cosine, sine = math.cos(self.heart_turn), math.sin(self.heart_turn)
        return cosine * x + sine * y, cosine * y - sine * x

    def from_heart_frame(self, u: float, v: float) -> tuple[float, float]:
        """The scanner's y and x of a point of the heart."""
        cosine, sine = math.cos(self.heart_turn), math.sin(self.heart_turn)
        return self.heart[0] + sine * u + cosine * v, self.heart[1] + cosine * u - sine * v


@dataclass(frozen=True)
class _Chest:
    """What the painting of every part needs: the grid in the body's frame and the randomness."""

    canvas: Canvas
    axes: Axes
    grid: tuple[Tensor, Tensor]
    cavity: Tensor  # depth inside the rib cage [mm]
    generator: torch.Generator

    def paint(self, tissue: str, distance: Tensor) -> None:
        self.canvas.paint(HEART_INDEX[tissue], distance)

    def waves(self, shortest: float, longest: float, count: int = 32) -> Tensor:
        return random_waves(self.axes, shortest, longest, self.generator, count)[0]

    def uniform(self, low: float, high: float) -> float:
        return uniform(low, high, self.generator)


def chest_fractions(axes: Axes, generator: torch.Generator, placement: ChestPlacement) -> Tensor:
    """The share of every tissue at every point of a random chest, fat where the heart goes.

    Args:
        axes: coordinates z (one), y, x [mm] in the scanner; y and x evenly spaced.
        generator: source of the randomness: the same state gives the same chest.
        placement: where the chest lies.

    Returns:
        float32 ``(tissues, y, x)`` that sums to 1 over the tissues of ``HEART_TISSUES``.
    """
    y, x = placement.body_frame(axes[1][:, None], axes[2])
    wobble = [random_waves(axes, 60.0, 200.0, generator, 24)[0] for _ in range(2)]
    grid = (y + 2 * wobble[0], x + 2 * wobble[1])
    cavity = ellipsoid(grid, *RIB_CAGE)
    canvas = Canvas(len(HEART_TISSUES), y.shape, (axes[2][1] - axes[2][0]).item())
    chest = _Chest(canvas, axes, grid, cavity, generator)
    heart = placement.body_frame(*(torch.tensor(middle) for middle in placement.heart))
    _paint_spine(chest)
    _paint_abdomen(chest)
    _paint_mediastinum(chest, (heart[0].item(), heart[1].item()))
    _paint_lungs(chest)
    _paint_wall(chest)
    return canvas.fractions


def _paint_spine(chest: _Chest) -> None:
    """A vertebra with its canal and processes, the muscles beside it and the aorta before it."""
    y, x = chest.grid
    side = (y, x.abs())
    aorta = chest.uniform(9.5, 12.5)
    chest.paint("vessel", ellipsoid(chest.grid, (36.0, 21.0), (aorta, aorta)))
    chest.paint("connective", ellipsoid(chest.grid, (36.0, 21.0), (aorta + 1.5, aorta + 1.5)))
    chest.paint("muscle", ellipsoid(chest.grid, (27.0, 8.0), (4.0, 6.0)))  # the oesophagus
    chest.paint("cord", ellipsoid(chest.grid, (77.0, 0.0), (3.5, 4.5)))
    chest.paint("csf", ellipsoid(chest.grid, (77.0, 0.0), (6.5, 8.0)))
    vertebra = torch.maximum(
        ellipsoid(chest.grid, (53.0, 0.0), (14.5, 18.5)),
        tube(side, ((66.0, 11.0), (84.0, 12.0), (78.0, 30.0)), (4.0, 5.0, 4.0)),
    )
    vertebra = torch.maximum(vertebra, tube(chest.grid, ((84.0, 0.0), (97.0, 0.0)), (5.0, 3.0)))
    vertebra = vertebra + 0.8 * chest.waves(10.0, 30.0)
    chest.paint("fat", ellipsoid(chest.grid, (77.0, 0.0), (8.0, 9.5)))
    chest.paint("marrow", vertebra - 1.2)
    chest.paint("bone", vertebra)
    back = ellipsoid(side, (86.0, 26.0), (15.0, 23.0)) + 1.5 * chest.waves(15.0, 50.0)
    chest.paint("muscle", back)


def _paint_abdomen(chest: _Chest) -> None:
    """What the diaphragm covers: liver with its vessels, stomach, spleen and fat."""
    waves = chest.waves(40.0, 120.0)
    dome = ellipsoid(chest.grid, (40.0, -60.0), (85.0, 88.0)) + 3 * waves
    dome = torch.minimum(dome, chest.cavity - 1.5)
    cava = ellipsoid(chest.grid, (34.0, -20.0), (9.0, 12.0))
    chest.paint("vessel", torch.minimum(cava, dome))
    stomach = ellipsoid(chest.grid, (8.0, -12.0), (15.0, 26.0)) + 2 * chest.waves(25.0, 60.0)
    stomach = torch.minimum(stomach, dome - 3)
    chest.paint("stomach", stomach - 3)
    chest.paint("muscle", stomach)
    veins = 2 * (chest.waves(14.0, 30.0) - chest.uniform(1.9, 2.4))
    liver = torch.minimum(
        dome - 2.5, ellipsoid(chest.grid, (-6.0, -84.0), (78.0, 78.0)) + 3 * waves
    )
    chest.paint("vessel", torch.minimum(veins, liver - 3))
    chest.paint("liver", liver)
    spleen = ellipsoid(chest.grid, (46.0, 74.0), (20.0, 30.0)) + 2 * chest.waves(25.0, 60.0)
    chest.paint("spleen", torch.minimum(spleen, chest.cavity - 2))
    chest.paint("fat", dome - 1.8)
    chest.paint("muscle", dome)


def _paint_mediastinum(chest: _Chest, heart: tuple[float, float]) -> None:
    """Fat behind the heart, between it and the breastbone, and around the aorta."""
    y, x = heart
    edge = 3 * chest.waves(15.0, 60.0)
    front = ellipsoid(chest.grid, (y - 40, x - 48), (36.0, 30.0)) + edge
    back = ellipsoid(chest.grid, (38.0, 12.0), (15.0, 26.0)) + edge
    behind = ellipsoid(chest.grid, (y - 8, x - 8), (30.0, 34.0))
    everything = torch.maximum(torch.maximum(front, back), behind)
    chest.paint("fat", torch.minimum(everything, chest.cavity))


def _paint_lungs(chest: _Chest) -> None:
    spots = chest.waves(7.0, 16.0, 64) - chest.uniform(1.9, 2.4)
    within = chest.cavity - 4
    chest.paint("vessel", torch.minimum(spots, within))
    chest.paint("lung", chest.cavity)


def _paint_wall(chest: _Chest) -> None:
    """Ribs between muscles, the muscles of chest and back, fat and skin."""
    y, x = chest.grid
    angle = torch.atan2((y - RIB_CAGE[0][0]) / RIB_CAGE[1][0], x / RIB_CAGE[1][1])
    fine, vary = chest.waves(10.0, 30.0), chest.waves(40.0, 150.0)
    # An oblique slice cuts the ribs one after the other, as short ovals.
    count = round(chest.uniform(15, 20))
    arc = torch.remainder(angle / (2 * math.pi) * count + chest.uniform(0, 1), 1) - 0.5
    along = arc * (2 * math.pi / count) * torch.hypot(x, y - RIB_CAGE[0][0])
    rib = ellipsoid((-chest.cavity - 5.5 - 0.5 * fine, along), (0.0, 0.0), (4.0, 8.5))
    chest.paint("marrow", rib - 1.3)
    chest.paint("bone", rib)
    chest.paint("fat", 0.8 + 0.5 * vary - (chest.cavity + 1).abs())
    ribs = chest.cavity + 9 + vary
    chest.paint("muscle", ribs + fine)
    # On the ribs lie the muscles of the chest's front and, thicker, of its back, under a fat layer.
    back, aside = torch.sigmoid(y / 15), x.abs().clamp(max=90) / 90
    thickness = chest.uniform(0.6, 1.3) * (3 + 5 * back + 4 * aside + 2.5 * vary).clamp(min=0)
    depth = ribs + thickness
    chest.paint("fat", 0.5 + 0.4 * fine - (depth - 0.5 * thickness).abs())
    chest.paint("muscle", depth)
    body = torch.maximum(ellipsoid(chest.grid, (0.0, 0.0), (108.0, 158.0)), depth + 5)
    chest.paint("fat", body)
    chest.paint("connective", body + 1.8)
