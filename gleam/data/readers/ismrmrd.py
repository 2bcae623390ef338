"""ISMRMRD files (Inati et al., MRM 2017, doi:10.1002/mrm.26089), as mridata.org has them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from gleam.data.hdf5 import dataset, keys_of, opened, read
from gleam.data.readers.ismrmrd_header import MrdHeader, parse_header
from gleam.data.readers.ismrmrd_layout import Layout, plan
from gleam.data.readers.sampling import without_constant_axes
from gleam.data.scan import EVERYTHING, DataError, Fact, Scan, check_shape
from physics.fourier import ifft

_DATA, _XML = "dataset/data", "dataset/xml"
_BLOCK = 1024  # acquisitions of the file that are read at a time


class IsmrmrdScan(Scan):
    """A Cartesian scan of the ISMRM raw data format, 2D or 3D, static or dynamic.

    Acquisitions may come in any order: their encoding counters say where they belong. Time is the
    cardiac phase or, where there is only one, the repetition. Repeated lines are averaged. Of
    several contrasts and sets the first is read; the header says how many there are. Noise
    measurements are kept apart; navigators, phase correction, separate calibration and the like
    are left out. Lines that were not acquired are zero: partial Fourier, elliptical shutters.

    Matrix sizes in headers are often off by one, so arrays grow to hold all counters, with the
    centre of k-space on ``n // 2``. A 3D readout is cut to the field of view of the
    reconstruction once it is transformed, which loses nothing inside it.
    """

    format = "ismrmrd"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is an HDF5 file with a group ``dataset``."""
        return "dataset" in keys_of(path)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read of the acquisitions: a scan is cheap to send."""
        return {key: value for key, value in vars(self).items() if key != "_layout"}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the k-space, from header and counters."""
        layout = self._layout
        slices, frames = layout.slices, len(layout.lines)
        readout, one, two = layout.sizes
        space = (one, two) if layout.is_3d else (readout, one)
        slices = self._visible[1] if layout.is_3d else slices
        time = (frames,) if frames > 1 else ()
        return check_shape((slices, layout.coils, *time, *space), f"{self.path}, {_DATA}")

    @property
    def whole(self) -> bool:
        """True if 3D, as every slice along the readout needs all acquisitions, or interleaved."""
        return self._layout.is_3d or self._layout.interleaved

    @cached_property
    def header(self) -> dict[str, Fact]:
        """Facts of the XML header; ``contrasts`` and ``sets`` where there are several."""
        layout, (readout, one, two) = self._layout, self._mrd.encodings
        sizes = layout.sizes
        voxel = [encoding.fov / n for encoding, n in zip((readout, one, two), sizes, strict=True)]
        facts = dict(self._mrd.facts)
        facts["acquisition"] = "3D" if layout.is_3d else "2D"
        facts["voxel_size"] = voxel if layout.is_3d else [voxel[2], voxel[0], voxel[1]]
        if not layout.is_3d and readout.fov > readout.recon_fov > 0:
            facts["oversampling"] = readout.fov / readout.recon_fov
        for name, number in (("contrasts", layout.contrasts), ("sets", layout.sets)):
            if number > 1:
                facts[name] = number
        return facts

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices; reads the whole file for a slice of a 3D acquisition."""
        layout, wanted = self._layout, np.arange(self.shape[0])[slices]
        frames, space = len(layout.lines), self.shape[-2:]
        out = np.zeros((len(wanted), layout.coils, frames, *space), np.complex64)
        target = np.full(layout.slices, -1)
        target[... if layout.is_3d else wanted] = 0 if layout.is_3d else np.arange(len(wanted))
        needed = np.flatnonzero(target[layout.places[0]] >= 0)
        with opened(self.path) as file:
            data = dataset(file, self.path, _DATA)
            stretch = layout.rows[needed] // _BLOCK
            for number in np.unique(stretch):
                block = needed[stretch == number]
                lines = self._lines(data, block)
                # Lines that share a place are added one after the other.
                for turn in np.unique(layout.turns[block]):
                    now = layout.turns[block] == turn
                    slice_, frame, two, one = layout.places[:, block[now]]
                    if layout.is_3d:
                        positions = ifft(torch.from_numpy(lines[now]), (-1,)).numpy()
                        positions = positions[..., self._visible[0] + wanted]
                        out[:, :, frame, one, two] += positions.transpose(2, 1, 0)
                    else:
                        out[target[slice_], :, frame, :, one] += lines[now]
        return out if len(self.shape) == 5 else out[:, :, 0]

    def acquired(self) -> np.ndarray | None:
        """Where there are samples, float32; None if everywhere."""
        lines, layout = self._layout.lines, self._layout
        if layout.is_3d:
            mask = lines.swapaxes(-1, -2)
        else:
            readout = np.zeros((layout.sizes[0], 1), bool)
            first, stop, _ = layout.window
            readout[layout.start : layout.start + stop - first] = True
            mask = lines & readout
        mask = mask if len(self.shape) == 5 else mask[0]
        if mask.all():
            return None
        return without_constant_axes(mask).astype(np.float32)

    @cached_property
    def undersampled(self) -> bool:
        """Whether the header or holes in the sampled part of k-space say so."""
        return self._mrd.accelerated or self._layout.undersampled

    def noise(self) -> np.ndarray | None:
        """Samples of the noise measurements, complex64 ``(coils, samples)``."""
        rows = self._layout.noise
        if not rows.size:
            return None
        with opened(self.path) as file:
            data = dataset(file, self.path, _DATA)
            samples = [self._samples(data, rows[i : i + 1])[0] for i in range(len(rows))]
        return np.concatenate(samples, axis=1)

    @cached_property
    def _mrd(self) -> MrdHeader:
        with opened(self.path) as file:
            document = read(dataset(file, self.path, _XML), self.path)
        if document.size != 1 or not isinstance(document.flat[0], str | bytes):
            raise DataError(f"{self.path}, {_XML} must hold one text, got {document.dtype}")
        return parse_header(document.flat[0], f"{self.path}, {_XML}")

    @cached_property
    def _layout(self) -> Layout:
        with opened(self.path) as file:
            heads = read(dataset(file, self.path, _DATA), self.path, "head")
        return plan(heads, self._mrd, f"{self.path}, {_DATA}")

    @property
    def _visible(self) -> tuple[int, int]:
        """Where the readout of a 3D acquisition is cut: first position, and how many."""
        readout, size = self._mrd.encodings[0], self._layout.sizes[0]
        share = readout.recon_fov / readout.fov if readout.fov > 0 else 1.0
        count = round(size * share) if 0 < share < 1 else size
        return size // 2 - count // 2, count

    def _lines(self, data: h5py.Dataset, block: np.ndarray) -> np.ndarray:
        """Some imaging acquisitions on the grid of the readout, divided by how often they are
        repeated; complex64 ``(acquisitions, coils, readout)``."""
        layout = self._layout
        samples = self._samples(data, layout.rows[block])
        first, stop, _ = layout.window
        if samples.shape[-1] < stop:
            raise DataError(
                f"{self.path}, {data.name} must hold {stop} samples of every coil as its heads "
                f"say, got {samples.shape[-1]}"
            )
        backwards = layout.backwards[block]
        samples[backwards] = samples[backwards, :, ::-1]
        lines = np.zeros((len(block), layout.coils, layout.sizes[0]), np.complex64)
        lines[..., layout.start : layout.start + stop - first] = samples[..., first:stop]
        lines *= layout.weights[block, None, None]
        return lines

    def _samples(self, data: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
        """Complex64 ``(acquisitions, coils, samples)`` of ascending rows."""
        first, stop = int(rows[0]), int(rows[-1]) + 1
        stored = read(data, self.path, ("data", slice(first, stop)))[rows - first]
        where = f"{self.path}, {data.name}[{first}:{stop}]"
        try:
            samples = np.stack(stored).astype(np.float32, casting="same_kind", copy=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where} must hold float32 of one length: {error}") from error
        coils = self._layout.coils
        if samples.shape[1] == 0 or samples.shape[1] % (2 * coils):
            raise DataError(
                f"{where} must hold pairs of numbers of {coils} coils, got {samples.shape[1]}"
            )
        return samples.view(np.complex64).reshape(len(rows), coils, -1)
