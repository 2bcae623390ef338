"""Simulated multi-coil knee scans: anatomy, sequence, phase, coils and noise from one seed."""

import math
from collections.abc import Sequence as Items
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

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
from physics.knee_anatomy import KNEE_TISSUES, TISSUE_INDEX, knee_fractions
from physics.knee_frame import KneePlacement
from physics.receive import CoilArray, coil_maps
from physics.sequences import SpinEcho
from physics.texture import Axes, Waves, uniform

# Typical fast spin echo protocols at 3 T, as the spin echo with the effective echo time.
KNEE_SEQUENCES: dict[str, SpinEcho] = {
    "PD": SpinEcho(repetition_time=2800.0, echo_time=30.0),
    "PDFS": SpinEcho(repetition_time=3200.0, echo_time=34.0),
}
_TISSUES = tuple(tissue.name for tissue in KNEE_TISSUES)
_STREAMS = ("place", "anatomy", "coils", "contrast", *KNEE_SEQUENCES, "tissues")
_FATTY = ("fat", "marrow")
_SMALLEST = 32  # points along y and x
_FEWEST = 8  # slices of a volume
_SLAB = 2**18  # points that are painted at a time
# Texture: relative standard deviation of a tissue's signal at three scales [mm].
_TEXTURE_SCALES = ((1.2, 4.0), (4.0, 15.0), (20.0, 80.0))
_TEXTURE = {
    "air": (0.0, 0.0, 0.0),
    "bone": (0.1, 0.1, 0.1),
    "marrow": (0.07, 0.05, 0.07),
    "cartilage": (0.05, 0.06, 0.08),
    "meniscus": (0.15, 0.15, 0.1),
    "muscle": (0.07, 0.06, 0.08),
    "fat": (0.05, 0.06, 0.06),
    "tendon": (0.15, 0.2, 0.2),
    "fluid": (0.03, 0.06, 0.06),
    "skin": (0.1, 0.15, 0.15),
    "vessel": (0.1, 0.1, 0.1),
}


def simulate_knee(
    seed: int,
    size: tuple[int, ...] = (256, 256),
    coils: int | CoilArray = 8,
    contrast: str | None = None,
    snr: float | None = None,
    *,
    partial_fourier: float = 1.0,
) -> SimulatedScan:
    """A knee of a random subject in a fast spin echo scan: one sagittal slice, or a volume.

    Args:
        seed: the same seed and arguments give the same scan, bit for bit, on one machine with
            one number of threads; another contrast shows the same knee in the same coils.
        size: ``(y, x)``, a thin sagittal slice at a random position through the joint, or
            ``(z, y, x)``, a volume of sagittal slices encoded along all three axes. z runs from
            the patient's right to left, y from head to foot, x from the front to the back.
        coils: of a knee coil around the leg, or an array whose rings run along y, and whose
            semi-axes are those along z and x.
        contrast: "PD" or "PDFS", proton density without and with fat suppression; by default
            drawn.
        snr: of the image, see :func:`physics.acquisition.acquire`; by default drawn between 33
            and 500.
        partial_fourier: share of the last axis of k-space that is acquired.

    Returns:
        The scan, its labels an index into ``KNEE_TISSUES``. ``parameters`` holds the sequence's
        times [ms], ``voxel_size`` [mm] along space, ``side``, ``flexion`` [degrees] and
        ``fat_signal``, the share of their signal that fat and marrow keep, ``tissue_t1``,
        ``tissue_t2`` [ms] and ``tissue_proton_density`` of all tissues; for a slice its
        ``slice_position``, how far lateral of the middle of the joint it lies [mm].

    Raises:
        ValueError: for a contrast that is not known, a size below 32 along y or x or below 8
            along z, no coils, an SNR that is not positive, partial Fourier outside (0.5, 1].
    """
    _check(size, contrast)
    check_acquisition(size, snr, partial_fourier)
    streams = random_streams(seed, _STREAMS)
    names = list(KNEE_SEQUENCES)
    drawn = names[int(uniform(0, len(names), streams["contrast"]))]
    contrast = drawn if contrast is None else contrast
    axes, placement = _place(size, streams["place"])
    array = coils if isinstance(coils, CoilArray) else _knee_array(coils, streams["coils"])
    generator = streams[contrast]
    level = draw_snr(snr, generator)
    tissues = _Tissues.draw(streams["tissues"])
    protocol = _draw_protocol(contrast, tissues, generator)
    anatomy = streams["anatomy"]
    magnetization, labels = _scan(axes, placement, tissues, protocol, anatomy, generator)
    around = axes[0] - placement.centre[0], axes[1], axes[2]
    maps, shading = _leg_maps(around, array, streams["coils"])
    magnetization *= shading.pow_(uniform(0.1, 1.0, generator))
    magnetization *= _excitation(axes, generator)
    if len(size) == 2:
        magnetization, labels, maps = magnetization[0], labels[0], maps[:, 0]
    encoded = tuple(range(-len(size), 0))
    image = normalise(magnetization, labels > 0)
    kspace = acquire(image, maps, labels > 0, level, generator, encoded, partial_fourier)
    parameters: dict[str, Parameter] = {
        **{"anatomy": "knee", "seed": seed, "contrast": contrast},
        **{"sequence": type(protocol.sequence).__name__, **asdict(protocol.sequence)},
        **{"voxel_size": _spacings(axes)[-len(size) :], "snr": level},
        **{"side": "left" if placement.left else "right", "fat_signal": protocol.fat_signal},
        **{"flexion": math.degrees(placement.flexion), **tissues.parameters()},
    }
    if len(size) == 2:
        parameters["slice_position"] = (-1 if placement.left else 1) * placement.centre[0]
    return SimulatedScan(kspace, image, maps[None], labels, _TISSUES, parameters, encoded)


