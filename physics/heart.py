"""Simulated multi-coil cines of the beating heart: anatomy, coils and noise from one seed."""

import math
from collections.abc import Sequence as Items
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from physics.acquisition import (
    Parameter,
    SimulatedScan,
    acquire,
    background_phase,
    band_limit,
    check_acquisition,
    draw_snr,
    first_on_fine,
    normalise,
    prevailing,
    random_streams,
    refine,
    transmit_field,
)
from physics.heart_anatomy import HEART_INDEX, HEART_TISSUES, ChestPlacement, chest_fractions
from physics.heart_cycle import Contours, Ventricles
from physics.heart_motion import BeatingHeart
from physics.receive import CoilArray, coil_maps
from physics.sequences import BalancedSSFP
from physics.texture import Axes, random_waves, uniform

_SMALLEST = 32
_OVERSAMPLING = 2
_FARTHEST = 40.0  # that a body lies off the middle of the field of view [mm]
_TISSUES = tuple(tissue.name for tissue in HEART_TISSUES)
_BLOOD = [HEART_INDEX[name] for name in ("left ventricle", "right ventricle", "vessel")]
# Texture: relative standard deviation of a tissue's signal; 0.1 unless told here.
_TEXTURE = {
    **{"left ventricle": 0.05, "right ventricle": 0.07, "myocardium": 0.06, "liver": 0.07},
    **{"lung": 0.5, "fat": 0.08, "muscle": 0.15, "marrow": 0.2, "stomach": 0.3},
}


def simulate_heart(
    seed: int,
    size: tuple[int, int, int] = (20, 192, 160),
    coils: int | CoilArray = 8,
    snr: float | None = None,
    *,
    partial_fourier: float = 1.0,
) -> SimulatedScan:
    """A cine of one short-axis slice of a random healthy heart over one beat, the breath held.

    Balanced SSFP at 1.5 T with tissue values of that field; frame 0 is end diastole, and the
    frame after the last would be frame 0 again. Of the parameters, ``ejection_fraction`` is that
    of the left ventricle's blood: area of the label "left ventricle", which leaves the papillary
    muscles out, times a length that shrinks by the share ``longitudinal_shortening`` from the
    first frame to ``end_systolic_frame``. Others are ``heart_rate`` [beats per minute],
    ``frame_duration`` [ms], ``wall_thickness_diastole`` and ``wall_thickness_systole`` [mm],
    ``t1_blood``, ``t2_blood``, ``t1_myocardium``, ``t2_myocardium`` [ms] and ``turn`` [degrees],
    by which the body is turned counter-clockwise on a screen from lying on its back.

    Args:
        seed: the same seed and arguments give the same scan, bit for bit, on one machine with one
            number of threads.
        size: frames, and pixels along y and x.
        coils: number of receive coils, half in front of the chest and half behind it, or an array
            of your own; the back is at its angle ``90 - turn``.
        snr: as in :func:`physics.acquisition.acquire`; by default drawn.
        partial_fourier: share of the x axis that is acquired, above 0.5.

    Raises:
        ValueError: for no frames, pixels below 32, no coils, an SNR that is not positive, or
            partial Fourier outside its range.
    """
    _check(size)
    check_acquisition(size, snr, partial_fourier)
    streams = random_streams(seed, ("heart", "chest", "coils", "scan"))
    heart_rate = uniform(50.0, 90.0, streams["heart"])
    ventricles = Ventricles.draw(heart_rate, streams["heart"])
    axes, placement = _place(size[1:], streams["chest"])
    if not isinstance(coils, CoilArray):
        coils = _body_array(coils, placement, streams["coils"])
    around = (axes[0], axes[1] - placement.centre[0], axes[2] - placement.centre[1])
    maps, shading = coil_maps(around, coils, streams["coils"])
    generator = streams["scan"]
    noise_level = draw_snr(snr, generator)
    sequence = _draw_sequence(generator)
    properties = _draw_properties(streams["chest"])
    fine, labels = _frames(
        size[0], ventricles, placement, axes, _signal(properties, sequence), streams["chest"]
    )
    strength = shading ** uniform(0.2, 0.8, generator) * transmit_field(axes, generator)
    image = torch.polar(strength, background_phase(axes, generator))
    image = normalise(image * band_limit(fine, size[1:], generator), labels > 0)
    body = (labels > 0).any(0, keepdim=True)
    kspace = acquire(image, maps, body, noise_level, generator, partial_fourier=partial_fourier)
    parameters: dict[str, Parameter] = {
        **{"anatomy": "heart", "seed": seed, "contrast": "cine", "field_strength": 1.5},
        **{"sequence": type(sequence).__name__, **asdict(sequence)},
        **{"voxel_size": [_spacing(axes)] * 2, "snr": noise_level},
        **{"turn": math.degrees(placement.turn), "heart_rate": heart_rate},
        **{"frame_duration": 60000 / heart_rate / size[0]},
        **_truth(ventricles, size[0], properties),
    }
    return SimulatedScan(kspace, image, maps[None], labels, _TISSUES, parameters)


