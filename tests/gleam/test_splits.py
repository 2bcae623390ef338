"""Folders or a list say which scans are for training, validation and testing; nothing leaks."""

from pathlib import Path

import pytest
import yaml

from gleam.data import DataError, write_scan
from gleam.data.splits import scans_of_splits
from tests.helpers import normal


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_scan(folder / name, normal(1, 2, 16, 16).numpy())


def names(folder: Path) -> dict[str, list[str]]:
    return {split: [s.name for s in scans] for split, scans in scans_of_splits(folder).items()}


def listed(folder: Path, **splits: object) -> Path:
    (folder / "splits.yaml").write_text(yaml.safe_dump(splits))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        scans_of_splits(folder)
    return str(caught.value)


def test_folders_are_splits(tmp_path: Path):
    put(tmp_path, "train/b.h5", "train/a.h5", "train/more/c.h5", "test/d.h5")
    assert names(tmp_path) == {"train": ["a", "b", "more/c"], "test": ["d"]}


def test_a_list_names_files_folders_and_patterns(tmp_path: Path):
    put(tmp_path, "one.h5", "multi_train/x1.h5", "multi_train/x2.h5", "multi_train/y.h5", "v/z.h5")
    listed(tmp_path, train=["multi_train/x*.h5", "one.h5"], validate="v", test="multi_train/y.h5")
    assert names(tmp_path) == {
        "train": ["multi_train/x1", "multi_train/x2", "one"],
        "validate": ["v/z"],
        "test": ["multi_train/y"],
    }


def test_a_scan_that_two_patterns_match_is_there_once(tmp_path: Path):
    put(tmp_path, "a.h5", "b.h5")
    assert names(listed(tmp_path, train=["a.h5", "*.h5"])) == {"train": ["a", "b"]}


def test_scans_of_one_name_in_a_split_are_refused(tmp_path: Path):
    put(tmp_path, "a.h5", "a.hdf5")
    message = refusal(listed(tmp_path, train=["a.h5", "a.hdf5"]))
    assert message.endswith("have one name, a: rename one")


def test_a_scan_of_one_name_in_two_splits_is_refused(tmp_path: Path):
    put(tmp_path, "train/a.h5", "test/a.h5")
    message = refusal(tmp_path)
    assert "a is in two splits, which would leak" in message
    assert str(tmp_path / "train" / "a.h5") in message
    assert str(tmp_path / "test" / "a.h5") in message


def test_a_scan_listed_in_two_splits_is_refused(tmp_path: Path):
    put(tmp_path, "a.h5", "b.h5")
    assert "b is in two splits" in refusal(listed(tmp_path, train="*.h5", test=["b.h5"]))


def test_a_link_to_a_scan_of_another_split_is_refused(tmp_path: Path):
    put(tmp_path, "train/a.h5")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.h5").symlink_to(tmp_path / "train" / "a.h5")
    assert "two splits" in refusal(tmp_path)
    (tmp_path / "test" / "a.h5").rename(tmp_path / "test" / "other.h5")
    assert "two splits" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("training: [a.h5]", "must map train, validate, test to"),
        ("[a.h5]", "must map train, validate, test to"),
        ("train: [1]", "must map train, validate, test to"),
        ("train: []", "at least one each"),
        ("train: ['']", "at least one each"),
        ("train: /data/a.h5", "relative to the folder that it lies in"),
        ("train: [", "cannot be read"),
        ("train: [none.h5]", "nothing in .* matches 'none.h5'"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, content: str, said: str):
    put(tmp_path, "a.h5")
    (tmp_path / "splits.yaml").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        scans_of_splits(tmp_path)
    assert str(tmp_path / "splits.yaml") in str(caught.value)


def test_a_folder_without_splits_says_what_it_should_hold(tmp_path: Path):
    put(tmp_path, "a.h5")
    message = refusal(tmp_path)
    assert "train, validate, test or a file splits.yaml" in message
    assert message.endswith("found ['a.h5']")
    assert refusal(tmp_path / "none").endswith("found nothing")


def test_what_cannot_be_opened_stops_or_is_collected(tmp_path: Path):
    put(tmp_path, "train/a.h5")
    broken = tmp_path / "train" / "b.h5"
    broken.write_bytes(b"not a scan")
    assert str(broken) in refusal(tmp_path)
    bad: dict[Path, str] = {}
    assert [s.name for s in scans_of_splits(tmp_path, bad=bad)["train"]] == ["a"]
    assert list(bad) == [broken]
    bad.clear()
    put(tmp_path, "c.h5")
    listed(tmp_path, train=["train/*.h5", "c.h5"])
    assert [s.name for s in scans_of_splits(tmp_path, bad=bad)["train"]] == ["train/a", "c"]
    assert list(bad) == [broken]
