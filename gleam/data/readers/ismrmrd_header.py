"""What a reader needs of an ISMRMRD file's XML header."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from gleam.data.scan import DataError, Fact


@dataclass(frozen=True)
class Encoding:
    """One encoded direction: the readout, step 1 or step 2.

    Attributes:
        size: of the encoded matrix.
        fov: encoded field of view [mm].
        recon_fov: field of view that is meant to be seen [mm].
        maximum: largest counter, 0 if the header does not say.
        centre: counter of the centre of k-space, None if the header does not say.
        chopped: True if the sign of every other line must be changed to centre the image.
    """

    size: int
    fov: float
    recon_fov: float
    maximum: int = 0
    centre: int | None = None
    chopped: bool = False


@dataclass(frozen=True)
class MrdHeader:
    """The encoded directions (readout, step 1, step 2), whether the scan was accelerated, and
    what is known of its protocol."""

    encodings: tuple[Encoding, Encoding, Encoding]
    accelerated: bool
    facts: dict[str, Fact]


def parse_header(document: bytes | str, where: str) -> MrdHeader:
    """Read the XML header of a Cartesian scan.

    Args:
        document: the XML.
        where: names the file and the dataset in errors.

    Raises:
        DataError: if it is not such a header, or the trajectory is not Cartesian.
    """
    import ismrmrd  # here: it takes a quarter of a second

    try:
        with warnings.catch_warnings():
            # A malformed date of birth must not stop anybody: what is used is checked below.
            warnings.simplefilter("ignore")
            header = ismrmrd.xsd.CreateFromDocument(document)
        encoding = header.encoding[0]
        trajectory = getattr(encoding.trajectory, "value", encoding.trajectory)
        directions = _encodings(header, encoding)
        factor = getattr(encoding.parallelImaging, "accelerationFactor", None)
        factors = [] if factor is None else [int(f) for f in vars(factor).values()]
        facts = _facts(header)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{where} is no readable ISMRMRD header: {error}") from error
    if trajectory != "cartesian":
        raise DataError(f"{where}: the trajectory must be cartesian, got {trajectory}")
    return MrdHeader(directions, max(factors, default=1) > 1, facts)


def _encodings(header: Any, encoding: Any) -> tuple[Encoding, Encoding, Encoding]:
    # Stanford's scans at mridata.org (converted from GE's raw files) say ChopY 0 where the
    # radio frequency was not alternated, which leaves the image shifted by half its field of view.
    user = header.userParameters.userParameterLong if header.userParameters else []
    unchopped = {entry.name for entry in user if int(entry.value) == 0}
    limits = encoding.encodingLimits
    one, two = limits.kspace_encoding_step_1, limits.kspace_encoding_step_2
    return (
        _encoding(encoding, "x", None, False),
        _encoding(encoding, "y", one, "ChopY" in unchopped),
        _encoding(encoding, "z", two, "ChopZ" in unchopped),
    )


def _encoding(encoding: Any, axis: str, limit: Any, chopped: bool) -> Encoding:
    size = int(getattr(encoding.encodedSpace.matrixSize, axis))
    fov = float(getattr(encoding.encodedSpace.fieldOfView_mm, axis))
    recon_fov = float(getattr(encoding.reconSpace.fieldOfView_mm, axis))
    if size < 1:
        raise ValueError(f"encodedSpace.matrixSize.{axis} must be positive, got {size}")
    maximum, centre = (0, 0) if limit is None else (int(limit.maximum), int(limit.center))
    # The centre is 0 by default in the schema; no scan starts at the centre of k-space.
    return Encoding(size, fov, recon_fov, maximum, centre or None, chopped)


def _facts(header: Any) -> dict[str, Fact]:
    system, measurement = header.acquisitionSystemInformation, header.measurementInformation
    protocol = header.sequenceParameters
    candidates = {
        "sequence": getattr(measurement, "protocolName", None),
        "field_strength": getattr(system, "systemFieldStrength_T", None),
        "repetition_time": _first(protocol, "TR"),
        "echo_time": _first(protocol, "TE"),
        "inversion_time": _first(protocol, "TI"),
        "flip_angle": _first(protocol, "flipAngle_deg"),
    }
    # What could not be converted is still a string.
    return {
        key: value
        for key, value in candidates.items()
        if isinstance(value, str if key == "sequence" else float)
    }


def _first(protocol: Any, name: str) -> object:
    values = getattr(protocol, name, None)
    return values[0] if values else None
