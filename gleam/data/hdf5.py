"""HDF5 files whose every failure is a :class:`DataError` that names file and dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gleam.data.scan import DataError

SUFFIXES = (".h5", ".hdf5", ".mat")
REMEMBERED = 4096  # files whose contents are known without another look
# What h5py raises for damaged files, many of which can be opened.
DAMAGED = (OSError, RuntimeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Contents:
    """The top level of a file.

    Attributes:
        shapes: of the datasets, by name.
        dtypes: of the datasets, by name.
        groups: their names.
        attributes: of the file itself.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, np.dtype] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The open file, for reading; whatever goes wrong with it until it is closed is a DataError.

    Raises:
        DataError: if it is missing, truncated, damaged or no HDF5 file.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"{path} is not a readable HDF5 file: {error}") from error


def contents(path: Path) -> Contents:
    """What the file holds; an unchanged file is opened only once for that.

    Raises:
        DataError: if it is missing, truncated, damaged or no HDF5 file.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file: {error}") from error
    return _contents(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


def glance(path: Path) -> Contents:
    """As :func:`contents`, but nothing if the file is no readable HDF5 file."""
    try:
        return contents(path) if path.suffix in SUFFIXES else Contents()
    except DataError:
        return Contents()


def keys_of(path: Path) -> set[str]:
    """Names of the file's datasets and groups, top level; none if it is no HDF5 file."""
    found = glance(path)
    return {*found.shapes, *found.groups}


def shape_of(path: Path, key: str, *axes: str, kind: str = "c") -> tuple[int, ...]:
    """Shape of a dataset, from the file's header.

    Args:
        path: the file.
        key: name of the dataset.
        axes: what they may be, as ``(slices, coils, y, x)``.
        kind: of its numbers, as numpy calls it: ``c`` complex, ``f`` real.

    Raises:
        DataError: if there is no such dataset, or it has other axes or numbers, or no values.
    """
    found = contents(path)
    if key not in found.shapes:
        there = sorted([*found.shapes, *found.groups])
        raise DataError(f"{path} must hold a dataset {key}, found {there}")
    shape, dtype = found.shapes[key], found.dtypes[key]
    fits = len(shape) in [text.count(",") + 1 for text in axes]
    if not fits or 0 in shape or dtype.kind != kind:
        raise DataError(
            f"{path}, {key}: expected {'complex' if kind == 'c' else 'real'} {' or '.join(axes)}, "
            f"none of them 0, got {dtype} {shape}"
        )
    return shape


def dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """A dataset of an open file.

    Raises:
        DataError: if there is none of this name; lists what there is.
    """
    if key not in file or not isinstance(file[key], h5py.Dataset):
        raise DataError(f"{path} must hold a dataset {key}, found {sorted(file)}")
    return file[key]


def read(data: h5py.Dataset, path: Path, selection: Any = ()) -> np.ndarray:
    """Part of a dataset.

    Raises:
        DataError: if it cannot be read, as in a truncated or damaged file.
    """
    try:
        return np.asarray(data[selection])
    except DAMAGED as error:
        place = f"{data.name.lstrip('/')}{_shown(selection)}"
        raise DataError(f"{path}, {place} cannot be read: {error}") from error


def read_complex(path: Path, key: str, selection: Any = ()) -> np.ndarray:
    """Part of a dataset as complex64.

    Raises:
        DataError: if there is no such dataset, it is not complex or cannot be read.
    """
    with opened(path) as file:
        data = dataset(file, path, key)
        if data.dtype.kind != "c":
            raise DataError(f"{path}, {key}: expected complex numbers, got {data.dtype}")
        return np.asarray(read(data, path, selection), dtype=np.complex64)


@lru_cache(maxsize=REMEMBERED)
def _contents(path: Path, _version: tuple[int, ...]) -> Contents:
    with opened(path) as file:
        # names that are no UTF-8 come as bytes
        items = {str(name): file.get(name) for name in file}
        datasets = {n: item for n, item in items.items() if isinstance(item, h5py.Dataset)}
        return Contents(
            {name: data.shape for name, data in datasets.items()},
            {name: data.dtype for name, data in datasets.items()},
            tuple(name for name in items if name not in datasets),
            dict(file.attrs),
        )


def _shown(selection: Any) -> str:
    parts = selection if isinstance(selection, tuple) else (selection,)
    shown = [
        f"{'' if part.start is None else part.start}:{'' if part.stop is None else part.stop}"
        if isinstance(part, slice)
        else str(part)
        for part in parts
    ]
    return f"[{', '.join(shown)}]" if shown and shown != [":"] else ""
