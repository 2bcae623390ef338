"""Pairs of files of BART: ``.cfl`` with complex64 numbers, first axis fastest, ``.hdr`` its sizes.

Of BART's 16 axes, 0 is the readout, 1 and 2 are phase encodings, 3 the coils, 10 time and 13
slices; the others must have size 1 here. BART's FFT is centred, like this library's.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gleam.data.readers.sampling import UnmarkedScan
from gleam.data.scan import EVERYTHING, DataError, Fact
from physics.fourier import ifft

AXES = 16
READOUT, PHASE1, PHASE2, COIL, TIME, SLICE = 0, 1, 2, 3, 10, 13
OURS = (READOUT, PHASE1, PHASE2, COIL, TIME, SLICE)


class BartScan(UnmarkedScan):
    """K-space: slices or a cine with y along the readout, or a volume.

    The readout of a volume, for which all of it must be read, is transformed and runs along the
    slices; y and x are the phase encodings.

    Args:
        path: the ``.cfl`` file.
        name: of the scan.
    """

    format = "bart"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Named ``.cfl``."""
        return path.suffix == ".cfl"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """From the sizes in the ``.hdr`` file."""
        sizes = self._sizes
        if sizes[PHASE2] > 1:
            return (sizes[READOUT], sizes[COIL], sizes[PHASE1], sizes[PHASE2])
        time = (sizes[TIME],) if sizes[TIME] > 1 else ()
        return (sizes[SLICE], sizes[COIL], *time, sizes[READOUT], sizes[PHASE1])

    @cached_property
    def header(self) -> dict[str, Fact]:
        """Whether it is a volume."""
        return {"acquisition": "3D" if self.whole else "2D"}

    @property
    def whole(self) -> bool:
        """Whether it is a volume, whose readout must be transformed."""
        return self._sizes[PHASE2] > 1

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices."""
        stored = self._stored()
        if self.whole:
            lines = torch.from_numpy(np.ascontiguousarray(stored[..., 0, 0].transpose(0, 3, 1, 2)))
            return np.ascontiguousarray(ifft(lines, (0,)).numpy()[slices])
        part = stored[:, :, 0, :, :, slices].transpose(4, 2, 3, 0, 1)
        return np.ascontiguousarray(part if self.dynamic else part[:, :, 0])

    def middle(self) -> np.ndarray:
        """The middle slice, or in a volume the middle of the readout, where the zeros are too."""
        if not self.whole:
            return super().middle()
        stored = self._stored()
        return np.asarray(stored[len(stored) // 2, ..., 0, 0].transpose(2, 0, 1))

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """Sizes of all axes."""
        path = self.path.with_suffix(".hdr")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            sizes = [int(word) for word in lines[lines.index("# Dimensions") + 1].split()]
        except (OSError, ValueError, IndexError) as error:
            raise DataError(
                f"{path}: unreadable header of {self.path.name}: expected the sizes of its axes "
                f"below a line '# Dimensions': {error}"
            ) from error
        sizes += [1] * (AXES - len(sizes))
        others = {axis: n for axis, n in enumerate(sizes) if n != 1 and axis not in OURS}
        volume = sizes[PHASE2] > 1
        if others or min(sizes) < 1 or (volume and (sizes[TIME] > 1 or sizes[SLICE] > 1)):
            raise DataError(
                f"{path}: expected k-space along axes 0, 1, 3, 10 and 13, or 0 to 3, none of them "
                f"0, and size 1 along all others, got {sizes}; bart slice picks one of an axis"
            )
        return tuple(sizes)

    def _stored(self) -> np.ndarray:
        """The numbers on disk, read where they are used; axes as in :data:`OURS`."""
        shape = tuple(self._sizes[axis] for axis in OURS)
        wanted = 8 * int(np.prod(shape, dtype=np.int64))
        try:
            found = self.path.stat().st_size
            if found != wanted:
                raise DataError(
                    f"{self.path}: its header says {wanted} bytes, the file has {found}: it is "
                    "truncated, or the .hdr file is another's"
                )
            return np.memmap(self.path, dtype="<c8", mode="r", shape=shape, order="F")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error}") from error
