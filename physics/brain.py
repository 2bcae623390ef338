"""Simulated multi-coil brain scans: head, pulse sequence, phase, coils and noise from one seed."""

import math
import numbers
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from physics.acquisition import (
    Parameter,
    SimulatedScan,
    acquire,
    background_phase,
    check_acquisition,
    draw_snr,
    first_on_fine,
    normalise,
    prevailing,
    random_streams,
    refine,
    transmit_field,
)
from physics.brain_anatomy import Tile
from physics.brain_lesions import Lesion, draw_lesions
from physics.brain_protocol import Cover, Protocol
from physics.brain_subject import Subject
from physics.receive import CoilArray, coil_maps
from physics.sequences import BRAIN_SEQUENCES, BRAIN_TISSUES, Sequence, SpoiledGradientEcho
from physics.texture import Waves, uniform

_SMALLEST = 32
_OVERSAMPLING = 2
_TISSUES = tuple(tissue.name for tissue in BRAIN_TISSUES)
_STREAMS = ("head", "coils", "lesions", "contrast", *BRAIN_SEQUENCES)


def simulate_brain(
    seed: int,
    size: Items[int] = (256, 256),
    coils: int | CoilArray = 8,
    contrast: str | None = None,
    snr: float | None = None,
    *,
    lesions: int | Items[Lesion] = 0,
    partial_fourier: float = 1.0,
) -> SimulatedScan:
    """A brain of a random subject, position, protocol and coil array.

    Args:
        seed: the same seed and arguments give the same scan, bit for bit, on one machine with
            one number of threads; the head does not depend on the other arguments.
        size: ``(y, x)`` for an axial slice, ``(z, y, x)`` for a volume of cubic voxels around
            it, encoded along all three axes: the slice is one of its planes.
        coils: the coil array, or the number of coils of a random one.
        contrast: one of ``BRAIN_SEQUENCES``; by default drawn.
        snr: of the image, see :func:`physics.acquisition.acquire`; by default drawn between 33
            and 500, ``math.inf`` for no noise.
        lesions: these, or how many to draw within the white matter of the scan. They do not
            appear in the labels, which stay those of the healthy head, but in their own mask.
        partial_fourier: share of the last axis that is acquired, above one half.

    Raises:
        ValueError: for a contrast that is not known, a size below 32, no coils, a negative
            number of lesions, more than none where the scan shows no white matter, an SNR that
            is not positive, or a partial Fourier share that is not above one half.
        TypeError: if the lesions are neither a number nor a sequence of :class:`Lesion`.
    """
    if contrast is None:
        drawn = uniform(0, len(BRAIN_SEQUENCES), random_streams(seed, _STREAMS)["contrast"])
        contrast = list(BRAIN_SEQUENCES)[int(drawn)]
    scans = simulate_brain_sequences(
        seed, size, coils, (contrast,), snr, lesions=lesions, partial_fourier=partial_fourier
    )
    return scans[contrast]


