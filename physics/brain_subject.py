"""Who lies in the scanner, and where: a random subject and the field of view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.acquisition import Parameter
from physics.brain_anatomy import TISSUE_INDEX, Placement
from physics.brain_head import Head
from physics.brain_protocol import draw_texture, draw_tissues
from physics.texture import Axes, Waves, uniform

_HEIGHTS = (-95.0, 95.0)  # what a volume should show of an average head [mm]
_FARTHEST = 40.0  # that a head lies off the middle of the field of view [mm]


@dataclass(frozen=True)
class Subject:
    """A head and its tissues, and the grid it is seen on.

    Attributes:
        head: its anatomy.
        placement: where it lies.
        axes: coordinates z, y, x [mm] of the voxels.
        thickness: of a slice [mm]; 0 for a volume, whose planes are as thick as its voxels.
        tissues: t1, t2 [ms] and proton density, float32 ``(3, tissues)``.
        texture: the fields of :func:`physics.brain_protocol.draw_texture`.
    """

    head: Head
    placement: Placement
    axes: Axes
    thickness: float
    tissues: Tensor
    texture: list[Waves]

    @classmethod
    def draw(cls, size: Sequence[int], generator: torch.Generator) -> "Subject":
        """A random subject in a field of view of ``(y, x)`` or ``(z, y, x)`` voxels."""
        axes, placement = _place(size, generator)
        slice_thickness = uniform(0.5, 4.0, generator)
        thickness = slice_thickness if len(size) == 2 else 0.0
        head = Head(generator, placement, thickness)
        tissues = draw_tissues(generator)
        return cls(head, placement, axes, thickness, tissues, draw_texture(generator))

    def tissue(self, name: str) -> list[float]:
        """T1, T2 [ms] and proton density of a tissue."""
        return self.tissues[:, TISSUE_INDEX[name]].tolist()

    def parameters(self, size: Sequence[int]) -> dict[str, Parameter]:
        """Where and what it is, in plain values."""
        z, _, x = self.axes
        t1, t2, proton_density = self.tissues.tolist()
        return {
            "voxel_size": [(x[1] - x[0]).item()] * len(size),
            "slice_thickness": self.thickness,
            "slice_height": z[len(z) // 2].item() - self.placement.centre[0],
            "tissue_t1": t1,
            "tissue_t2": t2,
            "tissue_proton_density": proton_density,
        }


def _place(size: Sequence[int], generator: torch.Generator) -> tuple[Axes, Placement]:
    """Where the head lies, and the voxel axes [mm] of a field of view that holds it."""
    overall = uniform(0.92, 1.08, generator)
    stretch = [overall * uniform(0.95, 1.05, generator) for _ in range(3)]
    height = uniform(-28.0, 50.0, generator)
    sideways = uniform(0, 1, generator) < 0.25
    angle = uniform(-0.2, 0.2, generator) + (math.pi / 2 if sideways else 0.0)
    tilt = uniform(-0.25, 0.15, generator)
    extent = [202 * stretch[1], 166 * stretch[2]]
    if sideways:
        extent.reverse()
    plane = size[-2:]
    fitting = max(length / count for length, count in zip(extent, plane, strict=True))
    spacing = fitting * uniform(0.98, 1.3, generator)
    spare = [max(0.0, spacing * n - length) for n, length in zip(plane, extent, strict=True)]
    room = [min(_FARTHEST, free / 3) for free in spare]
    down, aside = (uniform(-free, free, generator) for free in room)
    placement = Placement((-height, down, aside), angle, tilt, (stretch[0], stretch[1], stretch[2]))
    y, x = ((torch.arange(n) - n // 2) * spacing for n in plane)
    planes = size[0] if len(size) == 3 else 1
    # The volume holds the plane z = 0 of the slice and as much of the head as it can.
    bottom, top = (edge * stretch[0] - height for edge in _HEIGHTS)
    half = planes * spacing / 2
    inside = top - bottom > 2 * half
    middle = min(max(0.0, bottom + half), top - half) if inside else (top + bottom) / 2
    z = (torch.arange(planes) - planes // 2 + round(middle / spacing)) * spacing
    return (z, y, x), placement
