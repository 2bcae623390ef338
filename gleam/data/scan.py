"""One scan, whatever the format of the file it lies in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

Fact = str | int | float | bool | list[float]
EVERYTHING = slice(None)


class DataError(ValueError):
    """A file that cannot be used; the message names the file and the dataset in it."""


class Scan(ABC):
    """A multi-coil Cartesian scan whose samples are still on disk.

    K-space is ``(slices, coils, y, x)``, or ``(slices, coils, t, y, x)`` if dynamic: the centred
    orthonormal FFT of the coil images along y and x. y is the readout of a 2D acquisition, x a
    phase encoding. The readout of a 3D acquisition is already transformed and runs along the
    slices; y and x are its two phase encodings. Oversampling of the readout is left in only
    where ``header["oversampling"]`` says so (a factor, along y).

    A scan is cheap to make and to send to another process: it holds a path. Files are opened
    where they are read, and closed again.

    Attributes:
        format: name of the file format.
        path: the file.
        name: unique in a data set; seeds the scan's fixed masks.
    """

    format: ClassVar[str]

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name_of(self.path) if name is None else name

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether an existing file is of this format; never raises for a file that is not."""

    @classmethod
    def all_of(cls, path: Path, name: str) -> Sequence[Scan]:
        """The scans in a file: one of this name, unless the format packs several into a file.

        Raises:
            DataError: if the file must be read for that and cannot be.
        """
        return [cls(path, name)]

    @cached_property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the k-space, from the file's header alone.

        Raises:
            DataError: if the header cannot be read or does not make sense.
        """

    @cached_property
    def header(self) -> dict[str, Fact]:
        """What the file says of the scan, in plain values; keys where known:

        ``acquisition`` ("2D" or "3D"), ``voxel_size`` [mm] along (slices, y, x), ``sequence``,
        ``field_strength`` [T], ``repetition_time``, ``echo_time``, ``inversion_time`` [ms],
        ``flip_angle`` [degrees], ``oversampling`` (along y), ``simulated`` (True if the k-space
        was made from magnitude images). ``gleam prepare`` adds ``prepared`` (how, JSON),
        ``energy_kept`` (by coil compression), ``prewhitened`` and ``empty_slices`` (without an
        object, so that their coil maps are zero).
        """
        return {}

    @abstractmethod
    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices, complex64, contiguous.

        Raises:
            DataError: if they cannot be read, naming file and dataset.
        """

    def maps(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Coil maps of the file, complex64 ``(slices, maps, coils, y, x)`` (t of size 1)."""
        return None

    def target(self, slices: slice = EVERYTHING) -> np.ndarray | None:
        """Reference image of the file, complex64 ``(slices, maps, y, x)`` (or ``t, y, x``)."""
        return None

    def acquired(self) -> np.ndarray | None:
        """Where there are samples: float32, 0 or 1, shape of space, size 1 where constant.

        None if everywhere. Zero padding and partial Fourier leave holes too.
        """
        return None

    @cached_property
    def undersampled(self) -> bool:
        """Whether samples are missing on purpose, so that there is no reference image."""
        return False

    def noise(self) -> np.ndarray | None:
        """Noise samples without signal, complex64 ``(coils, samples)``, if the file has them."""
        return None

    @property
    def whole(self) -> bool:
        """Whether reading one slice takes as long as reading all."""
        return False

    @property
    def dynamic(self) -> bool:
        """Whether there is an axis of time."""
        return len(self.shape) == 5

    @property
    def nbytes(self) -> int:
        """Size of the k-space in memory."""
        return 8 * math.prod(self.shape)


def name_of(path: Path) -> str:
    """The file's name without its suffix; ``.nii.gz`` and the like are one."""
    return Path(path.name.removesuffix(".gz")).stem


def check_shape(shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    """The shape, if it can be that of a scan's k-space.

    Raises:
        DataError: if it has not 4 or 5 axes or one of them is empty.
    """
    if len(shape) not in (4, 5) or 0 in shape:
        raise DataError(
            f"{where}: k-space must be (slices, coils, y, x) or (slices, coils, t, y, x), none of "
            f"them 0, got {tuple(shape)}"
        )
    return tuple(int(n) for n in shape)