@dataclass(frozen=True)
class _Tissues:
    """What one subject's tissues are like, in any sequence."""

    properties: Tensor  # t1, t2 [ms] and proton density, (3, tissues)
    texture: tuple[Waves, ...]
    strength: Tensor  # of the texture relative to the signal, (scales, tissues)

    @classmethod
    def draw(cls, generator: torch.Generator) -> "_Tissues":
        spread = torch.exp(0.05 * torch.randn(3, len(KNEE_TISSUES), generator=generator))
        nominal = torch.tensor([(t.t1, t.t2, t.proton_density) for t in KNEE_TISSUES]).T
        strength = torch.tensor([_TEXTURE[name] for name in _TISSUES]).T
        amount = torch.tensor([[uniform(0.4, 1.6, generator)] for _ in _TEXTURE_SCALES])
        texture = tuple(Waves.draw(*scale, generator, 48) for scale in _TEXTURE_SCALES)
        return cls(spread * nominal, texture, amount * strength)

    def parameters(self) -> dict[str, Parameter]:
        names = "tissue_t1", "tissue_t2", "tissue_proton_density"
        return dict(zip(names, self.properties.tolist(), strict=True))


@dataclass(frozen=True)
class _Protocol:
    """A sequence as one site runs it, and the signal of the tissues in it."""

    sequence: SpinEcho
    fat_signal: float  # the share that fat and marrow keep
    signal: Tensor  # (tissues,), fat and marrow not yet suppressed
    uneven: Waves  # how the suppression varies


def _check(size: Items[int], contrast: str | None) -> None:
    flat = len(size) == 2 and min(size) >= _SMALLEST
    if not flat and not (len(size) == 3 and min(size[1:]) >= _SMALLEST and size[0] >= _FEWEST):
        raise ValueError(
            f"size must be (y, x) of at least {_SMALLEST} each, or (z, y, x) with at least "
            f"{_FEWEST} slices, got {tuple(size)}"
        )
    if contrast is not None and contrast not in KNEE_SEQUENCES:
        raise ValueError(f"contrast must be one of {', '.join(KNEE_SEQUENCES)}, got {contrast!r}")


