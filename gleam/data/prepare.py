"""Raw scans of any format into the library's files: ``gleam prepare``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gleam.data.check import LOST, said
from gleam.data.prepare_scan import (
    ENERGY,
    RECORD,
    Job,
    Prepared,
    PrepareSettings,
    prepare_scan,
    record,
)
from gleam.data.readers import find_scans, scans_in
from gleam.data.readers.prepared import PreparedScan
from gleam.data.scan import DataError, Scan, check_shape
from gleam.data.workers import cores, run_jobs

__all__ = ["PrepareSettings", "Prepared", "prepare"]


def prepare(
    source: str | Path,
    out: str | Path,
    settings: PrepareSettings | None = None,
    *,
    covariance: np.ndarray | None = None,
    format: str = "auto",
    workers: int | None = None,
    started: Callable[[int], None] = lambda count: None,
    done: Callable[[Prepared], None] = lambda scan: None,
) -> list[Prepared]:
    """Prewhiten, crop and compress scans, estimate coil maps and combine the target images.

    Writes ``out/<name>.h5`` for every scan, see :mod:`gleam.data.readers.prepared`. Each file is
    read again and compared before it gets its name, so that whatever stops this function leaves no
    half file. Called again, it skips what is there and made from the same file by the same
    settings, and makes the rest; a file that it did not make is never replaced. Undersampled scans
    get coil maps and no target.

    A worker holds one scan at a time and needs three to six times its k-space in memory; ten times
    for low-resolution maps of a volume.

    Args:
        source: a file, or a folder that is searched.
        out: the folder for the files made; outside the source.
        settings: how; by default as :class:`PrepareSettings` says.
        covariance: of the noise, complex ``(coils, coils)``, by which scans are prewhitened; None:
            from the noise samples of each file, if it has any.
        format: of the source, see :mod:`gleam.data.readers`.
        workers: processes; by default one for each core.
        started: called with the number of scans before the first.
        done: called with each scan that was prepared, skipped or failed.

    Returns:
        What became of each scan, by name; first those that could be opened.

    Raises:
        DataError: if there are no scans, or ``out`` lies in the source. Files that cannot be used
            are no error: they are returned as failed.
        ValueError: if the covariance is not square, or there is no such format.
        KeyboardInterrupt: on Ctrl-C, when all workers have ended.
    """
    source, out = Path(source), Path(out)
    _check_places(source, out)
    covariance = None if covariance is None else _checked_covariance(covariance)
    bad: dict[Path, str] = {}
    scans = _scans(source, format, bad)
    started(len(scans) + len(bad))
    results: dict[int, Prepared] = {}

    def finish(number: int, result: Prepared) -> None:
        results[number] = result
        done(result)

    for number, (path, reason) in enumerate(sorted(bad.items()), start=len(scans)):
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        finish(number, Prepared(name, path, out, "failed", reason))
    jobs = _plan(scans, out, settings or PrepareSettings(), covariance, finish)
    order = sorted(jobs, key=lambda number: -scans[number].nbytes)  # the largest ones first

    def end(place: int, result: Prepared | None) -> None:
        number = order[place]
        finish(number, result or replace(jobs[number].failed, note=LOST))

    try:
        run_jobs(prepare_scan, [jobs[number] for number in order], workers or cores(), end)
    finally:
        for job in jobs.values():
            job.clean()
    return [results[number] for number in sorted(results)]


def _check_places(source: Path, out: Path) -> None:
    if not source.exists():
        raise DataError(f"no such file or folder: {source}")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} must be a folder for the prepared scans, but is a file")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"prepared scans must not lie among those they are made of, but {out} is in {source}; "
            "choose a folder outside"
        )


def _scans(source: Path, format: str, bad: dict[Path, str]) -> list[Scan]:
    if source.is_dir():
        return find_scans(source, format, bad)
    try:
        return scans_in(source, format)
    except DataError as error:
        bad[source] = str(error)
        return []


def _plan(
    scans: list[Scan],
    out: Path,
    settings: PrepareSettings,
    covariance: np.ndarray | None,
    finish: Callable[[int, Prepared], None],
) -> dict[int, Job]:
    """What there is to do, by the number of the scan; the rest is finished."""
    jobs: dict[int, Job] = {}
    sources = {scan.path.resolve() for scan in scans}
    for number, scan in enumerate(scans):
        job = Job(scan, out / f"{scan.name}.h5", settings, covariance, {})
        try:
            check_shape(scan.shape, str(scan.path))
            if job.path.resolve() in sources:
                raise DataError(f"{job.path} is a raw scan that would be replaced; rename it")
            job = replace(job, record=record(scan.path, settings, covariance))
            there = _existing(job)
        except Exception as error:  # whatever is wrong with one file, the others are prepared
            finish(number, replace(job.failed, note=said(error)))
            continue
        if isinstance(there, Prepared):
            finish(number, there)
        else:
            jobs[number] = replace(job, note=there)
    return jobs


def _existing(job: Job) -> Prepared | str:
    """The file that is there already, if it is what would be made; else why it is not.

    Raises:
        DataError: if it is none of ours, which must not be lost.
    """
    if not job.path.exists():
        return ""
    again = "made again: "
    try:
        there = PreparedScan(job.path)
        shape, header = there.shape, there.header
    except DataError:
        return again + "the file there could not be read"
    if RECORD not in header:
        raise DataError(f"{job.path} is there and was not made by gleam prepare; move it away")
    made = json.loads(str(header[RECORD]))
    if made == job.record:
        energy = float(header[ENERGY])  # type: ignore[arg-type]  # a number
        return replace(job.failed, status="skipped", shape=shape, energy=energy)
    changed = [key for key in job.record if made.get(key) != job.record[key]]
    return again + ("the source has changed" if changed == ["source"] else "other settings")


def _checked_covariance(covariance: np.ndarray) -> np.ndarray:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"the covariance must be (coils, coils), got {covariance.shape}")
    return covariance.astype(np.complex128)
