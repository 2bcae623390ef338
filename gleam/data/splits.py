"""Which scans of a folder are for training, validation and testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gleam.data.readers import find_scans, scans_in
from gleam.data.scan import DataError, Scan, name_of

SPLITS = ("train", "validate", "test")
LIST = "splits.yaml"


def scans_of_splits(
    folder: str | Path, format: str = "auto", bad: dict[Path, str] | None = None
) -> dict[str, list[Scan]]:
    """The scans of each split there is.

    The folder holds ``train/``, ``validate/`` and ``test/``, or a ``splits.yaml`` that maps these
    names to files, folders or patterns such as ``multicoil_train/*AXT2*.h5``, one or a list,
    relative to the folder.

    Args:
        folder: of the data set.
        format: of its files, see :mod:`gleam.data.readers`.
        bad: takes what cannot be opened, and why; without it that is an error.

    Raises:
        DataError: if there are no splits, one is empty, or a scan is in two of them.
    """
    folder = Path(folder)
    if (folder / LIST).is_file():
        splits = _listed(folder, format, bad)
    else:
        there = [name for name in SPLITS if (folder / name).is_dir()]
        if not there:
            found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "nothing"
            raise DataError(
                f"{folder} must hold folders {', '.join(SPLITS)} or a file {LIST} that lists "
                f"their scans, found {found}"
            )
        splits = {name: find_scans(folder / name, format, bad) for name in there}
    _refuse_leaks(splits)
    return splits


def _listed(folder: Path, format: str, bad: dict[Path, str] | None) -> dict[str, list[Scan]]:
    splits = {}
    for name, entries in _read_list(folder / LIST).items():
        patterns = [entries] if isinstance(entries, str) else entries
        scans: dict[str, Scan] = {}
        for pattern in patterns:
            for scan in _matching(folder, pattern, format, bad):
                other = scans.setdefault(scan.name, scan)
                if other.path != scan.path:
                    raise DataError(
                        f"{other.path} and {scan.path} have one name, {scan.name}: rename one"
                    )
        splits[name] = list(scans.values())
    return splits


def _read_list(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    fits = isinstance(content, dict) and set(content) <= set(SPLITS)
    for entries in content.values() if fits else ():
        words = [entries] if isinstance(entries, str) else entries
        fits = fits and isinstance(words, list) and words != [] and all(map(_is_pattern, words))
    if not fits:
        raise DataError(
            f"{path} must map {', '.join(SPLITS)} to files, folders or patterns, at least one "
            f"each, relative to the folder that it lies in; got {content!r}"
        )
    return content


def _is_pattern(word: object) -> bool:
    return isinstance(word, str) and word != "" and not Path(word).is_absolute()


def _matching(folder: Path, pattern: str, format: str, bad: dict[Path, str] | None) -> list[Scan]:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"{folder / LIST}: nothing in {folder} matches {pattern!r}")
    scans: list[Scan] = []
    for path in paths:
        prefix = path.relative_to(folder).as_posix()
        if path.is_dir():
            for scan in find_scans(path, format, bad):
                scan.name = f"{prefix}/{scan.name}"
                scans.append(scan)
            continue
        try:
            scans += scans_in(path, format, prefix[: -len(path.name)] + name_of(path))
        except DataError as error:
            if bad is None:
                raise
            bad[path] = str(error)
    return scans


def _refuse_leaks(splits: dict[str, list[Scan]]) -> None:
    places: dict[object, tuple[str, Scan]] = {}
    for split, scans in splits.items():
        for scan in scans:
            for key in (scan.name, scan.path.resolve()):
                before, other = places.setdefault(key, (split, scan))
                if before != split:
                    raise DataError(
                        f"the scan {scan.name} is in two splits, which would leak: {other.path} "
                        f"in {before} and {scan.path} in {split}; remove one, or rename it if "
                        "they are different scans"
                    )
