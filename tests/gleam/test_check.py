"""What is wrong with a data set, one defect at a time, in files written byte by byte."""

import gzip
import json
import math
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import gleam.cli
from gleam.data.check import Checked, check, inspect
from gleam.data.oversampling import rows_kept
from gleam.data.prepare import prepare
from gleam.data.readers.prepared import PreparedScan
from gleam.data.scan import EVERYTHING, DataError
from gleam.data_commands import check as command
from tests.gleam.raw import SIZE, put, raw_kspace
from tests.gleam.readers.layouts import normal, write_bart, write_fastmri, write_skm_tea
from tests.gleam.readers.layouts_more import write_nifti


def found(folder: Path, workers: int = 1) -> dict[str, str]:
    """What is wrong with the scans of a folder, by name; nothing with the others."""
    scans = check(folder, workers=workers)
    return {scan.name: "; ".join(scan.problems) for scan in scans if scan.problems}


def wrong(path: Path) -> str:
    """What is wrong with the only scan of a folder."""
    (scan,) = check(path.parent, workers=1)
    assert all(str(path) in problem for problem in scan.problems), scan.problems
    return "; ".join(scan.problems)


def ready(folder: Path, count: int = 1) -> Path:
    """Prepared scans."""
    raw = folder.with_name("raw")
    for number in range(count):
        put(raw / f"{number}.h5", raw_kspace(seed=number))
    assert {scan.status for scan in prepare(raw, folder, workers=1)} == {"prepared"}
    return folder / "0.h5"


def test_sound_files_of_any_format_are_fine(tmp_path: Path):
    put(tmp_path / "plain.h5", raw_kspace(seed=9))
    maps, target = normal(2, 1, 4, 1, *SIZE), normal(2, 1, 2, *SIZE)
    cine = np.stack([raw_kspace(seed=seed) for seed in (4, 5)], 2)
    put(tmp_path / "cine.h5", cine, maps=maps, target=target)
    write_fastmri(tmp_path / "fast.h5", raw_kspace(seed=1, space=(80, 36)))
    write_skm_tea(tmp_path / "tea.h5", [raw_kspace(seed=2), raw_kspace(seed=6)])
    write_bart(tmp_path / "bart.cfl", raw_kspace(seed=3), volume=True)
    ready(tmp_path / "prepared").rename(tmp_path / "ready.h5")
    shutil.rmtree(tmp_path / "raw")
    scans = check(tmp_path, workers=1)
    assert [scan.problems for scan in scans] == [()] * 7
    assert {scan.format for scan in scans} == {"prepared", "fastmri", "skm_tea", "bart"}
    shapes = {scan.name: scan.shape for scan in scans}
    assert shapes["fast"] == (2, 4, 80, 36)
    assert shapes["cine"] == (2, 4, 2, *SIZE)


def test_samples_that_are_not_finite_or_missing_are_listed_by_slice(tmp_path: Path):
    kspace = raw_kspace(slices=9)
    kspace[1, 3, 5, 5] = np.nan
    kspace[8, 0, 0, 0] = np.inf
    kspace[2:8] = 0
    path = put(tmp_path / "a.h5", kspace)
    assert wrong(path) == (
        f"{path}, kspace[1, 8]: holds NaN or infinity; "
        f"{path}, kspace[2, 3, 4, 5, 6] and 1 more: all samples are zero"
    )


@pytest.mark.parametrize("key", ["maps", "target"])
def test_maps_and_target_are_read_in_full(tmp_path: Path, key: str):
    shapes = {"maps": (2, 1, 4, *SIZE), "target": (2, 1, *SIZE)}
    values = {name: normal(*shape) for name, shape in shapes.items()}
    path = put(tmp_path / "a.h5", **values)
    assert wrong(path) == ""
    values[key][1].flat[7] = np.nan
    assert f"{key}[1]: holds NaN or infinity" in wrong(put(path, **values))
    values[key][:] = 0
    assert f"{key}: zero everywhere" in wrong(put(path, **values))
    values[key] = normal(*shapes[key][:-1], 99)
    assert f"{key}: expected" in wrong(put(path, **values))


def test_maps_and_target_must_have_the_same_sets(tmp_path: Path):
    maps, target = normal(2, 2, 4, *SIZE), normal(2, 1, *SIZE)
    path = put(tmp_path / "a.h5", maps=maps, target=target)
    assert "target[0:]: expected (1, 2, 40, 36) to fit kspace, got (1, 1, 40, 36)" in wrong(path)


def test_parts_are_checked_on_the_grid_without_oversampling(tmp_path: Path):
    class Oversampled(PreparedScan):
        header = {"oversampling": 2.0}  # noqa: RUF012

        def maps(self, slices: slice = EVERYTHING) -> np.ndarray:
            return normal(2, 1, 4, self.rows, 36)[slices]

    path = put(tmp_path / "a.h5", raw_kspace(space=(80, 36)))
    for rows, problem in ((40, ""), (80, f"{path}, maps[0:]: expected (1, 1, 4, 40, 36)")):
        scan = Oversampled(path)
        scan.rows = rows
        assert "; ".join(inspect(scan).problems).startswith(problem)
        assert bool(inspect(scan).problems) == bool(problem)


