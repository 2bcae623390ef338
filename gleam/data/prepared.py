"""Scans on disk: one HDF5 file a scan, fully sampled.

Datasets of a file (fastMRI's multi-coil files have the first one too):
    kspace  complex64 ``(slices, coils, y, x)``, centred orthonormal FFT of the coil images
    maps    complex64 ``(slices, maps, coils, y, x)``; optional, estimated by ESPIRiT if absent
    target  complex64 ``(slices, maps, y, x)``; optional, the SENSE combination if absent
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from gleam.data.examples import DataError, Example


class PreparedScans:
    """The slices of all HDF5 files of a folder, in the order of their names.

    Files are opened where they are read, so that worker processes can share the object.

    Args:
        folder: with ``*.h5`` files as described above.
        calibration: side of the k-space block that missing coil maps are estimated from.
        map_sets: ESPIRiT map sets, where they are missing.

    Raises:
        DataError: if there are no files, or one cannot be used; names file and dataset.
    """

    def __init__(self, folder: str | Path, calibration: int = 24, map_sets: int = 1) -> None:
        self.files = sorted(Path(folder).glob("*.h5"))
        if not self.files:
            raise DataError(f"{folder} must hold HDF5 files named *.h5, found none")
        self.scans = [file.stem for file in self.files]
        self._maps = {"calibration": calibration, "map_sets": map_sets}
        self._slices = [
            (file, number) for file in self.files for number in range(_count_slices(file))
        ]

    def __len__(self) -> int:
        """Number of slices in all files."""
        return len(self._slices)

    def __getitem__(self, index: int) -> Example:
        """Slice ``index``, counted through all files."""
        path, number = self._slices[index]
        with h5py.File(path, "r") as file:
            kspace = _read(file, path, "kspace", number)
            if not kspace.abs().any():
                raise DataError(f"{path}, kspace[{number}]: all samples are zero")
            if "maps" not in file:
                try:
                    return Example.from_kspace(kspace, path.stem, **self._maps)
                except ValueError as error:
                    raise DataError(f"{path}, kspace[{number}]: {error}") from error
            maps = _read(file, path, "maps", number)
            wanted = (self._maps["map_sets"], *kspace.shape)
            if maps.shape != wanted:
                raise DataError(
                    f"{path}, maps[{number}]: expected (maps, coils, y, x) = {wanted} to fit "
                    f"kspace and data.map_sets, got {tuple(maps.shape)}"
                )
            example = Example.from_maps(kspace, maps, path.stem)
            if "target" not in file:
                return example
            target = _read(file, path, "target", number)
        if target.shape != example.target.shape:
            raise DataError(
                f"{path}, target: expected (maps, y, x) = {tuple(example.target.shape)}, "
                f"got {tuple(target.shape)}"
            )
        return Example(kspace, maps, target, path.stem)


def write_scan(
    path: str | Path,
    kspace: np.ndarray,
    maps: np.ndarray | None = None,
    target: np.ndarray | None = None,
) -> None:
    """Write one scan in the layout of this module; a crash leaves no half file.

    Args:
        path: the new file, ending in ``.h5``.
        kspace: complex ``(slices, coils, y, x)``.
        maps: complex ``(slices, maps, coils, y, x)`` or None.
        target: complex ``(slices, maps, y, x)`` or None.
    """
    path = Path(path)
    temporary = path.with_suffix(".partial")
    with h5py.File(temporary, "w") as file:
        for key, value in (("kspace", kspace), ("maps", maps), ("target", target)):
            if value is not None:
                file[key] = np.asarray(value, dtype=np.complex64)
    os.replace(temporary, path)


def _count_slices(path: Path) -> int:
    try:
        with h5py.File(path, "r") as file:
            if "kspace" not in file:
                raise DataError(f"{path} must hold a dataset kspace, found {sorted(file)}")
            data = file["kspace"]
            if data.ndim != 4 or data.dtype.kind != "c" or 0 in data.shape:
                raise DataError(
                    f"{path}, kspace: expected complex (slices, coils, y, x), none of them 0, "
                    f"got {data.dtype} {data.shape}"
                )
            return int(data.shape[0])
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file: {error}") from error


def _read(file: h5py.File, path: Path, key: str, number: int) -> Tensor:
    try:
        data = torch.from_numpy(np.asarray(file[key][number], dtype=np.complex64))
    except (OSError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path}, {key}[{number}] cannot be read: {error}") from error
    if not torch.isfinite(torch.view_as_real(data)).all():
        raise DataError(f"{path}, {key}[{number}]: holds NaN or infinity")
    return data
