"""Arrays of numpy: ``.npy`` with k-space; ``.npz`` with ``kspace``, ``maps``, ``target``, ``mask``.

K-space is complex ``(coils, y, x)``, ``(slices, coils, y, x)`` or ``(slices, coils, t, y, x)``, in
the convention of :class:`gleam.data.scan.Scan`. Maps and target are optional and have the axes
stated there, without that of slices if the k-space has none. The mask, optional as well, is not 0
where there are samples, and has the shape of space, size 1 on axes where it is constant.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from gleam.data.readers.sampling import UnmarkedScan
from gleam.data.scan import EVERYTHING, DataError, check_shape

NPY, NPZ = ".npy", ".npz"
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class ArrayScan(UnmarkedScan):
    """A scan in the layout of this module."""

    format = "numpy"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Named ``.npy`` or ``.npz``."""
        return path.suffix in (NPY, NPZ)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """From the header of the array."""
        if "kspace" not in self._forms:
            raise DataError(f"{self.path} must hold an array kspace, found {sorted(self._forms)}")
        shape, dtype = self._forms["kspace"]
        if dtype.hasobject:
            raise DataError(
                f"{self.path}, kspace: holds Python objects, as if slices differ in size; save "
                "slices of equal size in files of their own"
            )
        if dtype.kind != "c":
            raise DataError(
                f"{self.path}, kspace: expected complex numbers, got {dtype}; if the last axis "
                "holds real and imaginary parts, save kspace[..., 0] + 1j * kspace[..., 1]"
            )
        whole = (1, *shape) if len(shape) == 3 else shape
        return check_shape(whole, f"{self.path}, kspace")

    @property
    def whole(self) -> bool:
        """Whether the array may be compressed."""
        return self.path.suffix == NPZ

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices."""
        return self._read("kspace", self.shape, slices)

    def maps(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Coil maps, if the file has them and they fit the k-space."""
        coils, *space = self.shape[1:]
        if self.dynamic:
            space[0] = 1
        return self._optional("maps", (coils, *space), slices)

    def target(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Reference image, if the file has one and it fits the k-space."""
        return self._optional("target", self.shape[2:], slices)

    def middle(self) -> np.ndarray:
        """The mask as that of a coil, if there is one, or the middle slice."""
        if "mask" not in self._forms:
            return super().middle()
        mask, space = self._load("mask"), self.shape[2:]
        if mask.ndim != len(space) or any(
            n not in (1, m) for n, m in zip(mask.shape, space, strict=True)
        ):
            raise DataError(f"{self.path}, mask: expected to fit {space}, got {mask.shape}")
        return np.broadcast_to(mask, space)[None]

    def _optional(self, key: str, rest: tuple[int, ...], slices: slice) -> np.ndarray | None:
        if key not in self._forms:
            return None
        shape, _ = self._forms[key]
        slices_there = len(self._forms["kspace"][0]) > 3
        axis = 1 if slices_there else 0
        sets = max(1, shape[axis]) if len(shape) > axis else 1
        wanted = (self.shape[0], sets, *rest)
        if shape != (wanted if slices_there else wanted[1:]):
            raise DataError(f"{self.path}, {key}: expected {wanted} to fit kspace, got {shape}")
        return self._read(key, wanted, slices)

    def _read(self, key: str, shape: tuple[int, ...], slices: slice) -> np.ndarray:
        values = self._load(key).reshape(shape)[slices]
        return np.ascontiguousarray(values, dtype=np.complex64)

    def _load(self, key: str) -> np.ndarray:
        try:
            if self.path.suffix == NPY:
                return np.load(self.path, mmap_mode="r", allow_pickle=False)
            with np.load(self.path, allow_pickle=False) as arrays:
                return arrays[key]
        except UNREADABLE as error:
            raise DataError(f"{self.path}, {key} cannot be read: {error}") from error

    @cached_property
    def _forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of each array, from their headers."""
        try:
            if self.path.suffix == NPY:
                with open(self.path, "rb") as stream:
                    return {"kspace": _form(stream)}
            forms = {}
            with zipfile.ZipFile(self.path) as arrays:
                for name in arrays.namelist():
                    with arrays.open(name) as stream:
                        forms[name.removesuffix(NPY)] = _form(stream)
            return forms
        except UNREADABLE as error:
            raise DataError(
                f"{self.path} is not a readable {self.path.suffix} file: {error}"
            ) from error


def _form(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    return shape, dtype
