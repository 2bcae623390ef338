"""Whether all files of a data set can be used: ``gleam check``."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gleam.data.hdf5 import contents
from gleam.data.oversampling import rows_kept
from gleam.data.readers import find_scans
from gleam.data.readers.nifti import NiftiScan
from gleam.data.readers.prepared import PreparedScan, verify
from gleam.data.scan import EVERYTHING, DataError, Scan, check_shape
from gleam.data.splits import LIST, SPLITS, scans_of_splits
from gleam.data.workers import cores, run_jobs

LOST = (
    "the process that read it was killed, even with no other beside it, as happens for lack of "
    "memory or if the file is damaged"
)
FIRST = slice(0, 1)
SHOWN = 5  # slices that a problem lists


@dataclass(frozen=True)
class Checked:
    """What was found in a file.

    Attributes:
        name: of the scan; of a file that could not be opened its place in the folder.
        path: the file.
        format: of the file; empty if unknown.
        split: that it belongs to; empty if the data set has none.
        shape: of its k-space; empty if that could not be read.
        problems: what is wrong, one sentence each.
        content: hash of the k-space, or of a file from which it is simulated; empty if not all of
            it could be read.
    """

    name: str
    path: Path
    format: str = ""
    split: str = ""
    shape: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    content: str = field(default="", repr=False)


def check(
    folder: str | Path,
    *,
    format: str = "auto",
    workers: int | None = None,
    started: Callable[[int], None] = lambda count: None,
    done: Callable[[Checked], None] = lambda scan: None,
) -> list[Checked]:
    """Read every file of a data set in full, and look for leaks between its splits.

    A scan is wrong if anything of it cannot be read, does not fit the rest, holds NaN or infinity,
    has a slice without samples or does not have its checksum, and if its k-space is that of
    another scan which is, or could come to be, in another split.

    Args:
        folder: with scans, searched for them; or with splits, as
            :func:`gleam.data.splits.scans_of_splits` takes it.
        format: of the files, see :mod:`gleam.data.readers`.
        workers: processes; by default one for each core. Each holds a slice at a time, or a scan
            if its format must be read as a whole.
        started: called with the number of files before the first.
        done: called with each file that was read.

    Returns:
        What was found in each file, by split and name.

    Raises:
        DataError: if there are no scans, or one name or file is in two splits.
        KeyboardInterrupt: on Ctrl-C, when all workers have ended.
    """
    folder = Path(folder)
    bad: dict[Path, str] = {}
    jobs = [(scan, split) for split, scans in _splits(folder, format, bad) for scan in scans]
    started(len(jobs) + len(bad))
    results: dict[int, Checked] = {}

    def end(number: int, result: Checked | None) -> None:
        scan, split = jobs[number]
        lost = Checked(scan.name, scan.path, scan.format, split, (), (LOST,))
        results[number] = result or lost
        done(results[number])

    for number, (path, reason) in enumerate(sorted(bad.items()), start=len(jobs)):
        results[number] = Checked(path.relative_to(folder).as_posix(), path, problems=(reason,))
        done(results[number])
    run_jobs(_inspect_job, jobs, workers or cores(), end)
    return _with_leaks([results[number] for number in sorted(results)])


def inspect(scan: Scan, split: str = "") -> Checked:
    """Read everything that a scan's file holds; what is wrong is reported, not raised."""
    found = Checked(scan.name, scan.path, scan.format, split)
    try:
        found = replace(found, shape=check_shape(scan.shape, str(scan.path)))
    except Exception as error:
        return replace(found, problems=(said(error),))
    problems: list[str] = []
    content: list[str] = []
    for step in (_kspace(scan, content.append), _images(scan), _rest(scan)):
        try:
            problems += step
        except Exception as error:  # whatever is wrong with one part, the others are read
            problems.append(said(error))
    unique = tuple(dict.fromkeys(problems))
    return replace(found, problems=unique, content="".join(content))


def _inspect_job(job: tuple[Scan, str]) -> Checked:
    return inspect(*job)


def _splits(folder: Path, format: str, bad: dict[Path, str]) -> list[tuple[str, list[Scan]]]:
    has_splits = (folder / LIST).is_file() or any((folder / name).is_dir() for name in SPLITS)
    if has_splits:
        return list(scans_of_splits(folder, format, bad).items())
    return [("", find_scans(folder, format, bad))]


