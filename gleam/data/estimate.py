"""Coil maps of a whole scan, estimated from the samples in the centre of its k-space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from physics.calibration import MAP_METHODS
from physics.coils import fill_espirit
from physics.fourier import fft
from physics.masks import calibration_lines, calibration_size
from physics.support import calibration_block

SMALLEST_CALIBRATION = 8  # samples along every axis
ESPIRIT_CROP = 0.8


@torch.no_grad()
def estimate_maps(
    kspace: Tensor,
    method: str = "espirit",
    calibration: int = 24,
    sets: int = 1,
    crop: float | Literal["auto"] | None = None,
    *,
    volume: bool = False,
    dynamic: bool = False,
) -> Tensor:
    """Coil maps of all slices of a scan, one by one or as a volume.

    The calibration block shrinks to what is sampled, down to 8 samples along every axis. A volume
    has a block along the slices too: its maps are smooth and their phase is consistent along the
    slices. The maps of a dynamic scan come from its average over time, of each sample over the
    frames that have it.

    Args:
        kspace: complex64 ``(slices, coils, y, x)``, or ``(slices, coils, t, y, x)`` if dynamic;
            the centred FFT along y and x.
        method: a name in :data:`physics.calibration.MAP_METHODS`.
        calibration: largest extent of the calibration block along every axis.
        sets: map sets; methods other than ESPIRiT have one.
        crop: where maps are zero, see :class:`physics.calibration.MapMethod`; None: below an
            eigenvalue of 0.8 for ESPIRiT, auto for the other methods.
        volume: estimate in 3D.
        dynamic: whether there is an axis of time.

    Returns:
        complex64 ``(slices, sets, coils, y, x)``, or ``(slices, sets, coils, 1, y, x)`` if dynamic.

    Raises:
        ValueError: if the method is unknown, shapes do not fit, or k-space has no sampled centre;
            names the slice.
    """
    if method not in MAP_METHODS:
        raise ValueError(f"coil maps: choose a method from {sorted(MAP_METHODS)}, got {method!r}")
    if kspace.ndim != 4 + dynamic:
        axes = "(slices, coils, t, y, x)" if dynamic else "(slices, coils, y, x)"
        raise ValueError(f"k-space must be {axes}, got shape {tuple(kspace.shape)}")
    if dynamic:
        kspace = _average(kspace)
    if crop is None:
        crop = ESPIRIT_CROP if method == "espirit" else "auto"

    def estimate(part: Tensor, where: str) -> Tensor:
        block = _sampled_block(part, calibration, where)
        try:
            return MAP_METHODS[method](part, calibration=block, sets=sets, crop=crop)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error

    if volume:
        maps = estimate(_transformed(kspace)[None], "")[0].movedim(2, 0)
    else:
        maps = torch.cat([estimate(kspace[n, None], f"slice {n}: ") for n in range(len(kspace))])
    return (maps.unsqueeze(-3) if dynamic else maps).contiguous()


@torch.no_grad()
def fill_volume_maps(
    maps: Tensor, centre: Tensor, calibration: int = 24, crop: float | None = None
) -> None:
    """ESPIRiT maps of a volume, as :func:`estimate_maps` makes them, written where they are to be.

    Of the k-space it needs the centre only, and it holds little beside the maps.

    Args:
        maps: to be written, complex64 ``(sets, coils, slices, y, x)``.
        centre: complex64 ``(slices, coils, y, x)``, at least ``calibration`` samples, or all
            there are, along y and x.
        calibration: as for :func:`estimate_maps`.
        crop: likewise, a number.

    Raises:
        ValueError: if k-space has no sampled centre.
    """
    whole = _transformed(centre)[None]
    block = calibration_block(whole, _sampled_block(whole, calibration, ""))[0]
    fill_espirit(maps, block, crop=ESPIRIT_CROP if crop is None else crop)


def calibration_extent(calibration: int | float, plane: Sequence[int]) -> int:
    """Side of the block that maps are estimated from: lines, or a share of them, if there are.

    Args:
        calibration: as :func:`physics.masks.calibration_lines` takes it.
        plane: sizes along y and x.
    """
    whole = isinstance(calibration, int)
    return min(
        (calibration_lines(min(calibration, n) if whole else calibration, n) for n in plane),
        default=0,
    )


def _transformed(kspace: Tensor) -> Tensor:
    """K-space ``(coils, slices, y, x)`` along the slices too, coil by coil to save memory."""
    whole = kspace.new_empty(kspace.shape[1], len(kspace), *kspace.shape[2:])
    for coil, samples in enumerate(whole):
        samples.copy_(fft(kspace[:, coil], (0,)))
    return whole


def _average(kspace: Tensor) -> Tensor:
    """Mean over time of every sample ``(slices, coils, y, x)``, over the frames that have it."""
    frames = (kspace != 0).any(1, keepdim=True).sum(2).clamp(min=1)
    return kspace.sum(2) / frames


def _sampled_block(kspace: Tensor, largest: int, where: str) -> tuple[int, ...]:
    """Extents of the calibration block of ``(1, coils, *space)``: sampled throughout."""
    block, sizes = kspace[0], [min(largest, n) for n in kspace.shape[2:]]
    for axis, size in enumerate(sizes, start=1):
        block = block.narrow(axis, block.shape[axis] // 2 - size // 2, size)
    found = calibration_size((block != 0).any(0), sizes)
    _check_block(found, kspace.shape[2:], where)
    return found


def _check_block(found: Sequence[int], space: Sequence[int], where: str) -> None:
    if min(found) < SMALLEST_CALIBRATION:
        raise ValueError(
            f"{where}coil maps can be estimated only from a fully sampled centre of at least "
            f"{SMALLEST_CALIBRATION} samples along every axis, k-space {tuple(space)} has "
            f"{tuple(found)}; give coil maps, or a calibration of at least {SMALLEST_CALIBRATION}"
        )
