"""Arrays in and out of files, for the command line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from gleam.checkpoint import read_checkpoint, read_config
from gleam.data import DataError, open_scan
from gleam.data.sources import measurements
from gleam.inputs import Array

Measured = tuple[Array, Array | None, Array | None]


def read_array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file, which is read where and when it is used.

    Raises:
        DataError: if it cannot be read.
    """
    if not path.exists():
        raise DataError(f"no such file: {path}")
    if path.suffix != ".npy":
        raise DataError(f"{path} must be a .npy file")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as .npy: {error}") from error


def read_measurements(path: Path, checkpoint: Path, format: str | None = None) -> Measured:
    """K-space of a ``.npy`` file as it is, or of a scan as the images of a checkpoint; mask, maps.

    Of a file with several scans it is the first. The format is by default that of the training. A
    network of images ``(y, x)`` takes slices of static scans and frames of dynamic ones.

    Raises:
        DataError: if the file cannot be read; CheckpointError: if the checkpoint cannot.
    """
    if path.suffix == ".npy":
        return read_array(path), None, None
    config = read_config(read_checkpoint(checkpoint), checkpoint)
    scan = open_scan(path, config.data.format if format is None else format)
    items = config.data.items
    if config.data.ndim == 2:
        items = "frames" if scan.dynamic else "slices"
    return measurements(scan, items)


def save_reconstruction(path: Path, image: Tensor, zero_filled: Tensor) -> list[Path]:
    """Write an image as ``.npy``, and a picture of it beside the zero-filled image as ``.png``.

    Args:
        path: the ``.npy`` file.
        image: complex ``(*any, y, x)``; the picture shows the plane in the middle.
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
    """The middle plane ``(y, x)`` along every other axis; of two map sets the first."""
    while image.ndim > 2:
        image = image[(len(image) - 1) // 2]
    return image
