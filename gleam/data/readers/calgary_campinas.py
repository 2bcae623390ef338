"""Multi-coil files of the Calgary-Campinas data set (arXiv 2011.07952): 3D T1-weighted brains.

``kspace`` is float32 ``(slices, ky, kz, 2 * coils)``: real and imaginary parts take turns, and the
readout is transformed already. The data set defines its coil images as ``np.fft.ifft2`` of that,
without shifts, although the zero frequency lies at ``n // 2``: neighbouring pixels differ in sign.

Here, their sign is taken out, so that the zero frequency lies at ``n // 2`` in the sense of the
centred orthonormal FFT, too. With ``n`` rows and ``m`` columns, coil images are those of the data
set times ``sqrt(n * m)`` times ``(-1) ** (y + x)``; for an odd size, the nearest phase ramp.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from gleam.data.hdf5 import dataset, glance, opened, read, shape_of
from gleam.data.readers.sampling import UnmarkedScan
from gleam.data.scan import EVERYTHING, DataError, Fact

CHANNELS = (24, 64)  # of 12 and 32 coils: all that there is in the data set


class CalgaryCampinasScan(UnmarkedScan):
    """A brain: y and x are the phase encodings, and the end of x may be zero padding."""

    format = "calgary_campinas"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """HDF5 with a real ``kspace`` of 24 or 64 channels."""
        found = glance(path)
        shape = found.shapes.get("kspace", ())
        return len(shape) == 4 and found.dtypes["kspace"].kind == "f" and shape[-1] in CHANNELS

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(slices, coils, ky, kz)``."""
        axes = "(slices, y, x, real and imaginary parts of coils)"
        slices, rows, columns, channels = shape_of(self.path, "kspace", axes, kind="f")
        if channels % 2:
            raise DataError(
                f"{self.path}, kspace: the last axis must hold pairs of a real and an imaginary "
                f"part, got {channels} channels"
            )
        return (slices, channels // 2, rows, columns)

    @cached_property
    def header(self) -> dict[str, Fact]:
        """What is known of all scans of this data set."""
        return {"acquisition": "3D", "voxel_size": [1.0, 1.0, 1.0], "sequence": "T1 GRE"}

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices, with the zero frequency in the centre."""
        rows, columns = self.shape[-2:]
        with opened(self.path) as file:
            stored = read(dataset(file, self.path, "kspace"), self.path, slices)
        pairs = np.ascontiguousarray(stored, dtype=np.float32).view(np.complex64)
        signs = _ramp(rows)[:, None] * _ramp(columns)
        return np.ascontiguousarray(np.moveaxis(pairs, -1, 1)) * signs


def _ramp(n: int) -> np.ndarray:
    """What moves the image by ``n // 2`` pixels: 1 and -1 in turn, if n is even."""
    centre = n // 2
    return np.exp(2j * np.pi * centre / n * (np.arange(n) - centre)).astype(np.complex64)
