"""NIfTI: magnitude images, whose k-space is simulated."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gleam.data.examples import generator
from gleam.data.scan import EVERYTHING, DataError, Fact, Scan, check_shape
from physics.acquisition import background_phase
from physics.fourier import fft
from physics.receive import CoilArray, add_noise, coil_maps
from physics.texture import Axes

_COILS = 8
_SNR = 100.0
_DIP = 0.1  # interpolation may make magnitudes as negative as this, as a share of the largest
_MARGIN = 15.0  # between the field of view and the coils [mm]


@dataclass(frozen=True)
class _Geometry:
    """Shape ``([t,] z, y, x)``, voxel size [mm] along z, y and x, and nibabel's orientation."""

    shape: tuple[int, ...]
    voxel_size: list[float]
    orientation: np.ndarray


class NiftiScan(Scan):
    """Axial slices of a magnitude volume with simulated coils, phase and noise.

    Rows run from front to back, columns from the patient's right to the left, slices from the
    feet to the head, whatever the orientation of the file; a fourth axis is time. Magnitudes are
    divided by the 95th percentile of the bright voxels (those above the mean). Coils and phase are
    smooth fields at the voxels' physical places, noise is white and of its own for every slice
    (``header["snr"]`` is that percentile, 1, over its standard deviation in the real part). All
    of it comes from the scan's name, so every process simulates the same.
    """

    format = "nifti"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether its name ends as those of NIfTI files do."""
        return path.name.lower().endswith((".nii", ".nii.gz"))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the k-space, from the file's header."""
        *time, z, y, x = self._geometry.shape
        return check_shape((z, _COILS, *time, y, x), str(self.path))

    @cached_property
    def header(self) -> dict[str, Fact]:
        """Voxel size, and that the k-space is simulated, with which SNR."""
        return {
            "acquisition": "2D",
            "voxel_size": self._geometry.voxel_size,
            "simulated": True,
            "snr": _SNR,
        }

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Simulated samples of some slices, the same however many are asked for at once."""
        numbers = range(*slices.indices(self.shape[0]))
        images = self._images(slices)
        kspace = torch.empty(len(numbers), *self.shape[1:], dtype=torch.complex64)
        for place, number in enumerate(numbers):
            maps = self._maps(number)
            maps = maps[:, None] if self.dynamic else maps
            noise = generator("nifti noise", self.name, number)
            kspace[place] = add_noise(fft(maps * images[place]), 1 / _SNR, noise)
        return kspace.numpy()

    def maps(self, slices: slice = EVERYTHING) -> np.ndarray:
        """The simulated coil maps, complex64 ``(slices, 1, coils, y, x)`` (t of size 1)."""
        numbers = range(*slices.indices(self.shape[0]))
        size = (len(numbers), 1, _COILS, *self.shape[-2:])
        maps = torch.empty(size, dtype=torch.complex64)
        for place, number in enumerate(numbers):
            maps[place, 0] = self._maps(number)
        return (maps[:, :, :, None] if self.dynamic else maps).numpy()

    def target(self, slices: slice = EVERYTHING) -> np.ndarray:
        """The image without noise, which is its own SENSE combination."""
        return self._images(slices)[:, None].numpy()

    @cached_property
    def _geometry(self) -> _Geometry:
        with _readable(self.path) as image:
            return _geometry(image, self.path)

    @cached_property
    def _level(self) -> float:
        """The magnitude that becomes 1."""
        with _readable(self.path):
            if self.path.suffix.lower() == ".gz":
                _check_sum(self.path)
        volume = self._volume()
        bright = volume[volume > volume.mean(dtype=np.float64)]
        if not np.isfinite(volume).all() or not bright.size or volume.min() < -_DIP * volume.max():
            raise DataError(
                f"{self.path} must hold finite, positive magnitudes that are not all the same, "
                f"got {volume.min()} .. {volume.max()}"
            )
        return float(np.percentile(bright, 95))

    def _volume(self) -> np.ndarray:
        """Magnitudes as they are stored, float32 ``(z, y, x)`` or ``(t, z, y, x)``."""
        import nibabel

        with _readable(self.path) as image:
            data = image.get_fdata(dtype=np.float32, caching="unchanged")
            # To the right, the front and the head; then the first two turned around.
            data = nibabel.apply_orientation(data, self._geometry.orientation)
        data = data[::-1, ::-1].T
        return data[0] if data.ndim == 4 and len(data) == 1 else data

    def _images(self, slices: slice) -> Tensor:
        """Complex64 ``(slices, y, x)`` or ``(slices, t, y, x)``."""
        volume = self._volume()
        magnitudes = volume[:, slices].swapaxes(0, 1) if self.dynamic else volume[slices]
        images = torch.from_numpy(np.ascontiguousarray(magnitudes / self._level))
        complete = torch.empty(images.shape, dtype=torch.complex64)
        for place, number in enumerate(range(*slices.indices(self.shape[0]))):
            phase = background_phase(self._axes(number), generator("nifti phase", self.name))[0]
            complete[place] = torch.polar(
                images[place].clamp(min=0), phase.expand_as(images[place])
            )
        return complete

    def _maps(self, number: int) -> Tensor:
        """Complex64 ``(coils, y, x)`` of a slice, by itself: the same in every company."""
        extent = [
            n * size / 2 + _MARGIN
            for n, size in zip(self.shape[-2:], self._geometry.voxel_size[1:], strict=True)
        ]
        array = CoilArray(_COILS, semi_axes=(extent[0], extent[1]))
        return coil_maps(self._axes(number), array, generator("nifti coils", self.name))[0][:, 0]

    def _axes(self, number: int) -> Axes:
        """Coordinates [mm] of a slice; the origin is the middle of the volume."""
        dz, dy, dx = self._geometry.voxel_size
        y, x = (
            (torch.arange(n) - n // 2) * size
            for n, size in zip(self.shape[-2:], (dy, dx), strict=True)
        )
        return torch.tensor([(number - self.shape[0] // 2) * dz]), y, x


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    """The image, nothing read but its header; whatever goes wrong with it is a DataError."""
    import nibabel  # here: it takes a fifth of a second
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no readable NIfTI file: {error}") from error


def _check_sum(path: Path) -> None:
    """Read to the end of a gzip file, where its check sum is; nibabel stops before it."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def _geometry(image: Any, path: Path) -> _Geometry:
    from nibabel import io_orientation
    from nibabel.affines import voxel_sizes

    kind = image.get_data_dtype()
    if len(image.shape) not in (3, 4) or 0 in image.shape or kind.kind not in "iuf":
        raise DataError(
            f"{path} must hold the real magnitudes of a volume, or of several over time, got "
            f"{kind} {image.shape}"
        )
    orientation, sizes = io_orientation(image.affine), voxel_sizes(image.affine)
    if not np.isfinite(orientation).all() or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise DataError(
            f"{path}: its affine must give every axis a length, got {image.affine.tolist()}"
        )
    order = np.argsort(orientation[:, 0])[::-1]  # the file's axes that run along z, y and x
    time = image.shape[3:] if image.shape[3:] != (1,) else ()
    return _Geometry(
        shape=(*time, *(int(image.shape[axis]) for axis in order)),
        voxel_size=[float(sizes[axis]) for axis in order],
        orientation=orientation,
    )
