"""Simulated multi-coil brain scans: head, pulse sequence, phase, coils and noise from one seed."""

import math
from collections.abc import Sequence as Items
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from physics.fourier import fft, ifft
from physics.phantoms import TISSUE_INDEX, Placement, brain_fractions, brain_labels
from physics.receive import add_noise, coil_maps, noise_correlation
from physics.sequences import BRAIN_SEQUENCES, BRAIN_TISSUES, Sequence, SpoiledGradientEcho
from physics.texture import Axes, random_waves, uniform

__all__ = ["SimulatedScan", "add_noise", "coil_maps", "simulate_brain"]

_SMALLEST = 32
_OVERSAMPLING = 2
# Texture: relative standard deviation of a tissue's signal at three scales [mm].
_TEXTURE_SCALES = ((1.5, 6.0), (6.0, 20.0), (20.0, 80.0))
_TEXTURE = {
    "air": (0.0, 0.0, 0.0),
    "csf": (0.02, 0.05, 0.05),
    "gray": (0.04, 0.04, 0.04),
    "white": (0.03, 0.03, 0.04),
    "deep gray": (0.03, 0.06, 0.06),
    "bone": (0.1, 0.1, 0.1),
    "marrow": (0.15, 0.2, 0.2),
    "fat": (0.12, 0.12, 0.15),
    "connective": (0.1, 0.1, 0.15),
    "muscle": (0.12, 0.12, 0.1),
    "blood": (0.1, 0.2, 0.1),
}


@dataclass(frozen=True)
class SimulatedScan:
    """One fully sampled scan and the truth behind it.

    Args:
        kspace: complex64 ``(coils, y, x)``, ``fft(maps * image)`` plus noise.
        image: complex64 ``(y, x)``, noiseless; the 95th percentile of its magnitude over the
            head (labels above 0) is 1.
        maps: complex64 ``(1, coils, y, x)``; their sum of squares over coils is 1 everywhere,
            in air too.
        labels: uint8 ``(y, x)``, the prevailing tissue, an index into ``BRAIN_TISSUES``.
        parameters: how the scan was made, in plain Python values: seed, contrast, the
            sequence's parameters [ms, degrees], voxel size [mm], slice height [mm], noise.
    """

    kspace: Tensor
    image: Tensor
    maps: Tensor
    labels: Tensor
    parameters: dict[str, int | float | str]


def simulate_brain(
    seed: int,
    size: tuple[int, int] = (256, 256),
    coils: int = 8,
    contrast: str | None = None,
    noise: float | None = None,
) -> SimulatedScan:
    """An axial brain slice of a random subject, slice position, protocol and coil array.

    Args:
        seed: the same seed and arguments give the same scan, bit for bit.
        size: pixels along y and x.
        coils: number of receive coils.
        contrast: one of ``BRAIN_SEQUENCES``; by default drawn.
        noise: standard deviation of the real part, and of the imaginary part, of the noise of
            every coil at every k-space position, in units of ``image`` (the FFT is orthonormal,
            so it is that of the coil images too); by default drawn between 0.002 and 0.03.

    Raises:
        ValueError: for a contrast that is not known, a size below 32, no coils, negative noise.
    """
    _check(size, coils, contrast, noise)
    generator = torch.Generator().manual_seed(seed)
    axes, placement = _place(size, generator)
    drawn = list(BRAIN_SEQUENCES)[int(uniform(0, len(BRAIN_SEQUENCES), generator))]
    contrast = drawn if contrast is None else contrast
    sigma = 0.002 * 15 ** uniform(0, 1, generator)
    sigma = sigma if noise is None else noise
    # The subject and the coils come before the protocol: a seed shows one head in any contrast.
    fine = _refine(axes)
    fractions = brain_fractions(fine, generator, placement)[:, 0]
    labels = brain_labels(fractions[:, ::_OVERSAMPLING, ::_OVERSAMPLING])
    maps, shading = (part.squeeze(-3) for part in coil_maps(axes, coils, generator))
    sequence = _vary(BRAIN_SEQUENCES[contrast], generator)
    magnetization = _magnetization(fractions, sequence, fine, generator)
    shading = shading ** uniform(0.1, 1.0, generator)  # scanners correct for it, more or less
    image = shading * _phase(axes, placement, sequence, generator)
    image = image * _sample(magnetization, size, generator)
    image = image / torch.quantile(image[labels > 0].abs(), 0.95)
    correlation = noise_correlation(maps, labels > 0, generator)
    kspace = add_noise(fft(maps * image), sigma, generator, correlation)
    parameters: dict[str, int | float | str] = {
        **{"seed": seed, "contrast": contrast, "sequence": type(sequence).__name__},
        **asdict(sequence),
        **{"voxel_size": _spacing(axes), "slice_height": -placement.centre[0], "noise": sigma},
    }
    return SimulatedScan(kspace, image, maps[None], labels, parameters)