def _place(size: Items[int], generator: torch.Generator) -> tuple[Axes, KneePlacement]:
    """Where the knee lies, and the axes [mm] of a field of view that holds the leg."""
    overall = uniform(0.92, 1.08, generator)
    scale = [overall * uniform(0.97, 1.03, generator) for _ in range(3)]
    turn = [uniform(-limit, limit, generator) for limit in (0.05, 0.08, 0.05)]
    fat = 2.5 * 5.5 ** uniform(0, 1, generator)
    flexion = uniform(-0.03, 0.12, generator)
    left = uniform(0, 1, generator) < 0.5
    position, height = uniform(-32.0, 32.0, generator), uniform(-8.0, 8.0, generator)
    loose = [uniform(1.0, 1.1, generator) for _ in range(2)]
    depth = loose[0] * scale[2] * (122 + 1.8 * fat)
    width = loose[1] * scale[0] * (110 + 2.2 * fat)
    step = depth / size[-1]
    y, x = ((torch.arange(n) - n // 2) * step for n in size[-2:])
    forward = scale[2] * (2 - 0.18 * fat)
    if len(size) == 2:
        z, aside = torch.zeros(1), position * scale[0]
    else:
        z, aside = (torch.arange(size[0]) - size[0] // 2) * (width / size[0]), 0.0
    placement = KneePlacement(
        (aside, height, forward),
        (turn[0], turn[1], turn[2]),
        (scale[0], scale[1], scale[2]),
        flexion,
        fat,
        left,
    )
    return (z, y, x), placement


def _spacings(axes: Axes) -> list[float]:
    return [(axis[1] - axis[0]).item() if len(axis) > 1 else 0.0 for axis in axes]


def _knee_array(coils: int, generator: torch.Generator) -> CoilArray:
    rings = 2 if coils >= 8 and uniform(0, 1, generator) < 0.7 else 1
    semi_axes = uniform(85.0, 105.0, generator), uniform(85.0, 105.0, generator)
    return CoilArray(coils, rings, semi_axes, uniform(40.0, 60.0, generator), 75.0, jitter=0.4)


def _leg_maps(axes: Axes, array: CoilArray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coil maps ``(coils, z, y, x)`` of an array whose rings run along the leg, and shading."""
    z, y, x = axes
    maps, shading = coil_maps((y, z, x), array, generator)
    return maps.transpose(1, 2).contiguous(), shading.transpose(0, 1).contiguous()


def _draw_protocol(contrast: str, tissues: _Tissues, generator: torch.Generator) -> _Protocol:
    nominal = KNEE_SEQUENCES[contrast]
    times = {name: t * uniform(0.85, 1.15, generator) for name, t in asdict(nominal).items()}
    sequence = replace(nominal, **times)
    signal = sequence.signal(*tissues.properties)
    signal[TISSUE_INDEX["vessel"]] *= uniform(0.0, 0.3, generator)  # blood flows out of the slice
    kept = uniform(0.015, 0.05, generator) if contrast == "PDFS" else 1.0
    return _Protocol(sequence, kept, signal, Waves.draw(80.0, 250.0, generator, 16))


def _scan(
    axes: Axes,
    placement: KneePlacement,
    tissues: _Tissues,
    protocol: _Protocol,
    anatomy: torch.Generator,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Band-limited signal complex64 and labels uint8 ``(z, y, x)``, painted slab by slab."""
    factors = _oversampling(axes)
    fine = [refine(axis, factor) for axis, factor in zip(axes, factors, strict=True)]
    first = [first_on_fine(len(axis), factor) for axis, factor in zip(axes, factors, strict=True)]
    subject, band = (int(torch.randint(2**62, (), generator=g)) for g in (anatomy, generator))
    planes, labels = [], []
    thick = max(1, _SLAB // (len(fine[1]) * len(fine[2])))
    for start in range(0, len(fine[0]), thick):
        slab = (fine[0][start : start + thick], fine[1], fine[2])
        fractions = knee_fractions(slab, torch.Generator().manual_seed(subject), placement)
        signal = _signal(fractions, slab, tissues, protocol)
        size = [len(axis) for axis in axes[1:]]
        planes.append(band_limit(signal, size, torch.Generator().manual_seed(band)))
        kept = slice((first[0] - start) % factors[0], None, factors[0])
        pixels = fractions[:, kept, first[1] :: factors[1], first[2] :: factors[2]]
        labels.append(prevailing(pixels.contiguous()))
    image = torch.cat(planes)
    if factors[0] > 1:
        along = torch.Generator().manual_seed(band)
        image = band_limit(image.movedim(0, -1), [len(axes[0])], along).movedim(-1, 0).contiguous()
    return image, torch.cat(labels)


def _oversampling(axes: Axes) -> tuple[int, int, int]:
    """How many points of the painted grid there are to one of the scan, along z, y and x."""
    across, along, _ = _spacings(axes)
    return 1 if len(axes[0]) == 1 else max(2, round(across / along)), 2, 2


def _signal(fractions: Tensor, axes: Axes, tissues: _Tissues, protocol: _Protocol) -> Tensor:
    """Signal float32 ``(z, y, x)`` of tissue fractions, with texture and suppression of fat."""
    share = torch.ones(len(KNEE_TISSUES))
    share[[TISSUE_INDEX[name] for name in _FATTY]] = protocol.fat_signal
    signal = share * protocol.signal
    fatty = torch.where(share < 1, signal, 0)
    weights = torch.stack((signal - fatty, fatty, *(tissues.strength * signal)))
    image, residue, *amounts = torch.tensordot(weights, fractions, 1)
    if protocol.fat_signal < 1:
        image += residue.mul_((0.2 * protocol.uneven(axes)).exp_())
    for waves, amount in zip(tissues.texture, amounts, strict=True):
        image += amount.mul_(waves(axes))
    return image


def _excitation(axes: Axes, generator: torch.Generator) -> Tensor:
    """Uneven transmit field times phase, complex64 ``(z, y, x)``; the coil ends along the leg."""
    phase = background_phase(axes, generator)
    reach = uniform(66.0, 78.0, generator)
    ends = torch.sigmoid((reach - axes[1].abs()) / 3.5)[:, None]
    return torch.polar(transmit_field(axes, generator) * ends, phase)
