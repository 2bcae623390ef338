"""The library's own files: one HDF5 file a scan, any plain HDF5 file with a k-space included.

Datasets of a file:
    kspace    complex ``(slices, coils, y, x)`` or ``(slices, coils, t, y, x)``
    maps      complex ``(slices, maps, coils, y, x)``, t of size 1 if dynamic; optional
    target    complex ``(slices, maps, y, x)`` or ``(slices, maps, t, y, x)``; optional
    acquired  0 or 1, shape of space with size 1 on axes where it is constant; optional
    noise     complex ``(coils, samples)``; optional
Attributes of the file are ``header``, :attr:`Scan.header` as JSON, and ``undersampled``; of each
dataset, ``crc32`` of its bytes. Files without attributes are read, too: a header is then unknown,
and zeros tell what was acquired.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from gleam.data.hdf5 import contents, keys_of, opened, read, read_complex, shape_of
from gleam.data.readers.sampling import UnmarkedScan
from gleam.data.scan import EVERYTHING, DataError, Fact

CHECKSUM = "crc32"


class PreparedScan(UnmarkedScan):
    """A scan in the layout of this module."""

    format = "prepared"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """HDF5 with a dataset ``kspace``, whatever it holds."""
        return "kspace" in keys_of(path)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dataset ``kspace``."""
        return shape_of(self.path, "kspace", "(slices, coils, y, x)", "(slices, coils, t, y, x)")

    @cached_property
    def header(self) -> dict[str, Fact]:
        """As it was written; empty for a plain file."""
        text = contents(self.path).attributes.get("header", "{}")
        try:
            header = json.loads(text)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: unreadable header: {error}") from error
        if not isinstance(header, dict):
            raise DataError(f"{self.path}: unreadable header: expected a JSON object, got {text!r}")
        return header

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices."""
        return read_complex(self.path, "kspace", slices)

    def maps(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Coil maps, if the file has them and they fit the k-space."""
        coils, *space = self.shape[1:]
        if self.dynamic:
            space[0] = 1
        return self._optional("maps", (coils, *space), slices)

    def target(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Reference image, if the file has one and it fits the k-space."""
        return self._optional("target", self.shape[2:], slices)

    def acquired(self) -> np.ndarray | None:
        """The mask of the file; zeros of the k-space tell if the file is a plain one."""
        found, space = contents(self.path), self.shape[2:]
        if "acquired" not in found.shapes:
            return None if "undersampled" in found.attributes else super().acquired()
        shape = found.shapes["acquired"]
        if len(shape) != len(space) or any(
            n not in (1, m) for n, m in zip(shape, space, strict=True)
        ):
            raise DataError(
                f"{self.path}, acquired: expected a mask that fits {space}, got {shape}"
            )
        with opened(self.path) as file:
            return np.asarray(read(file["acquired"], self.path), dtype=np.float32)

    @cached_property
    def undersampled(self) -> bool:
        """What the file says; zeros of the k-space tell if it does not."""
        stated = contents(self.path).attributes.get("undersampled")
        return super().undersampled if stated is None else bool(stated)

    def noise(self) -> np.ndarray | None:
        """Noise samples, if the file has them."""
        if "noise" not in contents(self.path).shapes:
            return None
        noise = read_complex(self.path, "noise")
        if noise.ndim != 2 or len(noise) != self.shape[1]:
            raise DataError(
                f"{self.path}, noise: expected (coils, samples) with {self.shape[1]} coils, got "
                f"{noise.shape}"
            )
        return noise

    def _optional(self, key: str, rest: tuple[int, ...], slices: slice) -> np.ndarray | None:
        """A dataset of any number of map sets, or None."""
        shape = contents(self.path).shapes.get(key)
        if shape is None:
            return None
        sets = max(1, shape[1]) if len(shape) > 1 else 1
        wanted = (self.shape[0], sets, *rest)
        if shape != wanted:
            raise DataError(f"{self.path}, {key}: expected {wanted} to fit kspace, got {shape}")
        return read_complex(self.path, key, slices)


def write_scan(
    path: str | Path,
    kspace: np.ndarray,
    maps: np.ndarray | None = None,
    target: np.ndarray | None = None,
    *,
    header: Mapping[str, Fact] | None = None,
    acquired: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    undersampled: bool = False,
) -> None:
    """Write one scan in the layout of this module; a crash leaves no half file.

    Args:
        path: the new file, ending in ``.h5``.
        kspace: complex ``(slices, coils, y, x)`` or ``(slices, coils, t, y, x)``.
        maps: complex ``(slices, maps, coils, y, x)``, t of size 1 if dynamic, or None.
        target: complex ``(slices, maps, y, x)`` or ``(slices, maps, t, y, x)``, or None.
        header: plain values, see :attr:`gleam.data.scan.Scan.header`.
        acquired: mask of 0 and 1, shape of space, size 1 where constant; None if everywhere.
        noise: complex ``(coils, samples)`` or None.
        undersampled: whether samples are missing on purpose.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    arrays = {"kspace": kspace, "maps": maps, "target": target, "noise": noise}
    with h5py.File(temporary, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                _write(file, key, np.asarray(value, dtype=np.complex64))
        if acquired is not None:
            _write(file, "acquired", np.asarray(acquired, dtype=np.float32))
        file.attrs["header"] = json.dumps(dict(header or {}))
        file.attrs["undersampled"] = bool(undersampled)
    os.replace(temporary, path)


def verify(path: str | Path) -> None:
    """Read a file of :func:`write_scan` again, slice by slice.

    Raises:
        DataError: if it cannot be read, or a dataset has no checksum or another one.
    """
    path = Path(path)
    with opened(path) as file:
        for key in file:
            data = file[key]
            stated = data.attrs.get(CHECKSUM)
            if stated is None:
                raise DataError(f"{path}, {key} has no checksum: gleam prepare did not write it")
            found = 0
            for number in range(len(data)):
                found = _checksum(read(data, path, number), found)
            if found != int(stated):
                raise DataError(
                    f"{path}, {key} is damaged: its checksum is {found}, expected {stated}; "
                    "write it again"
                )


def _write(file: h5py.File, key: str, values: np.ndarray) -> None:
    # contiguous on disk: a slice is one block of bytes already
    file.create_dataset(key, data=values)
    file[key].attrs[CHECKSUM] = _checksum(values)


def _checksum(values: np.ndarray, start: int = 0) -> int:
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, start)