def _kspace(scan: Scan, finish: Callable[[str], None]) -> Iterator[str]:
    """Problems of the samples, whose hash is handed on if all of them could be read."""
    digest = hashlib.blake2b(repr(scan.shape).encode(), digest_size=16)
    infinite, empty = [], []
    for number, samples in _slices(scan, "kspace", scan.kspace, scan.shape):
        if samples.dtype != np.complex64:
            raise DataError(f"{scan.path}, kspace: expected complex64, got {samples.dtype}")
        infinite += [] if np.isfinite(samples).all() else [number]
        empty += [] if samples.any() else [number]
        digest.update(np.ascontiguousarray(samples).view(np.uint8).data)
    finish(_hash_of_file(scan.path) if isinstance(scan, NiftiScan) else digest.hexdigest())
    yield from _listed(scan, "kspace", infinite, "holds NaN or infinity")
    yield from _listed(scan, "kspace", empty, "all samples are zero")


def _hash_of_file(path: Path) -> str:
    """Of what is in a NIfTI file: its phase and noise come from the scan's name."""
    digest = hashlib.blake2b(digest_size=16)
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _images(scan: Scan) -> Iterator[str]:
    """Problems of coil maps and target, which have no oversampling."""
    slices, coils, *space = scan.shape
    space[-2] = rows_kept(scan)
    still = [1, *space[1:]] if scan.dynamic else space
    sets: list[int] = []
    for key, read, behind in (("maps", scan.maps, (coils, *still)), ("target", scan.target, space)):
        first = read(FIRST)
        if first is None:
            continue
        sets = sets or [first.shape[1] if first.ndim > 1 else 1]
        infinite, empty = [], []
        for number, values in _slices(scan, key, read, (slices, *sets, *behind)):
            infinite += [] if np.isfinite(values).all() else [number]
            empty += [] if values.any() else [number]
        yield from _listed(scan, key, infinite, "holds NaN or infinity")
        if len(empty) == slices:  # some may be: those that show no object
            yield f"{scan.path}, {key}: zero everywhere"


def _rest(scan: Scan) -> Iterator[str]:
    """Problems of the mask, the noise and the checksums."""
    space, acquired, noise = scan.shape[2:], scan.acquired(), scan.noise()
    if acquired is not None:
        fits = len(acquired.shape) == len(space) and all(
            n in (1, m) for n, m in zip(acquired.shape, space, strict=True)
        )
        if not fits or not np.isin(acquired, (0, 1)).all() or not acquired.any():
            yield (
                f"{scan.path}, acquired: expected 0 and 1, not all 0, of a shape that fits {space},"
                f" got {acquired.shape}"
            )
    if noise is not None and (noise.shape[:1] != scan.shape[1:2] or not np.isfinite(noise).all()):
        yield (
            f"{scan.path}, noise: expected finite (coils, samples) with {scan.shape[1]} coils, got "
            f"{noise.shape}"
        )
    if isinstance(scan, PreparedScan) and "header" in contents(scan.path).attributes:
        verify(scan.path)


def _slices(
    scan: Scan,
    key: str,
    read: Callable[[slice], np.ndarray | None],
    shape: Sequence[int],
) -> Iterator[tuple[int, np.ndarray]]:
    """The slices of a dataset with their numbers, read one by one where that saves memory.

    Raises:
        DataError: if there are other ones than the shape says.
    """
    count = shape[0]
    parts = [EVERYTHING] if scan.whole else [slice(n, n + 1) for n in range(count)]
    found = 0
    for part in parts:
        values = read(part)
        wanted = (count if scan.whole else 1, *shape[1:])
        if values is None or values.shape != wanted:
            got = None if values is None else values.shape
            raise DataError(
                f"{scan.path}, {key}[{found}:]: expected {wanted} to fit kspace, got {got}"
            )
        for value in values:
            yield found, value
            found += 1


def _listed(scan: Scan, key: str, slices: list[int], problem: str) -> Iterator[str]:
    if slices:
        shown = ", ".join(str(number) for number in slices[:SHOWN])
        more = f" and {len(slices) - SHOWN} more" if len(slices) > SHOWN else ""
        yield f"{scan.path}, {key}[{shown}]{more}: {problem}"


def said(error: Exception) -> str:
    """An error as a user reads it; those that are not about the data with their kind."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _with_leaks(found: list[Checked]) -> list[Checked]:
    """The same, where scans are named that have the same k-space without being in one split."""
    first: dict[str, Checked] = {}
    result = []
    for scan in found:
        other = first.setdefault(scan.content, scan) if scan.content else scan
        if other is not scan and (not scan.split or scan.split != other.split):
            place = f" in {other.split}" if other.split else ""
            leak = f"{scan.path}: the same data as {other.path}{place}, which would leak"
            scan = replace(scan, problems=(*scan.problems, leak))
        result.append(scan)
    return result
