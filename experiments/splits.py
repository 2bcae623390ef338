"""Split a folder of scans as published: sorted by name, the first ones to train on.

    python -m experiments.splits FOLDER 14 2 3 [--pattern "*.h5"]

writes ``FOLDER/splits.yaml`` with the numbers of scans to train, validate and test on; 14, 2 and 3
are those of the 19 knees of mridata.org (arXiv 2207.08393).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from gleam.data import DataError
from gleam.data.splits import LIST, SPLITS


def write_splits(folder: str | Path, counts: Sequence[int], pattern: str = "*.h5") -> Path:
    """Write ``splits.yaml``; returns its path.

    Args:
        folder: of the scans.
        counts: of the scans to train, validate and test on, in the order of their names.
        pattern: of the files, relative to the folder.

    Raises:
        DataError: if there are not as many files, or the folder is split already.
    """
    target = Path(folder) / LIST
    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).glob(pattern))
    if len(names) != sum(counts) or len(counts) != len(SPLITS) or min(counts) < 1:
        raise DataError(
            f"{folder} must hold as many scans {pattern} as are to be split, {sum(counts)} into "
            f"{' + '.join(map(str, counts))} to {', '.join(SPLITS)}, each at least 1; found "
            f"{len(names)}"
        )
    if target.exists():
        raise DataError(f"{target} is there already; remove it to split the folder anew")
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    splits = {
        split: names[end - count : end]
        for split, count, end in zip(SPLITS, counts, ends, strict=True)
    }
    target.write_text(yaml.safe_dump(splits, sort_keys=False), encoding="utf-8")
    return target


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("counts", type=int, nargs=len(SPLITS), help=" ".join(SPLITS))
    parser.add_argument("--pattern", default="*.h5")
    given = parser.parse_args()
    print(f"wrote {write_splits(given.folder, given.counts, given.pattern)}")


if __name__ == "__main__":
    main()
