"""One fully sampled image with its k-space and coil maps: what all data sources deliver."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gleam.batch import Batch
from physics.coils import espirit, sense_combine
from physics.fourier import fft, ifft


class DataError(ValueError):
    """A file that cannot be used; the message names the file and the dataset in it."""


@dataclass(frozen=True)
class Example:
    """A fully sampled image; shapes without batch axis.

    Attributes:
        kspace: complex64 ``(coils, *space)``.
        maps: coil maps, complex64 ``(maps, coils, *space)``.
        target: reference image, complex64 ``(maps, *space)``.
        scan: name of the scan it belongs to; seeds the fixed masks.
    """

    kspace: Tensor
    maps: Tensor
    target: Tensor
    scan: str

    @classmethod
    def from_kspace(cls, kspace: Tensor, scan: str, calibration: int, map_sets: int) -> Example:
        """Estimate coil maps by ESPIRiT; the target is the SENSE combination of all k-space.

        Args:
            kspace: fully sampled, complex64 ``(coils, *space)``.
            scan: name of the scan.
            calibration: side of the central block that the maps are estimated from.
            map_sets: 1 or 2.

        Raises:
            ValueError: if the maps cannot be estimated.
        """
        return cls.from_maps(kspace, espirit(kspace[None], calibration, map_sets)[0], scan)

    @classmethod
    def from_maps(cls, kspace: Tensor, maps: Tensor, scan: str) -> Example:
        """The target is the SENSE combination of all k-space with the given coil maps."""
        return cls(kspace, maps, sense_combine(kspace[None], maps[None])[0], scan)

    def slab(self, first: int, rows: int) -> Example:
        """Keep ``rows`` rows along y, the first axis of space, from ``first`` on.

        Exact where y is a fully sampled readout: its lines are independent then.
        """
        axis = -(self.kspace.ndim - 1)
        lines = ifft(self.kspace, (axis,)).narrow(axis, first, rows)
        return Example(
            fft(lines, (axis,)),
            self.maps.narrow(axis, first, rows),
            self.target.narrow(axis, first, rows),
            self.scan,
        )

    def undersample(self, mask: Tensor) -> Batch:
        """A normalised batch of one.

        Args:
            mask: float32, shape of space, size 1 on axes along which it does not vary.

        Raises:
            DataError: if no signal is left; names the scan.
        """
        batch = Batch(
            kspace=(self.kspace * mask)[None],
            mask=mask[None, None],
            maps=self.maps[None],
            target=self.target[None],
        )
        try:
            return batch.normalised()
        except ValueError as error:
            raise DataError(f"scan {self.scan}: {error}") from error


class Source(Protocol):
    """A sequence of examples."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int) -> Example:
        """Example ``index``, the same on every call."""

    @property
    def scans(self) -> Sequence[str]:
        """Names of the scans."""


def stable_seed(*parts: object) -> int:
    """A 32-bit seed from anything with a stable ``repr``, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def generator(*parts: object) -> torch.Generator:
    """A random generator seeded by :func:`stable_seed`."""
    return torch.Generator().manual_seed(stable_seed(*parts))
