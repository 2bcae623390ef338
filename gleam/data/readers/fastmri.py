"""Multi-coil knee and brain files of fastMRI (arXiv 1811.08839).

``kspace`` is complex64 ``(slices, coils, readout, phase)``, readout oversampled twofold, and
``ismrmrd_header`` the scanner's header in XML. Columns that the header does not list as encoded
are zero padding. The files of the test sets hold a ``mask`` of the sampled columns as well.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import cached_property
from pathlib import Path

import numpy as np

from gleam.data.hdf5 import contents, dataset, keys_of, opened, read, read_complex, shape_of
from gleam.data.scan import EVERYTHING, DataError, Fact, Scan

NAMESPACE = {"": "http://www.ismrm.org/ISMRMRD"}
SEQUENCE = {
    "repetition_time": "sequenceParameters/TR",
    "echo_time": "sequenceParameters/TE",
    "inversion_time": "sequenceParameters/TI",
    "flip_angle": "sequenceParameters/flipAngle_deg",
    "field_strength": "acquisitionSystemInformation/systemFieldStrength_T",
}


class FastmriScan(Scan):
    """A multi-coil scan of fastMRI: y is the readout, x the phase encoding."""

    format = "fastmri"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """HDF5 with ``kspace`` and the header or the reconstruction of fastMRI."""
        keys = keys_of(path)
        return "kspace" in keys and bool(keys & {"ismrmrd_header", "reconstruction_rss"})

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dataset ``kspace``."""
        if len(contents(self.path).shapes.get("kspace", ())) == 3:
            raise DataError(
                f"{self.path}, kspace: three axes are those of single-coil data, which have no "
                "coils to combine; use the multi-coil files"
            )
        return shape_of(self.path, "kspace", "(slices, coils, y, x)")

    @cached_property
    def header(self) -> dict[str, Fact]:
        """Sequence, timing and geometry from the ISMRMRD header."""
        xml = self._xml()
        # the field of view and not the matrix: that of the image may be interpolated
        encoded, image = (
            {axis: self._length(xml, f"encoding/{space}/fieldOfView_mm/{axis}") for axis in "xyz"}
            for space in ("encodedSpace", "reconSpace")
        )
        rows, columns = self.shape[-2:]
        facts: dict[str, Fact] = {
            "acquisition": "2D",
            "oversampling": max(1.0, encoded["x"] / image["x"]),
            "voxel_size": [image["z"], encoded["x"] / rows, encoded["y"] / columns],
        }
        name = contents(self.path).attributes.get("acquisition")
        name = name or xml.findtext("measurementInformation/protocolName", None, NAMESPACE)
        if name:
            facts["sequence"] = str(name)
        for key, place in SEQUENCE.items():
            if xml.find(place, NAMESPACE) is not None:
                facts[key] = self._number(xml, place)
        return facts

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices."""
        return read_complex(self.path, "kspace", slices)

    def acquired(self) -> np.ndarray | None:
        """Columns ``(1, x)`` that are encoded, and in the mask if there is one."""
        columns = self.shape[-1]
        acquired = np.zeros(columns, dtype=np.float32)
        acquired[slice(*self._encoded(columns))] = 1
        if self.undersampled:
            with opened(self.path) as file:
                mask = read(dataset(file, self.path, "mask"), self.path).reshape(-1)
            if len(mask) != columns:
                raise DataError(
                    f"{self.path}, mask: expected one value for each of {columns} columns, got "
                    f"{len(mask)}"
                )
            acquired *= mask != 0
        return None if acquired.all() else acquired[None]

    @cached_property
    def undersampled(self) -> bool:
        """Whether the file holds a mask."""
        return "mask" in contents(self.path).shapes

    def _encoded(self, columns: int) -> tuple[int, int]:
        """First column that is encoded, and the one behind the last."""
        xml = self._xml()
        limits = "encoding/encodingLimits/kspace_encoding_step_1"
        if xml.find(limits, NAMESPACE) is None:
            return 0, columns
        lowest, highest, centre = (
            round(self._number(xml, f"{limits}/{key}")) for key in ("minimum", "maximum", "center")
        )
        first = columns // 2 - centre
        left, right = max(0, first + lowest), min(columns, first + highest + 1)
        if left >= right:
            raise self._unreadable(f"{limits} leaves none of {columns} columns")
        return left, right

    def _xml(self) -> ElementTree.Element:
        with opened(self.path) as file:
            text = read(dataset(file, self.path, "ismrmrd_header"), self.path).item()
        try:
            return ElementTree.fromstring(text)
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise self._unreadable(str(error)) from error

    def _number(self, xml: ElementTree.Element, place: str) -> float:
        text = xml.findtext(place, None, NAMESPACE)
        try:
            return float(text or "")
        except ValueError as error:
            raise self._unreadable(f"{place} must be a number, got {text!r}") from error

    def _length(self, xml: ElementTree.Element, place: str) -> float:
        length = self._number(xml, place)
        if not 0 < length < float("inf"):
            raise self._unreadable(f"{place} must be a length in mm, got {length}")
        return length

    def _unreadable(self, why: str) -> DataError:
        return DataError(f"{self.path}, ismrmrd_header: unreadable header: {why}")
