"""Whole volumes through a network in slabs along z, so that a slab bounds the memory.

The physics of a volume ``(z, y, x)`` acts along y and x only: z is a readout that is sampled fully
and transformed already. What couples positions along z is the CNN of each step, and that looks no
further than its reach. Hence every step goes over the volume slab by slab, each with a halo of so
many positions, and gives what the step gives of the whole volume. Of that there are a few images;
k-space is read once, a slab at a time, and the coil maps are read again in every step.

Conjugate gradients (MoDL steps) choose their step lengths for a slab instead of the volume, so that
results agree to their tolerance, or to what a limited number of iterations leaves undone: with the
default ten and a lambda of 0.05, 4e-6 to 1e-4 of the image's norm were seen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gleam.batch import normal_level
from gleam.data.estimate import fill_volume_maps
from gleam.data.examples import ENCODED
from gleam.inputs import Array, check_axes, check_space, make_batch, to_tensor
from models.unrolled import UnrolledNetwork
from physics.masks import compact
from physics.operators import Sense

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Slab:
    """What a step reads of some positions along z."""

    operator: Sense
    zero_filled: Tensor


@dataclass(frozen=True)
class Volume:
    """What steps read of a volume, of which one slab at a time goes to the device.

    Attributes:
        zero_filled: the normalised zero-filled image, complex64 ``(1, maps, z, y, x)``.
        scale: what it was divided by, ``(1,)``.
        mask: float32 ``(1, 1, *space)``, size 1 on axes along which it does not vary.
        maps: coil maps ``(maps, coils, z, y, x)``, perhaps in a file.
        device: on which steps run.
    """

    zero_filled: Tensor
    scale: Tensor
    mask: Tensor
    maps: Array
    device: torch.device = CPU

    def to(self, device: torch.device) -> Volume:
        """The same, for steps on another device."""
        return replace(self, device=device)

    def slab(self, first: int, last: int) -> Slab:
        """The measurements of positions ``first`` to ``last`` (excluded) on the device."""
        mask = self.mask if self.mask.shape[2] == 1 else self.mask[:, :, first:last]
        maps = to_tensor(self.maps[:, :, first:last]).to(torch.complex64)
        operator = Sense(maps[None].to(self.device), mask.to(self.device), ENCODED)
        return Slab(operator, self.zero_filled[:, :, first:last].to(self.device))

    def rescale(self, image: Tensor) -> Tensor:
        """Undo the normalisation of an image."""
        return image * self.scale


class InSlabs(nn.Module):
    """A network whose steps go over a :class:`Volume` slab by slab; states stay on the CPU.

    Args:
        network: of volumes.
        size: of a slab, positions along z.
        items: what the network was trained on, see :class:`gleam.data_config.DataConfig`.

    Raises:
        ValueError: if the size is below one, or the network is not one of volumes.
    """

    def __init__(self, network: UnrolledNetwork, size: int, items: str = "volumes") -> None:
        super().__init__()
        if items != "volumes":
            raise ValueError(f"slabs are for networks of volumes, this one takes {items}")
        if size < 1:
            raise ValueError(f"a slab must have at least one position along z, got {size}")
        self.network = network
        self.steps = network.steps
        self.size = size

    def start(self, volume: Any) -> Tensor:
        """The state before the first step."""
        return self.network.start(volume)

    def step(self, index: int, state: Tensor, volume: Volume) -> Tensor:
        """Advance the state by unrolled iteration ``index``; the one before is left as it is."""
        depth, halo = state.shape[2], self.network.reach
        after = torch.empty_like(state)
        for first, last in slabs(depth, self.size):
            low, high = max(0, first - halo), min(depth, last + halo)
            moved = self.network.step(
                index, state[:, :, low:high].to(volume.device), volume.slab(low, high)
            )
            after[:, :, first:last] = moved[:, :, first - low : last - low]
        return after

    def image(self, state: Tensor, volume: Any) -> Tensor:
        """The image that a state stands for."""
        return self.network.image(state, volume)


def slabs(depth: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) positions of consecutive slabs."""
    for first in range(0, depth, size):
        yield first, min(depth, first + size)


def read_volumes(
    kspace: Array,
    mask: Array | None,
    maps: Array | None,
    size: int,
    **settings: Any,
) -> Iterator[Volume]:
    """Read k-space, which may be memory-mapped, in slabs; all else is as for ``make_batch``.

    Coil maps that are not given are estimated as those of a whole volume. By ESPIRiT with a number
    as crop they are written to a temporary file, which is gone at the end; by another method all of
    k-space and the maps are in memory meanwhile.

    Args:
        kspace: complex ``(coils, z, y, x)`` or ``(slices, coils, z, y, x)``.
        mask: see :func:`gleam.inputs.make_batch`.
        maps: likewise.
        size: of a slab.
        settings: of :func:`gleam.inputs.make_batch`.

    Raises:
        TypeError: as :func:`gleam.inputs.make_batch`.
        ValueError: likewise.
    """
    check_axes(kspace, 3)
    if kspace.ndim == 4:
        yield _read(kspace, mask, maps, size, settings)
        return
    for number, samples in enumerate(kspace):
        pattern = mask if mask is None or mask.ndim < 4 else mask[number % len(mask)]
        own = None if maps is None else maps[number]
        yield _read(samples, pattern, own, size, settings)


def _read(
    kspace: Array,
    mask: Array | None,
    maps: Array | None,
    size: int,
    settings: dict[str, Any],
) -> Volume:
    coils, *space = kspace.shape
    if mask is not None:
        check_space("mask", tuple(mask.shape), tuple(space), allow_one=True)
    if maps is None:
        maps = _estimate(kspace, mask, settings)
    check_space("coil maps", tuple(maps.shape[-4:]), (coils, *space), allow_one=False)
    maps = maps if maps.ndim == 5 else maps[None]
    image = torch.empty(1, len(maps), *space, dtype=torch.complex64)
    patterns = []
    for first, last in slabs(space[0], size):
        rows = slice(first, last)
        pattern = mask if mask is None or len(mask) == 1 else mask[rows]
        part = make_batch(kspace[:, rows], pattern, maps[:, :, rows], part=True, **settings)
        image[:, :, rows] = part.zero_filled
        patterns.append(part.mask.expand(-1, -1, last - first, -1, -1))
    scale = normal_level(image)
    image /= scale
    return Volume(image, scale, compact(torch.cat(patterns, 2)), maps)


def _estimate(kspace: Array, mask: Array | None, settings: dict[str, Any]) -> Array:
    if settings["method"] != "espirit" or settings["crop"] == "auto":
        return make_batch(kspace, mask, **settings).maps[0]
    centre = _centre(kspace, kspace.shape, settings["calibration"]).to(torch.complex64)
    if mask is not None:
        centre = centre * _centre(mask, kspace.shape, settings["calibration"])
    with tempfile.TemporaryFile() as file:
        shape = (settings["map_sets"], *kspace.shape)
        maps = np.memmap(file, np.complex64, "w+", shape=shape)
    fill_volume_maps(
        torch.from_numpy(maps), centre.movedim(1, 0), settings["calibration"], settings["crop"]
    )
    return maps


def _centre(array: Array, shape: Sequence[int], largest: int) -> Tensor:
    """What lies in the centre of k-space of this shape, along y and x; size 1 stays."""
    window: list[slice] = []
    for size, n in zip(array.shape[-2:], shape[-2:], strict=True):
        extent = min(largest, n)
        first = n // 2 - extent // 2
        window.append(slice(None) if size == 1 else slice(first, first + extent))
    rows, columns = window
    return to_tensor(array[..., rows, columns])
