"""One fully sampled image with its k-space and coil maps: what is undersampled and learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from gleam.batch import Batch
from gleam.data.scan import DataError
from physics.coils import sense_combine
from physics.fourier import fft, ifft

ENCODED = (-2, -1)


@dataclass(frozen=True)
class Example:
    """A fully sampled image; shapes without batch axis, encoded along y and x.

    Space is ``(y, x)``, ``(z, y, x)`` or ``(t, y, x)``; coil maps have size 1 on t. The readout,
    along which nothing is undersampled, is z of a volume, and y otherwise.

    Attributes:
        kspace: complex64 ``(coils, *space)``.
        maps: coil maps, complex64 ``(maps, coils, *space)``.
        target: reference image, complex64 ``(maps, *space)``.
        scan: name of the scan it belongs to; seeds the fixed masks.
        acquired: float32, 0 where the scanner left out samples (padding, partial Fourier), shape
            of space with size 1 where constant; None if there are all.
    """

    kspace: Tensor
    maps: Tensor
    target: Tensor
    scan: str
    acquired: Tensor | None = None

    @classmethod
    def from_maps(
        cls, kspace: Tensor, maps: Tensor, scan: str, acquired: Tensor | None = None
    ) -> Example:
        """The target is the SENSE combination of all k-space with the given coil maps."""
        target = sense_combine(kspace[None], maps[None], ENCODED)[0]
        return cls(kspace, maps, target, scan, acquired)

    @property
    def space(self) -> tuple[int, ...]:
        """Size of the image."""
        return tuple(self.kspace.shape[1:])

    def readout(self) -> int:
        """The axis along which slabs are cut."""
        volume = len(self.space) == 3 and self.maps.shape[-3] == self.space[0]
        return -3 if volume else -2

    def slab(self, first: int, rows: int) -> Example:
        """Keep ``rows`` positions along the readout, from ``first`` on.

        Exact where the readout is fully sampled: its positions are independent then.
        """
        axis = self.readout()
        if axis in ENCODED:
            kspace = fft(ifft(self.kspace, (axis,)).narrow(axis, first, rows), (axis,))
        else:
            kspace = self.kspace.narrow(axis, first, rows)
        return replace(
            self,
            kspace=kspace,
            maps=self.maps.narrow(axis, first, rows),
            target=self.target.narrow(axis, first, rows),
        )

    def undersample(self, mask: Tensor) -> Batch:
        """A normalised batch of one.

        Args:
            mask: float32, shape of space, size 1 on axes along which it does not vary.

        Raises:
            DataError: if no signal is left; names the scan.
        """
        mask = mask if self.acquired is None else mask * self.acquired
        batch = Batch(
            kspace=(self.kspace * mask)[None],
            mask=mask[None, None],
            maps=self.maps[None],
            target=self.target[None],
            axes=ENCODED,
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
        """Example ``index``, the same on every call.

        Raises:
            DataError: if it cannot be read.
        """

    @property
    def scans(self) -> Sequence[str]:
        """Names of the scans."""

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Shape ``(coils, *space)`` of every example, known without reading it."""


def stable_seed(*parts: object) -> int:
    """A 32-bit seed from anything with a stable ``repr``, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def generator(*parts: object) -> torch.Generator:
    """A random generator seeded by :func:`stable_seed`."""
    return torch.Generator().manual_seed(stable_seed(*parts))