@pytest.mark.parametrize("factor", [0, -2, 0.5, 1e9, 1e-320, math.inf, math.nan, None, "2", [2.0]])
def test_oversampling_must_be_a_factor_that_leaves_rows(tmp_path: Path, factor: object):
    path = put(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["header"] = json.dumps({"oversampling": factor})
    message = f"{path}, header: oversampling must be a factor from 1 to 40, the length of y, got "
    with pytest.raises(DataError, match=message):
        rows_kept(PreparedScan(path))
    assert message in "; ".join(inspect(PreparedScan(path)).problems)


@pytest.mark.parametrize(("factor", "rows"), [(1, 40), (0.9999, 40), (1.3, 31), (2, 20), (40, 1)])
def test_rows_that_are_kept_are_rounded(tmp_path: Path, factor: float, rows: int):
    path = put(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["header"] = json.dumps({"oversampling": factor})
    assert rows_kept(PreparedScan(path)) == rows


def test_masks_and_noise_must_make_sense(tmp_path: Path):
    half = np.full((1, SIZE[1]), 0.5)
    assert "acquired: expected 0 and 1" in wrong(put(tmp_path / "a.h5", acquired=half))
    assert "acquired: expected 0 and 1" in wrong(put(tmp_path / "a.h5", acquired=0 * half))
    wide = np.ones((1, 99))
    assert "acquired: expected a mask that fits" in wrong(put(tmp_path / "a.h5", acquired=wide))
    noise = normal(4, 20)
    noise[2, 2] = np.inf
    assert "noise: expected finite" in wrong(put(tmp_path / "a.h5", noise=noise))
    assert "noise: expected (coils, samples)" in wrong(put(tmp_path / "a.h5", noise=noise[:3]))


def test_files_that_cannot_be_opened_are_listed(tmp_path: Path):
    good = put(tmp_path / "good.h5")
    (tmp_path / "short.h5").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "text.h5").write_text("no scan")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros(3)
    put(tmp_path / "coils.h5", np.zeros((2, 0, 8, 8), np.complex64))
    put(tmp_path / "rank.h5", raw_kspace()[0])
    put(tmp_path / "real.h5", np.abs(raw_kspace()))
    write_bart(tmp_path / "bart.cfl", raw_kspace())
    (tmp_path / "bart.hdr").write_text("# Dimensions\nmany\n")
    problems = found(tmp_path)
    assert problems.keys() == {
        "short.h5", "deep/text.h5", "other.h5", "coils", "rank", "real", "bart"
    }  # fmt: skip
    assert "found HDF5 with ['image']" in problems["other.h5"]
    assert "none of them 0, got complex64 (2, 0, 8, 8)" in problems["coils"]
    assert "got float32" in problems["real"]
    for name in ("short.h5", "deep/text.h5"):
        assert "not a readable HDF5 file" in problems[name]


def cut_off(path: Path, seed: int = 0) -> Path:
    """A file whose second slice cannot be read."""
    put(path)
    with h5py.File(path, "r+") as file:
        del file["kspace"]
        data = file.create_dataset("kspace", (2, 4, *SIZE), np.complex64, chunks=(1, 4, *SIZE),
                                   compression="gzip")  # fmt: skip
        data[:] = raw_kspace(seed=seed)
        place = data.id.get_chunk_info(1)
    with open(path, "r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(bytes(place.size))
    return path


def test_a_file_whose_samples_are_cut_off_is_found(tmp_path: Path):
    path = cut_off(tmp_path / "a.h5")
    assert "kspace[1:2] cannot be read" in wrong(path)


@pytest.mark.parametrize("key", ["kspace", "maps", "target"])
def test_one_flipped_bit_of_a_prepared_file_is_found(tmp_path: Path, key: str):
    path = ready(tmp_path / "out")
    assert found(path.parent) == {}
    with h5py.File(path) as file:
        place = file[key].id.get_offset() + file[key].id.get_storage_size() // 2
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert f"{key} is damaged: its checksum is" in wrong(path)


def test_an_empty_folder_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=f"{tmp_path} must be a folder with scans"):
        check(tmp_path)
    with pytest.raises(DataError, match="must be a folder with scans"):
        check(tmp_path / "none")


def test_an_unexpected_error_in_one_file_does_not_hide_the_others(tmp_path: Path, monkeypatch):
    put(tmp_path / "a.h5")
    put(tmp_path / "b.h5", raw_kspace(seed=1))
    read = PreparedScan.maps

    def fails(scan: PreparedScan, slices: slice = EVERYTHING) -> np.ndarray | None:
        if scan.name == "a":
            raise KeyError("sets")
        return read(scan, slices)

    monkeypatch.setattr(PreparedScan, "maps", fails)
    assert found(tmp_path) == {"a": "KeyError: 'sets'"}


def splits(folder: Path) -> list[Checked]:
    return check(folder, workers=1)


def test_the_same_kspace_in_two_splits_is_found_under_any_name(tmp_path: Path):
    put(tmp_path / "train" / "a.h5", raw_kspace(seed=1))
    put(tmp_path / "train" / "b.h5", raw_kspace(seed=2))
    put(tmp_path / "train" / "again.h5", raw_kspace(seed=2))  # the same split: no leak
    put(tmp_path / "test" / "c.h5", raw_kspace(seed=3))
    put(tmp_path / "elsewhere" / "d.h5", raw_kspace(seed=3))  # in no split
    scans = check(tmp_path, workers=1)
    assert {(scan.split, scan.name): scan.problems for scan in scans} == {
        ("train", "a"): (), ("train", "b"): (), ("train", "again"): (), ("test", "c"): ()
    }  # fmt: skip
    leak = put(tmp_path / "test" / "e.h5", raw_kspace(seed=1), maps=normal(2, 1, 4, *SIZE))
    assert found(tmp_path) == {
        "e": f"{leak}: the same data as {tmp_path / 'train' / 'a.h5'} in train, which would leak"
    }
    leak.rename(tmp_path / "test" / "a.h5")
    with pytest.raises(DataError, match="a is in two splits"):
        check(tmp_path)


def test_files_that_cannot_be_read_are_not_said_to_be_the_same(tmp_path: Path):
    for name in ("a", "b"):
        cut_off(tmp_path / f"{name}.h5")
    for problem in found(tmp_path).values():
        assert "kspace[1:2] cannot be read" in problem
        assert "which would leak" not in problem


def test_copies_of_an_image_are_found_whatever_is_simulated_for_their_names(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    original, packed = tmp_path / "train" / "a.nii", tmp_path / "test" / "b.nii.gz"
    write_nifti(original)
    packed.write_bytes(gzip.compress(original.read_bytes()))
    shutil.copy(original, tmp_path / "train" / "again.nii")
    write_nifti(tmp_path / "test" / "other.nii", np.arange(1000.0).reshape(10, 10, 10))
    assert found(tmp_path) == {
        "b": f"{packed}: the same data as {original} in train, which would leak"
    }
    shutil.copy(original, tmp_path / "test" / "c.nii")
    assert found(tmp_path).keys() == {"b", "c"}


def test_without_splits_no_kspace_may_be_there_twice(tmp_path: Path):
    put(tmp_path / "a.h5")
    put(tmp_path / "b.h5")
    assert found(tmp_path) == {
        "b": f"{tmp_path / 'b.h5'}: the same data as {tmp_path / 'a.h5'}, which would leak"
    }


def test_the_splits_of_a_list_are_checked(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        put(tmp_path / f"{name}.h5", raw_kspace(seed=seed))
    (tmp_path / "splits.yaml").write_text("train: [a.h5, b.h5]\ntest: c.h5\n")
    assert found(tmp_path).keys() == {"c"}
    (tmp_path / "splits.yaml").write_text("train: [a.h5, b.h5]\ntest: b.h5\n")
    with pytest.raises(DataError, match="b is in two splits"):
        check(tmp_path)


@pytest.mark.slow
def test_workers_find_the_same(tmp_path: Path):
    put(tmp_path / "good.h5")
    put(tmp_path / "nan.h5", np.full((1, 2, 8, 8), np.nan, np.complex64))
    (tmp_path / "bad.h5").write_bytes(b"")
    assert check(tmp_path, workers=2) == check(tmp_path, workers=1)


def invoke(*words: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_prints_a_table_and_its_exit_code_tells(tmp_path: Path):
    put(tmp_path / "train" / "a.h5")
    result = invoke(tmp_path, "--workers", 1)
    assert result.exit_code == 0, result.output
    for word in ("scan", "split", "train", "prepared", "2 x 4 x 40 x 36", "fine"):
        assert word in result.output
    assert f"1 of 1 scans in {tmp_path} are fine" in result.output
    put(tmp_path / "train" / "b.h5", np.full((1, 2, 8, 8), np.nan, np.complex64))
    (tmp_path / "train" / "c.h5").write_bytes(b"")
    result = invoke(tmp_path, "--workers", 1)
    assert result.exit_code == 1
    assert "holds NaN" in result.output
    assert f"1 of 3 scans in {tmp_path} are fine" in result.output


def test_a_scan_in_two_splits_is_one_line_and_an_exit_code(tmp_path: Path, monkeypatch, capsys):
    for split in ("train", "test"):
        put(tmp_path / split / "a.h5")
    monkeypatch.setattr(sys, "argv", ["gleam", "check", str(tmp_path), "--workers", "1"])
    with pytest.raises(SystemExit) as end:
        gleam.cli.main()
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: the scan a is in two splits, which would leak: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
