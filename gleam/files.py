"""Arrays in and out of files, for the command line."""

from __future__ import annotations

import os
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


def save_reconstruction(path: Path, image: Tensor, zero_filled: Tensor) -> list[Path]:
    """Write an image as ``.npy``, and a picture of it beside the zero-filled image as ``.png``.

    Args:
        path: the ``.npy`` file.
        image: complex ``(y, x)``, ``(maps, y, x)`` or with an axis of slices in front; the picture
            shows the middle slice.
        zero_filled: the same shape.

    Returns:
        The files written.
    """
    from gleam.plots import comparison

    path = path.with_suffix(".npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        np.save(file, image.numpy())
    os.replace(temporary, path)
    pictures = {"zero-filled": _middle(zero_filled), "reconstruction": _middle(image)}
    picture = comparison(path.with_suffix(".png"), pictures, None)
    return [path, picture]


def _middle(image: Tensor) -> Tensor:
    """The middle slice ``(y, x)``; of two map sets the first, which holds most of the signal."""
    image = image[:, 0] if image.ndim == 4 else image
    return image if image.ndim == 2 else image[(len(image) - 1) // 2]