def _check(size: Items[int]) -> None:
    if len(size) != 3 or size[0] < 1 or min(size[1:]) < _SMALLEST:
        raise ValueError(
            f"size must be at least one frame and y and x of at least {_SMALLEST} pixels, "
            f"got {tuple(size)}"
        )


def _truth(ventricles: Ventricles, frames: int, properties: Tensor) -> dict[str, Parameter]:
    filling = [ventricles.filling(frame / frames) for frame in range(frames)]
    systole = ventricles.at(ventricles.systole)
    truth: dict[str, Parameter] = {
        "ejection_fraction": ventricles.ejection_fraction,
        "longitudinal_shortening": ventricles.shortening,
        "end_diastolic_frame": 0,
        "end_systolic_frame": filling.index(min(filling)),
        "wall_thickness_diastole": ventricles.wall,
        "wall_thickness_systole": systole.epicardium - systole.cavity,
    }
    for name, tissue in (("blood", "left ventricle"), ("myocardium", "myocardium")):
        truth[f"t1_{name}"], truth[f"t2_{name}"] = properties[:2, HEART_INDEX[tissue]].tolist()
    return truth


def _place(size: Items[int], generator: torch.Generator) -> tuple[Axes, ChestPlacement]:
    """Where the chest lies, and the pixel axes [mm] of a field of view that holds it."""
    overall = uniform(0.94, 1.06, generator)
    scale = [overall * uniform(0.96, 1.04, generator) for _ in range(2)]
    # A short axis cuts the body obliquely; its wide side lies along the longer axis.
    turn = math.radians((60 if size[0] >= size[1] else 25) + uniform(-10, 10, generator))
    cosine, sine = math.cos(turn), math.sin(turn)
    half = [111 * scale[0], 161 * scale[1]]
    extent = [
        2 * math.hypot(half[0] * cosine, half[1] * sine),
        2 * math.hypot(half[0] * sine, half[1] * cosine),
    ]
    fitting = max(length / count for length, count in zip(extent, size, strict=True))
    spacing = fitting * uniform(1.05, 1.16, generator)
    spare = [max(0.0, spacing * n - length) for n, length in zip(size, extent, strict=True)]
    room = [min(_FARTHEST, free / 3) for free in spare]
    centre = [uniform(-free, free, generator) for free in room]
    y, x = ((torch.arange(n) - n // 2) * spacing for n in size)
    back = scale[0] * uniform(-24.0, -16.0, generator)
    left = scale[1] * uniform(38.0, 46.0, generator)
    heart = (
        centre[0] + cosine * back - sine * left,
        centre[1] + sine * back + cosine * left,
    )
    heart_turn = math.radians(-135 + uniform(-12, 12, generator)) - turn
    placement = ChestPlacement(
        (centre[0], centre[1]), turn, (scale[0], scale[1]), heart, heart_turn
    )
    return (torch.zeros(1), y, x), placement


def _body_array(coils: int, placement: ChestPlacement, generator: torch.Generator) -> CoilArray:
    """An array in front of the chest and one behind it."""
    gap = uniform(15.0, 35.0, generator)
    semi_axes = 110 * placement.scale[0] + gap, 160 * placement.scale[1] + gap
    arcs = ((45.0, 135.0), (225.0, 315.0))
    rings = 2 if coils >= 8 and uniform(0, 1, generator) < 0.7 else 1
    radius = uniform(60.0, 90.0, generator)
    turn = math.degrees(placement.turn)
    return CoilArray(coils, rings, semi_axes, radius, arcs=arcs, turn=turn)


def _spacing(axes: Axes) -> float:
    return (axes[2][1] - axes[2][0]).item()


def _draw_sequence(generator: torch.Generator) -> BalancedSSFP:
    repetition_time = uniform(2.7, 3.5, generator)
    return BalancedSSFP(repetition_time, repetition_time / 2, uniform(45.0, 70.0, generator))


def _draw_properties(generator: torch.Generator) -> Tensor:
    """T1, T2 [ms] and proton density of this subject's tissues, float32 ``(3, tissues)``."""
    nominal = torch.tensor([(t.t1, t.t2, t.proton_density) for t in HEART_TISSUES]).T
    spread = torch.exp(0.05 * torch.randn(2, nominal.shape[1], generator=generator))
    properties = torch.cat((spread * nominal[:2], nominal[2:]))
    properties[:, _BLOOD] = properties[:, _BLOOD[:1]]
    return properties


def _signal(properties: Tensor, sequence: BalancedSSFP) -> Tensor:
    """The signal of each tissue, float32 ``(tissues,)``."""
    signal = sequence.signal(*properties)
    # At 1.5 T fat gains 210 to 280 degrees on water in a repetition: that is the next pass band,
    # where the echo has the opposite sign (Scheffler and Lehnhardt, Eur Radiol 2003).
    signal[HEART_INDEX["fat"]] *= -1
    return signal


def _frames(
    count: int,
    ventricles: Ventricles,
    placement: ChestPlacement,
    axes: Axes,
    signal: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Magnetization on a finer grid, float32 ``(t, 2 y, 2 x)``, and labels uint8 ``(t, y, x)``."""
    fine = axes[0], refine(axes[1], _OVERSAMPLING), refine(axes[2], _OVERSAMPLING)
    fractions = chest_fractions(fine, generator, placement)
    texture = 0.4 * random_waves(fine, 3.0, 10.0, generator, 96)[0]
    texture += 0.9 * random_waves(fine, 10.0, 60.0, generator, 96)[0]
    amount = signal * torch.tensor([_TEXTURE.get(name, 0.1) for name in _TISSUES])
    chest = torch.tensordot(signal, fractions, 1)
    chest += texture * torch.tensordot(amount, fractions, 1)
    labels = prevailing(fractions).float()
    del fractions
    trabeculae = random_waves(fine, 7.0, 14.0, generator, 96)[0]
    still = torch.stack((chest, texture, trabeculae, labels))[None]
    heart = BeatingHeart(ventricles, placement, fine, _OVERSAMPLING, generator)
    images = chest.repeat(count, 1, 1)
    steps = labels.to(torch.uint8).repeat(count, 1, 1)
    for frame in range(count):
        now = ventricles.at(frame / count)
        images[frame][heart.window], moment = _moment(heart, now, still, signal, amount)
        steps[frame][heart.window][::_OVERSAMPLING, ::_OVERSAMPLING] = moment
    y, x = (first_on_fine(len(axis), _OVERSAMPLING) for axis in axes[1:])
    return images, steps[:, y::_OVERSAMPLING, x::_OVERSAMPLING].contiguous()


def _moment(
    heart: BeatingHeart, now: Contours, still: Tensor, signal: Tensor, amount: Tensor
) -> tuple[Tensor, Tensor]:
    """Magnetization of the window, and labels of every second of its points."""
    origins = heart.origins(now)
    chest, texture, trabeculae = grid_sample(still[:, :3], origins, align_corners=True)[0]
    fractions = heart.fractions(now, trabeculae)
    image = fractions[0] * chest + torch.tensordot(signal, fractions, 1)
    image += texture * torch.tensordot(amount, fractions, 1)
    origins = origins[:, ::_OVERSAMPLING, ::_OVERSAMPLING]
    behind = grid_sample(still[:, 3:], origins, mode="nearest", align_corners=True)[0, 0]
    labels = prevailing(fractions[:, ::_OVERSAMPLING, ::_OVERSAMPLING])
    return image, torch.where(labels > 0, labels, behind.to(torch.uint8))