def _check(size: Items[int], coils: int, contrast: str | None, noise: float | None) -> None:
    if len(size) != 2 or min(size) < _SMALLEST:
        raise ValueError(f"size must be two numbers of at least {_SMALLEST}, got {tuple(size)}")
    if coils < 1:
        raise ValueError(f"there must be at least one coil, got {coils}")
    if contrast is not None and contrast not in BRAIN_SEQUENCES:
        raise ValueError(f"contrast must be one of {', '.join(BRAIN_SEQUENCES)}, got {contrast!r}")
    if noise is not None and not noise >= 0:
        raise ValueError(f"the noise must not be negative, got {noise}")


def _place(size: Items[int], generator: torch.Generator) -> tuple[Axes, Placement]:
    """Where the head lies, and the pixel axes [mm] of a field of view that holds it."""
    overall = uniform(0.92, 1.08, generator)
    stretch = [overall * uniform(0.95, 1.05, generator) for _ in range(3)]
    height = uniform(-28.0, 50.0, generator)
    sideways = uniform(0, 1, generator) < 0.25
    angle = uniform(-0.2, 0.2, generator) + (math.pi / 2 if sideways else 0.0)
    tilt = uniform(-0.25, 0.15, generator)
    extent = [202 * stretch[1], 166 * stretch[2]]
    if sideways:
        extent.reverse()
    fitting = max(length / count for length, count in zip(extent, size, strict=True))
    spacing = fitting * uniform(0.98, 1.3, generator)
    room = [max(0.0, spacing * n - length) / 3 for n, length in zip(size, extent, strict=True)]
    down, aside = (uniform(-free, free, generator) for free in room)
    y, x = ((torch.arange(n) - n // 2) * spacing for n in size)
    placement = Placement((-height, down, aside), angle, tilt, (stretch[0], stretch[1], stretch[2]))
    return (torch.zeros(1), y, x), placement


def _spacing(axes: Axes) -> float:
    return (axes[2][1] - axes[2][0]).item()


def _refine(axes: Axes) -> Axes:
    """The same field of view with more points; every point of ``axes`` stays one."""
    step = _spacing(axes) / _OVERSAMPLING
    y, x = (
        (torch.arange(_OVERSAMPLING * len(a)) - _OVERSAMPLING * (len(a) // 2)) * step
        for a in axes[1:]
    )
    return axes[0], y, x


def _vary(sequence: Sequence, generator: torch.Generator) -> Sequence:
    """The protocol as another site would run it."""
    changes = {}
    for name, value in asdict(sequence).items():
        spread = 0.03 if name == "inversion_time" else 0.25
        changes[name] = value * uniform(1 - spread, 1 + spread, generator)
    return replace(sequence, **changes)


def _magnetization(
    fractions: Tensor, sequence: Sequence, axes: Axes, generator: torch.Generator
) -> Tensor:
    """Signal float32 ``(y, x)`` of tissue fractions ``(tissues, y, x)``, with texture."""
    spread = torch.exp(0.07 * torch.randn(3, len(BRAIN_TISSUES), generator=generator))
    spread[:, TISSUE_INDEX["csf"]] **= 0.3  # nearly water in everybody
    nominal = torch.tensor([(t.t1, t.t2, t.proton_density) for t in BRAIN_TISSUES])
    signal = sequence.signal(*(spread * nominal.T))
    # Flowing blood leaves the slice before a spin echo, and comes in fresh to a gradient echo.
    fresh = (0.5, 2.0) if isinstance(sequence, SpoiledGradientEcho) else (0.0, 0.5)
    signal[TISSUE_INDEX["blood"]] *= uniform(*fresh, generator)
    for tissue in ("fat", "marrow"):  # saturated, or bright as echo trains make it
        signal[TISSUE_INDEX[tissue]] *= uniform(0.1, 1.3, generator)
    strength = torch.tensor([_TEXTURE[tissue.name] for tissue in BRAIN_TISSUES])
    image = torch.tensordot(signal, fractions, 1)
    for (shortest, longest), amplitude in zip(_TEXTURE_SCALES, strength.T, strict=True):
        wave = random_waves(axes, shortest, longest, generator, 96)[0]
        amount = amplitude * signal * uniform(0.3, 1.7, generator)
        image += wave * torch.tensordot(amount, fractions, 1)
    return image


def _sample(fine: Tensor, size: Items[int], generator: torch.Generator) -> Tensor:
    """What a scanner's finite k-space keeps of a finer image: sharp up to its band, then nothing.

    The band's edge is sharp or rolls off, and may lie inside k-space, as after interpolation.
    """
    kspace = fft(fine.to(torch.complex64))
    edge, width = uniform(0.6, 1.3, generator), uniform(0.02, 0.15, generator)
    for axis, count in zip((-2, -1), size, strict=True):
        centre = kspace.shape[axis] // 2
        kspace = kspace.narrow(axis, centre - count // 2, count)
        frequency = (torch.arange(count) - count // 2).abs() / (count / 2)
        window = torch.sigmoid((edge - frequency) / width)
        kspace = kspace * (window[:, None] if axis == -2 else window)
    return ifft(kspace) / _OVERSAMPLING


def _phase(
    axes: Axes, placement: Placement, sequence: Sequence, generator: torch.Generator
) -> Tensor:
    """Uneven transmit field times phase, complex64 ``(y, x)``.

    The phase is a smooth field, an offset of the echo, and the distortion by the sinuses' air.
    """
    amount = 2.0 if isinstance(sequence, SpoiledGradientEcho) else 1.0
    phase = amount * uniform(0.1, 0.8, generator) * random_waves(axes, 100.0, 300.0, generator)
    phase += amount * uniform(0.0, 0.05, generator) * random_waves(axes, 8.0, 40.0, generator)
    _, y, x = axes
    slope = [uniform(-0.02, 0.02, generator) for _ in range(2)]
    phase += slope[0] * y[:, None] + slope[1] * x + uniform(0, 2 * math.pi, generator)
    # Air below the frontal lobe distorts the field; it lies in front, which may be sideways.
    y, x = y[:, None] - placement.centre[1], x - placement.centre[2]
    forward = -math.cos(placement.angle) * y + math.sin(placement.angle) * x
    across = math.sin(placement.angle) * y + math.cos(placement.angle) * x
    below = 25 - placement.centre[0]  # the slice's height above them
    distance = ((forward - 65) / 25).square() + (across / 30).square() + (below / 25) ** 2
    phase += amount * uniform(-2.0, 2.0, generator) * torch.exp(-distance)
    transmit = 1 + 0.1 * random_waves(axes, 150.0, 400.0, generator)
    return torch.polar(transmit.clamp_(min=0.5), phase)[0]
