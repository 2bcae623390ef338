"""The Stanford 3D FSE knees of mridata.org, as GE's archive was converted to ISMRMRD."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gleam.data.readers.ismrmrd import IsmrmrdScan
from gleam.data.scan import EVERYTHING, DataError, Fact, Scan
from physics.fourier import fft, ifft


class MridataFseScan(Scan):
    """A 3D scan whose second phase encoding the scanner has already transformed.

    Its partitions are counted as slices, with alternating sign, and its header cannot be told
    from that of a stack of 2D slices: this format must be asked for. Here that transform is undone
    and the readout is transformed instead, as for any 3D scan: ``(x, coils, ky, kz)``. Readout
    oversampling is removed.
    """

    format = "mridata_fse"

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        super().__init__(path, name)
        self._stack = IsmrmrdScan(path, name)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Never: nothing in the file says so."""
        return False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the k-space, from header and counters."""
        slices, coils, *time, readout, lines = self._stack.shape
        if time or slices == 1 or self._stack.header["acquisition"] == "3D":
            raise DataError(
                f"{self.path} must count its second phase encoding as slices, got k-space "
                f"{self._stack.shape}; set data.format to ismrmrd"
            )
        return (round(readout / self._oversampling), coils, lines, slices)

    @property
    def whole(self) -> bool:
        """True: every slice along the readout needs all acquisitions."""
        return True

    @cached_property
    def header(self) -> dict[str, Fact]:
        """Facts of the XML header, but those of the slices that there are none of."""
        facts = self._stack.header
        left = {k: facts[k] for k in facts if k not in ("oversampling", "voxel_size")}
        return {**left, "acquisition": "3D"}

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices; reads the whole file."""
        count = self.shape[0]
        stack = torch.from_numpy(self._stack.kspace())  # (z, coils, kx, ky)
        stack[1::2] *= -1
        positions = ifft(stack, (2,))
        first = positions.shape[2] // 2 - count // 2
        wanted = positions[:, :, first : first + count][:, :, slices]
        return fft(wanted, (0,)).permute(2, 1, 3, 0).contiguous().numpy()

    def acquired(self) -> np.ndarray | None:
        """Where there are lines, float32 ``(ky, 1)``; None if everywhere."""
        found = self._stack.acquired()
        if found is None:
            return None
        lines = found.max(axis=-2, keepdims=True)  # the readout, transformed, has no holes
        return None if lines.all() else lines.swapaxes(-1, -2)

    @cached_property
    def undersampled(self) -> bool:
        """Whether the header or holes in the sampled part of k-space say so."""
        return self._stack.undersampled

    def noise(self) -> np.ndarray | None:
        """Samples of the noise measurements, complex64 ``(coils, samples)``."""
        return self._stack.noise()

    @property
    def _oversampling(self) -> float:
        return float(self._stack.header.get("oversampling", 1.0))  # type: ignore[arg-type]