def simulate_brain_sequences(
    seed: int,
    size: Items[int] = (256, 256),
    coils: int | CoilArray = 8,
    contrasts: Items[str] = tuple(BRAIN_SEQUENCES),
    snr: float | None = None,
    *,
    lesions: int | Items[Lesion] = 0,
    partial_fourier: float = 1.0,
) -> dict[str, SimulatedScan]:
    """Co-registered scans of one head: each is what :func:`simulate_brain` makes of its contrast.

    Anatomy, lesions and coil maps are made once; labels, maps and lesion masks share their memory.

    Args:
        seed: as for :func:`simulate_brain`, like all that is not listed here.
        size: of all scans.
        coils: of all scans.
        contrasts: names out of ``BRAIN_SEQUENCES``.
        snr: of all scans, or drawn for each.
        lesions: of all scans.
        partial_fourier: of all scans.

    Returns:
        The scans by contrast.

    Raises:
        ValueError: as for :func:`simulate_brain`.
        TypeError: as there, and if the contrasts are a single string.
    """
    _check(size, contrasts, lesions)
    check_acquisition(size, snr, partial_fourier)
    streams = random_streams(seed, _STREAMS)
    array = _array(coils, streams["coils"])
    subject = Subject.draw(size, streams["head"])
    protocols = {name: Protocol.draw(name, subject.tissues, streams[name]) for name in contrasts}
    ripples = Waves.draw(8.0, 40.0, streams["lesions"], 48)  # the same for given lesions
    if not isinstance(lesions, Items):
        white = subject.tissue("white")
        lesions = draw_lesions(subject.head, subject.axes, white, int(lesions), streams["lesions"])
    anatomy = _see(subject, protocols, lesions, ripples)
    z, y, x = subject.axes
    _, down, aside = subject.placement.centre
    around = (z - z[len(z) // 2], y - down, x - aside)
    maps, shading = coil_maps(around, array, streams["coils"])
    maps, labels, mask = (
        part.reshape(*part.shape[:-3], *size) for part in (maps, anatomy.labels, anatomy.lesions)
    )
    shared: dict[str, Parameter] = {
        **{"anatomy": "brain", "seed": seed, "partial_fourier": partial_fourier},
        **subject.parameters(size),
        "lesions": [lesion.parameters() for lesion in lesions],
    }
    scans, axes = {}, tuple(range(-len(size), 0))
    for name, protocol in protocols.items():
        generator = streams[name]
        level = draw_snr(snr, generator)
        # Scanners correct for the shading, more or less.
        image = anatomy.images.pop(name) * shading ** uniform(0.1, 1.0, generator)
        image = _image(image, anatomy.labels > 0, subject, protocol, generator).reshape(*size)
        kspace = acquire(image, maps, labels > 0, level, generator, axes, partial_fourier)
        parameters = {**shared, "contrast": name, **protocol.parameters(), "snr": level}
        shown = mask if lesions else None
        scans[name] = SimulatedScan(
            kspace, image, maps[None], labels, _TISSUES, parameters, axes, shown
        )
    return scans


@dataclass(frozen=True)
class _Anatomy:
    """What the planes of a head show, ``(z, y, x)``."""

    images: dict[str, Tensor]  # magnetization by contrast, float32
    labels: Tensor
    lesions: Tensor


def _see(
    subject: Subject, protocols: dict[str, Protocol], lesions: Items[Lesion], ripples: Waves
) -> _Anatomy:
    """Paint plane after plane on a finer grid, and keep what the scanner's band lets through."""
    shape = [len(axis) for axis in subject.axes]
    z, y, x = fine = [refine(axis, min(len(axis), _OVERSAMPLING)) for axis in subject.axes]
    bands = {
        name: [
            protocol.band.matrix(len(points), count)
            for points, count in zip(fine, shape, strict=True)
        ]
        for name, protocol in protocols.items()
    }
    labels, mask = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.bool)
    planes = {name: torch.zeros(len(z), *shape[1:]) for name in protocols}
    for plane in range(len(z)):
        tile = subject.head.paint((z[plane : plane + 1], y, x))
        if tile is None:
            continue
        texture = torch.stack([tile.see(waves) for waves in subject.texture])
        found = [(lesion, lesion.cover(tile, ripples)) for lesion in lesions]
        covers = [(lesion, cover) for lesion, cover in found if cover is not None]
        for name, protocol in protocols.items():
            _, rows, columns = bands[name]
            image = protocol.magnetization(tile, texture, covers)
            image = image @ columns[:, tile.columns].T
            torch.matmul(rows[:, tile.rows], image, out=planes[name][plane])
        _mark(labels, mask, plane, tile, covers)
    images = {name: torch.tensordot(bands[name][0], planes.pop(name), 1) for name in protocols}
    return _Anatomy(images, labels, mask)


def _image(
    signal: Tensor,
    body: Tensor,
    subject: Subject,
    protocol: Protocol,
    generator: torch.Generator,
) -> Tensor:
    """Signal float32 ``(z, y, x)`` with uneven excitation and phase, normalised, complex64."""
    signal = normalise(signal.mul_(transmit_field(subject.axes, generator)), body)
    return torch.polar(signal, _phase(subject, protocol.sequence, generator))


def _mark(
    labels: Tensor, mask: Tensor, plane: int, tile: Tile, covers: Items[tuple[Lesion, Cover]]
) -> None:
    """Write the labels and the lesions of a fine plane, if voxels lie in it."""
    factor = [min(count, _OVERSAMPLING) for count in labels.shape]
    first = [first_on_fine(n, f) for n, f in zip(labels.shape, factor, strict=True)]
    voxel, between = divmod(plane - first[0], factor[0])
    if between:
        return
    points = (..., slice(first[1], None, factor[1]), slice(first[2], None, factor[2]))
    own = prevailing(tile.canvas.fractions[points].contiguous())
    row, column = tile.rows.start // factor[1], tile.columns.start // factor[2]
    index = (voxel, slice(row, row + own.shape[0]), slice(column, column + own.shape[1]))
    labels[index] = own
    if covers:
        covered = torch.zeros(tile.depth.shape, dtype=torch.bool)
        for _, (part, share) in covers:
            covered[tile.index(part)] |= share > 0.5
        mask[index] = covered[points]


def _check(size: Items[int], contrasts: Items[str], lesions: int | Items[Lesion]) -> None:
    if len(size) not in (2, 3) or min(size) < _SMALLEST:
        raise ValueError(
            f"size must be (y, x) or (z, y, x), all at least {_SMALLEST}, got {tuple(size)}"
        )
    if isinstance(contrasts, str):
        raise TypeError(f"contrasts must be a sequence of names, got the string {contrasts!r}")
    for contrast in contrasts:
        if contrast not in BRAIN_SEQUENCES:
            raise ValueError(
                f"contrast must be one of {', '.join(BRAIN_SEQUENCES)}, got {contrast!r}"
            )
    if isinstance(lesions, numbers.Integral):
        if lesions < 0:
            raise ValueError(f"the number of lesions must not be negative, got {lesions}")
    elif not isinstance(lesions, Items) or not all(isinstance(item, Lesion) for item in lesions):
        raise TypeError(f"lesions must be a whole number or a sequence of Lesion, got {lesions!r}")


def _array(coils: int | CoilArray, generator: torch.Generator) -> CoilArray:
    """The array asked for, or a random one around the head, of one ring or two."""
    if isinstance(coils, CoilArray):
        return coils
    distance, radius = uniform(115.0, 150.0, generator), uniform(45.0, 90.0, generator)
    rings = 2 if uniform(0, 1, generator) < 0.7 and coils >= 8 else 1
    return CoilArray(coils, rings, (distance, distance), radius)


def _phase(subject: Subject, sequence: Sequence, generator: torch.Generator) -> Tensor:
    """Phase [radians], float32 ``(z, y, x)``: a smooth field, and the sinuses' distortion."""
    amount = 2.0 if isinstance(sequence, SpoiledGradientEcho) else 1.0
    phase = background_phase(subject.axes, generator, amount)
    # Air below the frontal lobe distorts the field; it lies in front, which may be sideways.
    centre, angle = subject.placement.centre, subject.placement.angle
    z, y, x = (axis - middle for axis, middle in zip(subject.axes, centre, strict=True))
    forward = -math.cos(angle) * y[:, None] + math.sin(angle) * x
    across = math.sin(angle) * y[:, None] + math.cos(angle) * x
    beside = ((forward - 65) / 25).square() + (across / 30).square()
    above = ((z + 25) / 25).square()[:, None, None]
    strength = amount * uniform(-2.0, 2.0, generator)
    return phase.addcmul_(torch.exp(-beside), torch.exp(-above), value=strength)
