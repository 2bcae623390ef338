"""Reconstruct measured k-space with a trained network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gleam.batch import Batch
from gleam.build import build_device
from gleam.data.estimate import calibration_extent
from gleam.evaluation import open_network, run_network
from gleam.inputs import make_batch
from gleam.limits import departures, facts
from gleam.shipped import locate, read_limits
from gleam.slabs import InSlabs, Volume, read_volumes


def reconstruct(
    checkpoint: str | Path,
    kspace: Tensor | np.ndarray,
    mask: Tensor | np.ndarray | None = None,
    maps: Tensor | np.ndarray | None = None,
    *,
    steps: int | None = None,
    stop_below: float | None = None,
    slab: int | None = None,
    device: str = "auto",
) -> Tensor:
    """Reconstruct undersampled multi-coil k-space.

    A network that ships with the library warns (``UserWarning``) of measurements that are unlike
    what it was trained on, in their acceleration, matrix, coils or noise.

    Args:
        checkpoint: of the network, or the name of one that ships, such as "general-2d".
        kspace: complex ``(coils, *space)`` or ``(slices, coils, *space)``, centred orthonormal
            FFT of the coil images along y and x, in any units; space is that of the images the
            network was trained on: ``(y, x)``, ``(z, y, x)`` or ``(t, y, x)``.
        mask: 1 where measured, ``space`` with size-1 axes where it does not vary; by default
            the positions at which any coil's k-space differs from zero.
        maps: coil maps ``(coils, *space)`` or ``(maps, coils, *space)``, with a leading slice
            axis if ``kspace`` has one; of size 1 on t; by default estimated from the fully
            sampled centre.
        steps: unrolled steps to take instead of all; of a network trained greedily, every module
            ends in a reconstruction. Steps within a module, and those of a network trained end to
            end, may end in none.
        stop_below: take no more steps on an image that the last one changed by less than this
            fraction of its l2 norm.
        slab: reconstruct volumes so many positions along z at a time, which bounds the memory, see
            :mod:`gleam.slabs`; k-space and maps may then be memory-mapped.
        device: "cpu", "cuda" or "auto".

    Returns:
        Complex64 image ``(maps, *space)`` or ``(slices, maps, *space)`` in the units of the
        zero-filled reconstruction, on the CPU; the axis of maps is dropped if there is one.

    Raises:
        CheckpointError: if the checkpoint cannot be used.
        ValueError: if k-space is empty or not finite, shapes do not fit, the mask samples
            nothing, maps must be estimated and there is no calibration region, the network
            has fewer steps, or slabs are asked for and it is not one of volumes.
    """
    return reconstruct_and_compare(
        checkpoint,
        kspace,
        mask,
        maps,
        steps=steps,
        stop_below=stop_below,
        slab=slab,
        device=device,
    )[0]


@torch.no_grad()
def reconstruct_and_compare(
    checkpoint: str | Path,
    kspace: Tensor | np.ndarray,
    mask: Tensor | np.ndarray | None = None,
    maps: Tensor | np.ndarray | None = None,
    *,
    steps: int | None = None,
    stop_below: float | None = None,
    slab: int | None = None,
    device: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The image of :func:`reconstruct`, and the zero-filled image of the same shape beside it."""
    trained, config = open_network(checkpoint, device)
    data = config.data
    network = trained if slab is None else InSlabs(trained, slab, data.items)
    settings: dict[str, Any] = {
        "items": data.items,
        "map_sets": data.map_sets,
        "calibration": calibration_extent(data.map_calibration, np.shape(kspace)[-2:]),
        "method": data.map_method,
        "crop": data.map_crop,
    }
    singles: Iterator[Batch | Volume]
    if slab is None:
        batch = make_batch(kspace, mask, maps, **settings)
        singles = (single.normalised() for single in batch.split())
    else:
        singles = read_volumes(kspace, mask, maps, slab, **settings)
    limits = read_limits(checkpoint)
    images, zero_filled, found = [], [], []
    for one in singles:  # slice by slice: memory stays that of one image
        sets = one.zero_filled.shape[1]
        if sets != data.map_sets:
            raise ValueError(
                f"the network was trained with {data.map_sets} coil-map sets, got {sets}"
            )
        if limits and isinstance(one, Batch):
            found.append(facts(one))
        one = one.to(build_device(device))
        images.append(one.rescale(run_network(network, one, steps, stop_below)).cpu())
        zero_filled.append(one.rescale(one.zero_filled).cpu())
    if said := departures(found, limits or {}):
        warnings.warn(
            f"{locate(checkpoint).stem} was not trained on such measurements, so its image may be "
            f"wrong: {'; '.join(said)}",
            stacklevel=4,
        )
    has_slices = np.ndim(kspace) == data.ndim + 2
    return _shape(torch.cat(images), has_slices), _shape(torch.cat(zero_filled), has_slices)


def _shape(image: Tensor, has_slices: bool) -> Tensor:
    image = image[:, 0] if image.shape[1] == 1 else image
    return image if has_slices else image[0]
