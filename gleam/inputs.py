"""From whatever arrays a user holds to a checked batch: infer the mask, estimate the coil maps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gleam.batch import Batch
from gleam.data.estimate import estimate_maps
from gleam.data.examples import ENCODED
from physics.masks import compact

Array = Tensor | np.ndarray


def make_batch(
    kspace: Array,
    mask: Array | None = None,
    maps: Array | None = None,
    *,
    items: str = "slices",
    map_sets: int = 1,
    calibration: int = 24,
    method: str = "espirit",
    crop: float | Literal["auto"] | None = None,
    part: bool = False,
) -> Batch:
    """Check measurements and fill in what is not given.

    Args:
        kspace: complex ``(coils, *space)`` or ``(slices, coils, *space)``, encoded along y and x.
        mask: 1 where measured, ``space`` or ``(slices, *space)``, size 1 on axes along which it
            does not vary; by default where any coil's k-space differs from zero.
        maps: ``(coils, *space)`` or ``(maps, coils, *space)``, with a leading slice axis if
            ``kspace`` has one, of size 1 on t; by default estimated from the sampled centre.
        items: space is ``(y, x)`` for "slices" and "frames", ``(z, y, x)`` for "volumes" and
            ``(t, y, x)`` for "cines".
        map_sets: sets to estimate.
        calibration: largest side of the block that they are estimated from.
        method: to estimate them with, see :func:`gleam.data.estimate.estimate_maps`.
        crop: likewise.
        part: take k-space without signal or samples, as a part of a volume may be.

    Returns:
        A batch, one image a slice, not normalised.

    Raises:
        TypeError: if k-space or maps are not complex, or the mask is.
        ValueError: says what must hold, what came and what to do.
    """
    ndim = 3 if items in ("volumes", "cines") else 2
    has_slices = np.ndim(kspace) == ndim + 2
    check_axes(kspace, ndim)
    measured = _kspace(kspace, ndim, part)
    space = tuple(measured.shape[2:])
    sampled = _mask(mask, measured, space, part)
    measured = measured * sampled
    dynamic = items == "cines"
    if maps is None:
        coils = _estimate_maps(measured, items, method, calibration, map_sets, crop)
    else:
        coils = _maps(maps, measured[:, :, :1] if dynamic else measured, ndim, has_slices)
    return Batch(measured, sampled, coils, axes=ENCODED)


def to_tensor(array: Array, device: torch.device | None = None) -> Tensor:
    """A tensor of what may be a flipped, read-only, memory-mapped or big-endian array."""
    if isinstance(array, np.ndarray):
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    return torch.as_tensor(array, device=device)


def check_axes(kspace: Array, ndim: int) -> None:
    """Refuse what is no k-space of ``ndim`` axes, before anything of it is read.

    Raises:
        TypeError: if it is not complex.
        ValueError: if it has another number of axes.
    """
    real = not kspace.is_complex() if isinstance(kspace, Tensor) else not np.iscomplexobj(kspace)
    if real:
        raise TypeError(f"k-space must be complex, got {kspace.dtype}")
    if kspace.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"k-space must be (coils, *space) or (slices, coils, *space) with {ndim} axes of "
            f"space, got shape {tuple(kspace.shape)}"
        )


def _kspace(kspace: Array, ndim: int, part: bool) -> Tensor:
    data = to_tensor(kspace).to(torch.complex64)
    if not part and (data.numel() == 0 or not data.abs().any()):
        raise ValueError(f"k-space of shape {tuple(data.shape)} is empty: no sample is non-zero")
    if not torch.isfinite(torch.view_as_real(data)).all():
        raise ValueError("k-space holds NaN or infinity; replace or leave out those samples")
    return data if data.ndim == ndim + 2 else data[None]


def _mask(mask: Array | None, kspace: Tensor, space: tuple[int, ...], part: bool) -> Tensor:
    if mask is None:
        sampled = (kspace != 0).any(1)
    else:
        sampled = to_tensor(mask, kspace.device)
        if sampled.is_complex():
            raise TypeError(f"the mask must be real or boolean, got {sampled.dtype}")
        if not ((sampled == 0) | (sampled == 1)).all():
            raise ValueError("the mask must hold 0 and 1 only; pass mask != 0 if that is meant")
        sampled = sampled if sampled.ndim == len(space) + 1 else sampled[None]
        check_space("mask", tuple(sampled.shape), (len(kspace), *space), allow_one=True)
        sampled = sampled.expand(len(kspace), *sampled.shape[1:])
    if not part and not sampled.flatten(1).any(1).all():
        raise ValueError("the mask must sample something in every slice, got none; is it inverted?")
    constant = compact(sampled.to(torch.float32))
    return constant.expand(len(kspace), *constant.shape[1:])[:, None]


def _maps(maps: Array, kspace: Tensor, ndim: int, has_slices: bool) -> Tensor:
    coils = to_tensor(maps, kspace.device)
    if not coils.is_complex():
        raise TypeError(f"coil maps must be complex, got {coils.dtype}")
    without_sets = ndim + 1 + has_slices
    if coils.ndim not in (without_sets, without_sets + 1):
        raise ValueError(
            f"coil maps must be (coils, *space) or (maps, coils, *space), with a slice axis in "
            f"front if k-space has one; got shape {tuple(coils.shape)}"
        )
    coils = coils if has_slices else coils[None]
    coils = coils if coils.ndim == ndim + 3 else coils[:, None]
    found = (coils.shape[0], *coils.shape[2:])
    check_space("coil maps", found, tuple(kspace.shape), allow_one=False)
    if not torch.isfinite(torch.view_as_real(coils)).all():
        raise ValueError("coil maps hold NaN or infinity; set them to zero where unknown")
    return coils.to(torch.complex64)


def _estimate_maps(kspace: Tensor, items: str, *settings: Any) -> Tensor:
    if items != "volumes":
        return estimate_maps(kspace, *settings, dynamic=items == "cines")
    volumes = [estimate_maps(volume.movedim(1, 0), *settings, volume=True) for volume in kspace]
    return torch.stack([maps.movedim(0, 2) for maps in volumes])


def check_space(
    name: str, found: tuple[int, ...], wanted: tuple[int, ...], allow_one: bool
) -> None:
    """Refuse a shape that is not that of k-space; ``allow_one``: size 1 will do on any axis.

    Raises:
        ValueError: names the axis that does not fit.
    """
    if len(found) != len(wanted):
        raise ValueError(f"{name}: expected {len(wanted)} axes to fit {wanted}, got {found}")
    for axis, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        if ours != theirs and not (allow_one and ours == 1):
            raise ValueError(
                f"{name} and k-space do not fit: axis {axis - len(wanted)} has size {ours} in the "
                f"{name}, {theirs} in k-space"
            )
