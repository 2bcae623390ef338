"""Raw-data files of SKM-TEA (arXiv 2203.06823): quantitative knee scans with two echoes.

``kspace`` is complex64 ``(x, ky, kz, echoes, coils)``: the readout is transformed already, and
what parallel imaging left out was filled in on the scanner. ``maps`` ``(x, ky, kz, coils, maps)``
and ``target`` ``(x, ky, kz, echoes, maps)`` lie in image space. The masks that a file may hold
are meant for undersampling its k-space in tests; they do not describe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from gleam.data.hdf5 import contents, glance, read_complex, shape_of
from gleam.data.readers.sampling import UnmarkedScan
from gleam.data.scan import EVERYTHING, DataError, Fact, Scan

KSPACE = "(x, ky, kz, echoes, coils)"


class SkmTeaScan(UnmarkedScan):
    """One echo of a file: slices along the readout, y and x along the two phase encodings.

    Args:
        path: the file.
        name: of the scan; the file's name and the echo if None.
        echo: counted from 1.
    """

    format = "skm_tea"

    def __init__(self, path: str | Path, name: str | None = None, echo: int = 1) -> None:
        if echo < 1:
            raise ValueError(f"echoes are counted from 1, got {echo}")
        super().__init__(path, name)
        self.name = f"{self.name}-echo{echo}" if name is None else name
        self.echo = echo

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """HDF5 with k-space and coil maps of five axes each."""
        shapes = glance(path).shapes
        return [len(shapes.get(key, ())) for key in ("kspace", "maps")] == [5, 5]

    @classmethod
    def all_of(cls, path: Path, name: str) -> Sequence[Scan]:
        """One scan for each echo, named ``name-echo1`` and so on."""
        echoes = shape_of(path, "kspace", KSPACE)[3]
        return [cls(path, f"{name}-echo{n}", n) for n in range(1, echoes + 1)]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(x, coils, ky, kz)``."""
        *space, echoes, coils = shape_of(self.path, "kspace", KSPACE)
        if self.echo > echoes:
            raise DataError(f"{self.path}, kspace: has {echoes} echoes, not echo {self.echo}")
        return (space[0], coils, *space[1:])

    @cached_property
    def header(self) -> dict[str, Fact]:
        """What is known of all scans of this data set."""
        return {"acquisition": "3D", "sequence": f"qDESS echo {self.echo}"}

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices of this echo."""
        stored = read_complex(self.path, "kspace", (slices, ..., self.echo - 1, EVERYTHING))
        return np.ascontiguousarray(np.moveaxis(stored, -1, 1))

    def maps(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Coil maps, the same for all echoes."""
        self._check_fit("maps", "(x, ky, kz, coils, maps)", -1)
        stored = read_complex(self.path, "maps", slices)
        return np.ascontiguousarray(np.moveaxis(stored, (-1, -2), (1, 2)))

    def target(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """The SENSE reconstruction of this echo, if the file has one."""
        if "target" not in contents(self.path).shapes:
            return None
        self._check_fit("target", "(x, ky, kz, echoes, maps)", -2)
        stored = read_complex(self.path, "target", (slices, ..., self.echo - 1, EVERYTHING))
        return np.ascontiguousarray(np.moveaxis(stored, -1, 1))

    @cached_property
    def undersampled(self) -> bool:
        """Never: what the scanner left out was filled in."""
        return False

    def _check_fit(self, key: str, axes: str, same: int) -> None:
        """Compare the fourth axis of a dataset with an axis of the k-space, and those of space."""
        kspace, shape = shape_of(self.path, "kspace", KSPACE), shape_of(self.path, key, axes)
        wanted = (*kspace[:3], kspace[same])
        if shape[:4] != wanted:
            raise DataError(
                f"{self.path}, {key}: expected {axes} that begins with {wanted} to fit kspace, got "
                f"{shape}"
            )
