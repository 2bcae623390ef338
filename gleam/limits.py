"""Whether measurements are like those that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gleam.batch import Batch
from physics.masks import acceleration
from physics.noise import noise_level

Limits = Mapping[str, Sequence[float]]
"""Smallest and largest acceleration, matrix (pixels along y and x), coils, and SNR."""

# How far a value may lie beyond its range: masks miss their acceleration a little, and the SNR,
# whose range is that of the simulated body without undersampling, is estimated from the zero-filled
# image of the whole field of view: up to 1.8 times too low for scans of an SNR of 33.
SLACK = {"acceleration": 1.05, "matrix": 1.0, "coils": 1.0, "SNR": 2.0}


def facts(batch: Batch) -> dict[str, list[float]]:
    """What :data:`Limits` are about, of one image ``(y, x)``.

    Args:
        batch: normalised, of one image; the SNR is the level of its zero-filled image over the
            noise that :func:`physics.noise.noise_level` finds.
    """
    noise = noise_level(batch.kspace[0], batch.mask[0, 0])
    return {
        "acceleration": [acceleration(batch.mask)],
        "matrix": [float(size) for size in batch.kspace.shape[-2:]],
        "coils": [float(batch.kspace.shape[1])],
        "SNR": [1 / noise if noise else float("inf")],
    }


def departures(found: Sequence[Mapping[str, Sequence[float]]], limits: Limits) -> list[str]:
    """What of some images is outside the limits: the farthest value of each, and its range.

    Args:
        found: :func:`facts` of every image.
        limits: of the network; what is not among them is not looked at.
    """
    said = []
    for name, (low, high) in limits.items():
        values = [value for image in found for value in image[name]]
        slack = SLACK[name]
        for value, outside in (
            (min(values), min(values) < low / slack),
            (max(values), max(values) > high * slack),
        ):
            if outside:
                said.append(f"{name} {value:.3g} is outside {low:.3g} to {high:.3g}")
    return said
