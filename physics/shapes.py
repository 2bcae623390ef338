"""Signed distances to simple bodies, and painting them as soft tissue fractions.

Grids are three tensors, the z, y and x coordinates [mm] of every point, that broadcast together.
Distances are in mm, positive inside.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

Grid = tuple[Tensor, Tensor, Tensor]
Point = tuple[float, float, float]


def ellipsoid(grid: Sequence[Tensor], centre: Sequence[float], radii: Sequence[float]) -> Tensor:
    """Approximate distance into an ellipsoid, exact to first order at its surface.

    Args:
        grid: coordinates [mm]; two, where it is a cylinder along the third.
        centre: its coordinates [mm].
        radii: semi-axes [mm], in the order of the coordinates.

    Returns:
        float32, the broadcast shape of the grid.
    """
    level = torch.zeros(())
    slope = torch.zeros(())
    for coordinate, middle, radius in zip(grid, centre, radii, strict=True):
        scaled = (coordinate - middle).mul_(1 / radius).square_()
        level = level + scaled
        slope = torch.add(slope, scaled, alpha=1 / radius**2)
    level = level.sqrt_()
    return level.mul_(1 - level).div_(slope.sqrt_().clamp_(min=1e-6))


def tube(
    grid: Sequence[Tensor], points: Sequence[Sequence[float]], radii: Sequence[float]
) -> Tensor:
    """Approximate distance into a tube along a polyline whose radius changes linearly.

    Args:
        grid: coordinates [mm]; two, where it is a wall along the third.
        points: the polyline's corners [mm], in the order of the coordinates.
        radii: the tube's radius [mm] at each corner.

    Returns:
        float32, the broadcast shape of the grid.
    """
    pieces = zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)
    inside = None
    for start, end, first, last in pieces:
        step = [b - a for a, b in zip(start, end, strict=True)]
        offset = [c - a for c, a in zip(grid, start, strict=True)]
        length = sum(s * s for s in step)
        along = torch.zeros(())
        for s, o in zip(step, offset, strict=True):
            along = torch.add(along, o, alpha=s / length)
        along = along.clamp_(0, 1)
        squared = torch.zeros(())
        for s, o in zip(step, offset, strict=True):
            squared = squared + torch.sub(o, along, alpha=s).square_()
        distance = along.mul_(last - first).add_(first).sub_(squared.sqrt_())
        inside = distance if inside is None else torch.maximum(inside, distance)
    if inside is None:
        raise ValueError(f"a tube needs at least two points, got {len(points)}")
    return inside


class Canvas:
    """Tissue fractions painted front to back: what is painted first hides what comes later.

    Args:
        tissues: number of tissues; tissue 0 fills what is never painted.
        shape: the grid's shape.
        softness: width [mm] over which a boundary goes from 0 to 1, about the grid spacing.
    """

    def __init__(self, tissues: int, shape: Sequence[int], softness: float) -> None:
        self.fractions = torch.zeros(tissues, *shape)
        self.softness = softness
        self._rest = self.fractions[0].fill_(1)

    def window(self, *index: slice) -> "Canvas":
        """A part of the canvas, given by a slice of every axis; it shares its memory."""
        part = copy(self)
        part.fractions = self.fractions[(slice(None), *index)]
        part._rest = part.fractions[0]
        return part

    def paint(self, tissue: int, distance: Tensor) -> None:
        """Fill what is still free where ``distance`` [mm, positive inside] says so."""
        cover = (distance / self.softness).add_(0.5).clamp_(0, 1).mul_(self._rest)
        self.fractions[tissue] += cover
        self._rest -= cover
