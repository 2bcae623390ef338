"""From the signal of an anatomy to multi-coil k-space: what all simulated scans share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physics.fourier import fft
from physics.lines import acquired_lines
from physics.receive import add_noise, noise_correlation
from physics.texture import Axes, random_waves, uniform

Parameter = int | float | str | list[float] | list[dict[str, float | list[float]]]


@dataclass(frozen=True)
class SimulatedScan:
    """One fully sampled scan and the truth behind it; space is ``(y, x)``, ``(z, y, x)`` or
    ``(t, y, x)``.

    Attributes:
        kspace: complex64 ``(coils, *space)``, ``fft(maps * image)`` over ``axes`` plus noise.
        image: complex64 ``space``, noiseless; the 95th percentile of its magnitude over the body
            (labels above 0) is 1.
        maps: complex64 ``(1, coils, *space)``, size 1 on t; their sum of squares over the coils
            is 1 everywhere, in air too.
        labels: uint8 ``space``, the prevailing tissue, an index into ``tissues``.
        tissues: names of the labels; the first is air.
        parameters: how the scan was made, in plain Python values: anatomy, seed, contrast, the
            sequence's parameters [ms, degrees], ``voxel_size`` [mm] along the spatial axes of
            space, ``snr``.
        axes: the encoded axes: all of space, or y and x of ``(t, y, x)``.
        lesions: bool ``space``, or None where there are none.
    """

    kspace: Tensor
    image: Tensor
    maps: Tensor
    labels: Tensor
    tissues: tuple[str, ...]
    parameters: dict[str, Parameter] = field(default_factory=dict)
    axes: tuple[int, ...] = (-2, -1)
    lesions: Tensor | None = None


def random_streams(seed: int, names: Sequence[str]) -> dict[str, torch.Generator]:
    """Independent sources of randomness, so that a subject does not depend on what is asked of it.

    A name added at the end leaves the others as they are.
    """
    seeds = torch.randint(2**62, (len(names),), generator=torch.Generator().manual_seed(seed))
    return {
        name: torch.Generator().manual_seed(number)
        for name, number in zip(names, seeds.tolist(), strict=True)
    }


def check_acquisition(size: Sequence[int], snr: float | None, partial_fourier: float) -> None:
    """Refuse what :func:`draw_snr` and :func:`acquire` cannot use after the costly painting.

    Raises:
        ValueError: if the SNR is not positive, or partial Fourier is not above 0.5 and at most 1,
            or loses the central column.
    """
    acquired_lines(size[-1], partial_fourier)
    if snr is not None and not snr > 0:
        raise ValueError(f"the SNR must be positive (math.inf for no noise), got {snr}")


def draw_snr(snr: float | None, generator: torch.Generator) -> float:
    """The SNR asked for, or one drawn between 33 and 500; always takes one number."""
    drawn = 500 / 15 ** uniform(0, 1, generator)
    return drawn if snr is None else snr


def acquire(
    image: Tensor,
    maps: Tensor,
    body: Tensor,
    snr: float,
    generator: torch.Generator,
    axes: Sequence[int] = (-2, -1),
    partial_fourier: float = 1.0,
) -> Tensor:
    """Noisy k-space of a normalised image, noise correlated between coils that see one body.

    Args:
        image: complex64 ``space``; the 95th percentile of its magnitude over the body is 1.
        maps: complex64 ``(coils, *space)``, size 1 on axes along which they do not vary.
        body: bool ``space`` of the maps, where there is tissue.
        snr: that percentile, divided by the standard deviation of the real part (and of the
            imaginary part) of the noise in each coil at each position; the FFT is orthonormal,
            so it is the same in coil images and in k-space.
        generator: source of the randomness.
        axes: the encoded axes.
        partial_fourier: share of the last axis that is acquired, above one half; the rest, at
            its end, is zero.

    Returns:
        complex64 ``(coils, *space)``.

    Raises:
        ValueError: if the share is not above 0.5 and at most 1, or loses the central column.
    """
    acquired = acquired_lines(image.shape[-1], partial_fourier)
    correlation = noise_correlation(maps, body, generator)
    kspace = torch.empty(len(maps), *image.shape, dtype=torch.complex64)
    for coil, sensitivity in enumerate(maps):  # one at a time: a volume's would fill the memory
        kspace[coil] = fft(sensitivity * image, axes)
    add_noise(kspace, 1 / snr, generator, correlation)
    kspace[..., acquired:] = 0
    return kspace


def refine(axis: Tensor, factor: int) -> Tensor:
    """The same stretch of an evenly spaced axis with more points; the middle one stays.

    Args:
        axis: coordinates [mm], float32 ``(n,)``; n above 1 unless the factor is 1.
        factor: how many times more.

    Returns:
        float32 ``(factor * n,)``, where index ``factor * n // 2`` is index ``n // 2`` of the axis.
    """
    if factor == 1:
        return axis
    count = len(axis)
    step = (axis[1] - axis[0]) / factor
    return axis[count // 2] + (torch.arange(factor * count) - factor * count // 2) * step


def first_on_fine(count: int, factor: int) -> int:
    """The index, on an axis of ``count`` points that :func:`refine` made finer, of its first."""
    return factor * count // 2 - factor * (count // 2)


def prevailing(fractions: Tensor) -> Tensor:
    """The tissue with the largest share: fractions ``(tissues, *space)`` to uint8 ``(*space)``.

    The first of equals; several times faster than ``argmax`` across a first axis.
    """
    labels = torch.zeros(fractions.shape[1:], dtype=torch.uint8)
    most = fractions[0].clone()
    for tissue, share in enumerate(fractions[1:], 1):
        labels.masked_fill_(share > most, tissue)
        torch.maximum(most, share, out=most)
    return labels


@dataclass(frozen=True)
class Band:
    """What a scanner's finite k-space keeps of a finer image: sharp up to its band, then nothing.

    Attributes:
        edge: where half is kept, as a share of the highest frequency; may lie inside k-space, as
            after interpolation.
        width: of its roll-off, as a share too.
        decay: exponent of the fall up to the highest frequency, as the signal fades along an
            echo train.
    """

    edge: float
    width: float
    decay: float = 0.0

    @classmethod
    def draw(cls, generator: torch.Generator) -> "Band":
        """A sharp or a soft band, inside or outside k-space."""
        edge, width = uniform(0.7, 1.5, generator), uniform(0.02, 0.15, generator)
        return cls(edge, width, uniform(0.0, 0.8, generator))

    def matrix(self, fine: int, count: int) -> Tensor:
        """From ``fine`` points along an axis to ``count``, float32 ``(count, fine)``.

        Both have the same field of view, and the same point at index ``n // 2``.

        Raises:
            ValueError: if ``fine`` is not a multiple of ``count``.
        """
        if fine % count:
            raise ValueError(f"the fine grid must be a multiple of {count} points, got {fine}")
        frequency = torch.arange(count // 2 + 1) / (count / 2)
        kept = torch.sigmoid((self.edge - frequency) / self.width)
        kept *= torch.exp(-self.decay * frequency)
        if count % 2 == 0 and count < fine:
            kept[-1] /= 2  # k-space has this frequency once, its mirror image is outside
        kernel = torch.fft.irfft(
            torch.nn.functional.pad(kept, (0, fine // 2 + 1 - len(kept))), fine
        )
        to, since = torch.arange(count) - count // 2, torch.arange(fine) - fine // 2
        return kernel[(fine // count * to[:, None] - since) % fine]


def band_limit(fine: Tensor, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """A finer image as a scanner sees it, with the same random :class:`Band` on all axes.

    Args:
        fine: real or complex ``(*any, *space)``, each axis of space a multiple of its ``size``,
            with the same field of view and the same point at index ``n // 2``.
        size: of space, as many of the last axes.
        generator: draws the band.

    Returns:
        complex64 ``(*any, *size)``, in the units of ``fine``.

    Raises:
        ValueError: if an axis is not a multiple of its size.
    """
    band = Band.draw(generator)
    for axis, count in zip(range(-len(size), 0), size, strict=True):
        matrix = band.matrix(fine.shape[axis], count).to(fine.dtype)
        fine = torch.matmul(fine.movedim(axis, -1), matrix.T).movedim(-1, axis)
    return fine.to(torch.complex64)


def background_phase(axes: Axes, generator: torch.Generator, amount: float = 1.0) -> Tensor:
    """Slowly varying phase of the receive chain and the main field [radians].

    Args:
        axes: coordinates z, y, x [mm].
        generator: source of the randomness.
        amount: scales all but the linear part; gradient echoes show twice as much as spin echoes.

    Returns:
        float32 ``(z, y, x)``.
    """
    phase = amount * uniform(0.1, 0.8, generator) * random_waves(axes, 100.0, 300.0, generator)
    phase += amount * uniform(0.0, 0.05, generator) * random_waves(axes, 8.0, 40.0, generator)
    _, y, x = axes
    slope = [uniform(-0.02, 0.02, generator) for _ in range(2)]
    return phase + slope[0] * y[:, None] + slope[1] * x + uniform(0, 2 * math.pi, generator)


def transmit_field(axes: Axes, generator: torch.Generator) -> Tensor:
    """Relative strength of the transmit field, float32 ``(z, y, x)``, around 1."""
    return (1 + 0.1 * random_waves(axes, 150.0, 400.0, generator)).clamp_(min=0.5)


def normalise(image: Tensor, body: Tensor) -> Tensor:
    """The image divided by the 95th percentile of its magnitude over the body."""
    magnitudes = image[body.expand(image.shape)].abs()
    level = magnitudes.kthvalue(1 + round(0.95 * (len(magnitudes) - 1))).values
    return image / level
