"""One raw scan, from its file to a verified file of the library."""

from __future__ import annotations

import json
import os
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gleam.data.check import inspect, said
from gleam.data.estimate import SMALLEST_CALIBRATION, estimate_maps
from gleam.data.oversampling import acquired_kept, rows_kept
from gleam.data.readers.prepared import PreparedScan, write_scan
from gleam.data.scan import DataError, Fact, Scan
from physics.calibration import MAP_METHODS
from physics.coils import sense_combine
from physics.preparation import (
    compress_geometric,
    compress_svd,
    noise_covariance,
    prewhiten,
    remove_oversampling,
)

VERSION = 1  # of what is computed here; files of another version are made again
COMPRESSIONS = ("svd", "geometric")
RECORD, ENERGY, EMPTY = "prepared", "energy_kept", "empty_slices"  # keys of the header
LEAST_ENERGY = 0.95  # that compression should keep
ENDS = 2**16  # bytes at each end of a source file that tell it from another


@dataclass(frozen=True)
class PrepareSettings:
    """How scans are prepared.

    Coil maps and targets that come with a file, as in SKM-TEA and NIfTI, are estimated anew.

    Attributes:
        maps: method that coil maps are estimated by, a name in
            :data:`physics.calibration.MAP_METHODS`.
        sets: map sets.
        calibration: largest extent of the k-space block that they are estimated from.
        crop: where they are zero, see :class:`physics.calibration.MapMethod`; None: the default of
            the method.
        volume: estimate them in 3D; None: where the acquisition is 3D.
        coils: number of virtual coils to keep; None: all coils as they are.
        compression: svd (the same virtual coils everywhere) or geometric (other ones, aligned, at
            each position of the readout).
    """

    maps: str = "espirit"
    sets: int = 1
    calibration: int = 24
    crop: float | Literal["auto"] | None = None
    volume: bool | None = None
    coils: int | None = None
    compression: str = "svd"

    def __post_init__(self) -> None:
        """Refuse what cannot work before any file is read."""
        for name, value, known in (
            ("maps", self.maps, sorted(MAP_METHODS)),
            ("compression", self.compression, COMPRESSIONS),
        ):
            if value not in known:
                raise ValueError(f"{name}: choose from {', '.join(known)}, got {value!r}")
        for name, number, least in (
            ("sets", self.sets, 1),
            ("calibration", self.calibration, SMALLEST_CALIBRATION),
            ("coils", 1 if self.coils is None else self.coils, 1),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        if isinstance(self.crop, float) and not 0 <= self.crop <= 1:
            raise ValueError(f"crop must be auto or lie between 0 and 1, got {self.crop}")


@dataclass(frozen=True)
class Prepared:
    """What became of a scan.

    Attributes:
        name: of the scan; of a file that could not be opened its place in the source.
        source: its file.
        path: the file made of it.
        status: prepared, skipped (it was there) or failed.
        note: why it failed or was made again; empty if there is nothing to say.
        shape: of the prepared k-space; empty if it failed.
        energy: fraction of the signal energy that coil compression kept; 1 without.
        seconds: that it took.
    """

    name: str
    source: Path
    path: Path
    status: Literal["prepared", "skipped", "failed"]
    note: str = ""
    shape: tuple[int, ...] = ()
    energy: float = 1.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """A scan to prepare.

    Attributes:
        scan: the raw scan.
        path: the file to write.
        settings: how.
        covariance: of its noise, complex ``(coils, coils)``; None: from the scan's noise samples.
        record: see :func:`record`; taken before the file is read, so that a later change shows.
        note: why it is made again.
    """

    scan: Scan
    path: Path
    settings: PrepareSettings
    covariance: np.ndarray | None
    record: dict[str, object]
    note: str = ""

    @property
    def failed(self) -> Prepared:
        """What is reported if nothing comes of it; lacks the reason."""
        return Prepared(self.scan.name, self.scan.path, self.path, "failed")

    @property
    def staged(self) -> Path:
        """Where the file is written and verified before it gets its name."""
        return self.path.with_name(f".{self.path.name}.unverified")

    def clean(self) -> None:
        """Remove what is left of a file that was not finished."""
        for path in (self.staged, self.staged.with_name(f"{self.staged.name}.partial")):
            path.unlink(missing_ok=True)


def record(
    path: Path, settings: PrepareSettings, covariance: np.ndarray | None
) -> dict[str, object]:
    """Plain values that change with whatever changes the result: file, settings, version."""
    noise = None if covariance is None else zlib.crc32(covariance.tobytes())
    return {
        "version": VERSION,
        "source": fingerprint(path),
        "settings": {**asdict(settings), "covariance": noise},
    }


def fingerprint(path: Path) -> dict[str, object]:
    """Name, size, time of change and CRC32 of both ends of a file, and of its header beside it.

    (BART's sizes lie in a ``.hdr`` beside the ``.cfl``.)
    """
    result: dict[str, object] = {"name": path.name}
    for part in sorted({path, path.with_suffix(".hdr")}):
        if part.is_file():
            status = part.stat()
            with open(part, "rb") as file:
                crc = zlib.crc32(file.read(ENDS))
                file.seek(max(0, status.st_size - ENDS))
                crc = zlib.crc32(file.read(ENDS), crc)
            result[part.suffix] = [status.st_size, status.st_mtime_ns, crc]
    return result


def prepare_scan(job: Job) -> Prepared:
    """Read, process, write and verify one scan; a failure is reported, not raised."""
    start = time.monotonic()
    try:
        shape, energy, note = _prepare(job)
    except Exception as error:  # whatever is wrong with one file, the others are prepared
        return replace(job.failed, note=said(error), seconds=time.monotonic() - start)
    return Prepared(
        job.scan.name,
        job.scan.path,
        job.path,
        "prepared",
        ", ".join(filter(None, (job.note, note))),
        shape,
        energy,
        time.monotonic() - start,
    )


def _prepare(job: Job) -> tuple[tuple[int, ...], float, str]:
    """Shape of the k-space written, share of its energy that was kept, and what to note."""
    scan, settings = job.scan, job.settings
    kspace, covariance = _samples(scan), _covariance(job)
    if covariance is not None:
        kspace = prewhiten(kspace, covariance)
    rows, acquired = rows_kept(scan), acquired_kept(scan)
    if rows < scan.shape[-2]:
        # slice by slice to save memory
        kspace = torch.cat([remove_oversampling(part, rows, -2) for part in kspace.split(1)])
        if acquired is not None:
            kspace *= torch.from_numpy(acquired)  # some leaks into holes along the readout
    kspace, energy = _compressed(kspace, scan, settings)
    maps = estimate_maps(
        kspace,
        settings.maps,
        settings.calibration,
        settings.sets,
        settings.crop,
        volume=_is_volume(scan) if settings.volume is None else settings.volume,
        dynamic=scan.dynamic,
    )
    empty = [float(n) for n, part in enumerate(maps) if not part.any()]
    if len(empty) == len(maps):
        raise ValueError("the coil maps are zero everywhere; use a smaller crop")
    header = {key: fact for key, fact in scan.header.items() if key != "oversampling"}
    header |= {RECORD: json.dumps(job.record), ENERGY: energy, EMPTY: empty}
    header["prewhitened"] = covariance is not None
    target = None if scan.undersampled else _combined(kspace, maps)
    _write(job, kspace, maps, target, acquired, header)
    notes = [f"{len(empty)} slices without an object"] if empty else []
    notes += [f"only {energy:.3f} of the energy kept"] if energy < LEAST_ENERGY else []
    return tuple(kspace.shape), energy, ", ".join(notes)


def _samples(scan: Scan) -> Tensor:
    """The k-space, finite and with a signal in every slice."""
    kspace = torch.from_numpy(np.require(scan.kspace(), np.complex64, ["C", "W"]))
    for number, samples in enumerate(torch.view_as_real(kspace)):
        if not samples.isfinite().all():
            raise DataError(f"{scan.path}, kspace[{number}]: holds NaN or infinity")
        if not samples.any():
            raise DataError(f"{scan.path}, kspace[{number}]: all samples are zero")
    return kspace


def _covariance(job: Job) -> Tensor | None:
    """Of the noise, up to a factor: noise may be measured with another bandwidth than the image."""
    if job.covariance is not None:
        return torch.from_numpy(job.covariance)
    noise = job.scan.noise()
    return None if noise is None else noise_covariance(torch.from_numpy(noise))


def _is_volume(scan: Scan) -> bool:
    return scan.header.get("acquisition") == "3D" and scan.shape[0] >= SMALLEST_CALIBRATION


def _compressed(kspace: Tensor, scan: Scan, settings: PrepareSettings) -> tuple[Tensor, float]:
    coils = settings.coils
    if coils is None or coils >= kspace.shape[1]:
        return kspace, 1.0
    if settings.compression == "svd":
        return compress_svd(kspace, coils)
    return compress_geometric(kspace, coils, 0 if scan.header.get("acquisition") == "3D" else -2)


def _combined(kspace: Tensor, maps: Tensor) -> Tensor:
    """SENSE combination ``(slices, sets, *space)``, slice by slice to save memory."""
    parts = zip(kspace.split(1), maps.split(1), strict=True)
    return torch.cat([sense_combine(samples, coils) for samples, coils in parts])


def _write(
    job: Job,
    kspace: Tensor,
    maps: Tensor,
    target: Tensor | None,
    acquired: np.ndarray | None,
    header: dict[str, Fact],
) -> None:
    """Write the file, read it again, and give it its name if that was what was written."""
    job.path.parent.mkdir(parents=True, exist_ok=True)
    image = None if target is None else target.numpy()
    write_scan(
        job.staged,
        kspace.numpy(),
        maps.numpy(),
        image,
        header=header,
        acquired=acquired,
        undersampled=job.scan.undersampled,
    )
    written = inspect(PreparedScan(job.staged))
    if written.problems or written.shape != tuple(kspace.shape):
        raise DataError("; ".join(written.problems) or f"wrote a k-space of {written.shape}")
    os.replace(job.staged, job.path)
