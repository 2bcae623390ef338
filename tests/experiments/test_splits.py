"""Splits by sorted names, as published."""

from pathlib import Path

import pytest
import yaml

from experiments.splits import write_splits
from gleam.data import DataError


def test_the_first_scans_by_name_are_to_train_on(tmp_path: Path):
    for number in (7, 3, 11, 5, 1):
        (tmp_path / f"scan{number:02d}.h5").touch()
    (tmp_path / "notes.txt").touch()
    path = write_splits(tmp_path, (3, 1, 1))
    assert path == tmp_path / "splits.yaml"
    assert yaml.safe_load(path.read_text()) == {
        "train": ["scan01.h5", "scan03.h5", "scan05.h5"],
        "validate": ["scan07.h5"],
        "test": ["scan11.h5"],
    }
    with pytest.raises(DataError, match="is there already"):
        write_splits(tmp_path, (3, 1, 1))


def test_another_number_of_scans_is_refused(tmp_path: Path):
    (tmp_path / "one.h5").touch()
    with pytest.raises(DataError, match=r"19 into 14 \+ 2 \+ 3 .* found 1$"):
        write_splits(tmp_path, (14, 2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["one.h5"]
