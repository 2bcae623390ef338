"""HDF5 files that can be opened although parts of them are damaged: refused by name."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gleam.data.check import check
from gleam.data.hdf5 import contents, keys_of, opened, read, read_complex
from gleam.data.prepare import prepare
from gleam.data.readers import find_scans, open_scan
from gleam.data.scan import DataError
from tests.gleam.raw import put
from tests.gleam.readers.layouts import write_hdf5

B_TREE, NAMES, SYMBOLS = b"TREE", b"HEAP", b"SNOD"  # signatures of the file format


def damage(path: Path, old: bytes, new: bytes) -> Path:
    """Replace bytes wherever they are; the file can be opened all the same."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    with h5py.File(path):
        return path


@pytest.mark.parametrize("part", [B_TREE, NAMES, SYMBOLS])
def test_a_damaged_file_does_not_stop_the_others(tmp_path: Path, part: bytes):
    raw = tmp_path / "raw"
    put(raw / "good.h5")
    path = damage(put(raw / "bad.h5"), part, b"xxxx")
    assert keys_of(path) == set()
    for call in (open_scan, contents):
        with pytest.raises(DataError, match=f"^{path} is not a readable HDF5 file: "):
            call(path)
    bad: dict[Path, str] = {}
    assert [scan.name for scan in find_scans(raw, bad=bad)] == ["good"]
    assert list(bad) == [path]
    problems = {scan.path: scan.problems for scan in check(raw, workers=1)}
    assert problems == {raw / "good.h5": (), path: (bad[path],)}
    results = {scan.source: scan for scan in prepare(raw, tmp_path / "out", workers=1)}
    assert results[path].note == bad[path]
    assert results[raw / "good.h5"].status == "prepared"


def test_a_dataset_without_a_header_is_an_error_of_the_file(tmp_path: Path):
    path = put(tmp_path / "raw" / "a.h5")
    with h5py.File(path) as file:
        place = h5py.h5o.get_info(file["kspace"].id).addr
    content = bytearray(path.read_bytes())
    content[place : place + 4] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path} is not a readable HDF5 file: "):
        read_complex(path, "kspace")
    (checked,) = check(path.parent, workers=1)
    (prepared,) = prepare(path, tmp_path / "out", workers=1)
    for problem in (*checked.problems, prepared.note):
        assert problem.startswith(str(path))


def test_damaged_attributes_are_an_error_of_the_file(tmp_path: Path):
    path = write_hdf5(tmp_path / "a.h5", {"kspace": np.zeros(3)}, {"header": "{}"})
    with h5py.File(path) as file:
        start = h5py.h5o.get_info(file.id).addr
    content = bytearray(path.read_bytes())
    place = content.index(b"header\0", start)
    content[place - 8 : place] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path} is not a readable HDF5 file: "):
        contents(path)


def test_names_that_are_no_text_are_listed_with_the_others(tmp_path: Path):
    datasets = {"image": np.zeros(3), "labels": np.zeros(3)}
    path = damage(write_hdf5(tmp_path / "a.h5", datasets), b"labels", b"lab\xffls")
    with pytest.raises(DataError, match=r"scan of no known format: found HDF5 with .*'image'"):
        open_scan(path)


@pytest.mark.parametrize("kind", [OSError, RuntimeError, KeyError, TypeError, ValueError])
def test_whatever_h5py_raises_names_file_and_samples(tmp_path: Path, kind: type[Exception]):
    class Damaged:
        name = "/kspace"

        def __getitem__(self, selection: object) -> None:
            raise kind("wrong signature")

    path = put(tmp_path / "a.h5")
    with pytest.raises(DataError, match=rf"^{path}, kspace\[1:2\] cannot be read: .*wrong sign"):
        read(Damaged(), path, slice(1, 2))
    with (
        pytest.raises(DataError, match=f"^{path} is not a readable HDF5 file: .*wrong sign"),
        opened(path),
    ):
        Damaged()[0]
