"""Arrays in and out of files, for the command line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from gleam.data import DataError


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """Read a ``.npy`` file, or the dataset ``key`` of an HDF5 file.

    Raises:
        DataError: if the file or the dataset cannot be read.
    """
    if not path.exists():
        raise DataError(f"no such file: {path}")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with h5py.File(path, "r") as file:
            if key is None:
                raise DataError(f"{path} must be a .npy file")
            if key not in file:
                raise DataError(f"{path} must hold a dataset {key}, found {sorted(file)}")
            return np.asarray(file[key])
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as .npy or HDF5: {error}") from error


def save_reconstruction(path: Path, image: Tensor) -> list[Path]:
    """Write an image as ``.npy``, and its magnitude, or that of the middle slice, as ``.png``.

    Args:
        path: the ``.npy`` file.
        image: complex ``(y, x)`` or with leading axes.

    Returns:
        The files written.
    """
    from gleam.plots import comparison

    path = path.with_suffix(".npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, image.numpy())
    planes = image.reshape(-1, *image.shape[-2:])
    picture = comparison(
        path.with_suffix(".png"), {"reconstruction": planes[len(planes) // 2]}, None
    )
    return [path, picture]
