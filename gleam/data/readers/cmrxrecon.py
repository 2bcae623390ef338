"""CMRxRecon: multi-coil cardiac cine and mapping in MATLAB files of version 7.3 (HDF5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from gleam.data.hdf5 import Contents, contents, dataset, glance, opened, read
from gleam.data.readers.sampling import UnmarkedScan
from gleam.data.scan import EVERYTHING, DataError, Fact, Scan, check_shape

# kspace_full, kspace_sub04 (2023); kspace_full, kus (2024); kspace, kus (2025).
_KEYS = re.compile(r"kspace((_single)?_(full|sub\d+))?|kus")
_MASKS = re.compile(r"mask\d*")
_OLD_MATLAB = b"MATLAB 5.0 MAT-file"


class CmrxreconScan(UnmarkedScan):
    """A stack of slices through the heart, dynamic unless there is only one frame.

    The challenges' MATLAB arrays ``kspace_full(nx, ny, coils, slices, frames)``, and ``kus``,
    ``kspace_sub04`` and the like if undersampled, lie in HDF5 with their axes reversed and in
    records of ``real`` and ``imag``; MATLAB drops trailing axes of size 1. Their x is the readout,
    which is our y. K-space is centred. The masks of undersampled scans are in files of their own,
    which hold no scan and are not needed: the zeros tell.
    """

    format = "cmrxrecon"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is a MATLAB file of the challenge, or of a version that cannot be read."""
        if path.suffix != ".mat":
            return False
        found = glance(path)
        arrays = [key for key in found.shapes if _KEYS.fullmatch(key)]
        # A kspace of plain complex numbers was written by Python, with its axes in order.
        ours = any(key != "kspace" or found.dtypes[key].names for key in arrays)
        return ours or _is_mask(found) or _is_old(path)

    @classmethod
    def all_of(cls, path: Path, name: str) -> Sequence[Scan]:
        """One scan; none in a file of masks."""
        return [] if _is_mask(glance(path)) else [cls(path, name)]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the k-space, from the file's header."""
        key = self._key
        *time, slices, coils, columns, rows = contents(self.path).shapes[key]
        time = time if time != [1] else []
        return check_shape((slices, coils, *time, rows, columns), f"{self.path}, {key}")

    @cached_property
    def header(self) -> dict[str, Fact]:
        """The files tell nothing else."""
        return {"acquisition": "2D"}

    @cached_property
    def undersampled(self) -> bool:
        """Whether the array's name or holes between the samples say so."""
        return "sub" in self._key or self._key == "kus" or self._sampling[1]

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices; no others are read."""
        dynamic = self.dynamic
        with opened(self.path) as file:
            data = dataset(file, self.path, self._key)
            stored = read(data, self.path, (*[slice(None)] * (data.ndim - 4), slices))
        stored = stored.reshape(-1, *stored.shape[-4:])  # one frame, if there was no such axis
        stored = stored.transpose(1, 2, 0, 4, 3)
        samples = np.empty(stored.shape, np.complex64)
        samples.real, samples.imag = stored["real"], stored["imag"]
        return samples if dynamic else samples[:, :, 0]

    @cached_property
    def _key(self) -> str:
        """Name of the array, once it is known to be k-space of several coils."""
        if _is_old(self.path):
            raise DataError(
                f"{self.path} is a MATLAB file of an older version than 7.3: save it again with "
                "save(..., '-v7.3'), or as a numpy file"
            )
        found = contents(self.path)
        keys = sorted(key for key in found.shapes if _KEYS.fullmatch(key))
        if len(keys) != 1:
            there = sorted([*found.shapes, *found.groups])
            raise DataError(
                f"{self.path} must hold one array of k-space, as kspace_full or kus, found {there}"
            )
        key, dtype = keys[0], found.dtypes[keys[0]]
        if "single" in key:
            raise DataError(f"{self.path}, {key}: k-space must be of several coils, not combined")
        parts = [dtype[name].kind for name in ("real", "imag") if name in (dtype.names or ())]
        if parts != ["f", "f"] or len(found.shapes[key]) not in (4, 5):
            raise DataError(
                f"{self.path}, {key}: expected MATLAB's complex (nx, ny, coils, slices, frames), "
                f"got {dtype} with axes reversed, {found.shapes[key]}"
            )
        return key


def _is_mask(found: Contents) -> bool:
    keys = list(found.shapes)
    return any(map(_MASKS.fullmatch, keys)) and not any(map(_KEYS.fullmatch, keys))


def _is_old(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_OLD_MATLAB)) == _OLD_MATLAB
    except OSError:
        return False
