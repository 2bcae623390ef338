"""Files find their readers, folders their scans, and what is no scan is said so."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from gleam.data import hdf5
from gleam.data.readers import READERS, find_scans, open_scan, scans_in
from gleam.data.scan import DataError, Scan
from tests.gleam.readers.layouts import (
    normal,
    write_bart,
    write_calgary_campinas,
    write_fastmri,
    write_hdf5,
    write_skm_tea,
)
from tests.gleam.readers.layouts_more import write_cmrxrecon, write_ismrmrd, write_nifti

KSPACE = normal(2, 12, 16, 12)


def save_npy(path: Path) -> Path:
    np.save(path, KSPACE)
    return path


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "prepared": (".h5", lambda path: write_hdf5(path, {"kspace": KSPACE})),
    "fastmri": (".h5", lambda path: write_fastmri(path, KSPACE)),
    "skm_tea": (".h5", lambda path: write_skm_tea(path, [KSPACE])),
    "calgary_campinas": (".hdf5", lambda path: write_calgary_campinas(path, KSPACE)),
    "bart": (".cfl", lambda path: write_bart(path, KSPACE)),
    "numpy": (".npy", save_npy),
}


def refused(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_is_recognised_by_its_own_reader(tmp_path: Path, format: str):
    suffix, write = WRITERS[format]
    path = write(tmp_path / f"scan{suffix}")
    for chosen in ("auto", format):
        scan = open_scan(str(path), chosen)
        assert type(scan) is READERS[format]
        assert scan.format == format
        assert scan.path == path
        assert scan.shape == KSPACE.shape
        assert np.allclose(scan.kspace(), KSPACE, atol=1e-5)
    assert open_scan(path, name="patient 7").name == "patient 7"
    others = [reader for name, reader in READERS.items() if name not in (format, "prepared")]
    assert not any(reader.recognises(path) for reader in others)


@pytest.mark.parametrize(
    ("format", "suffix", "write"),
    [
        ("ismrmrd", ".h5", write_ismrmrd),
        ("cmrxrecon", ".mat", write_cmrxrecon),
        ("nifti", ".nii.gz", write_nifti),
    ],
)
def test_formats_of_other_conventions_are_recognised(tmp_path: Path, format, suffix, write):
    path = tmp_path / f"scan.1{suffix}"
    write(path)
    assert type(open_scan(path)) is READERS[format]
    assert [scan.name for scan in find_scans(tmp_path)] == ["scan.1"]
    assert [name for name, reader in READERS.items() if reader.recognises(path)] == [format]


def test_all_readers_are_scans_with_the_name_of_their_format():
    formats = {
        *("prepared", "fastmri", "ismrmrd", "cmrxrecon", "skm_tea", "calgary_campinas"),
        *("bart", "nifti", "numpy", "mridata_fse"),
    }
    assert set(READERS) == formats
    for name, reader in READERS.items():
        assert issubclass(reader, Scan)
        assert reader.format == name


def test_no_reader_stumbles_over_a_file_of_another_kind(tmp_path: Path):
    for suffix in (".h5", ".mat", ".npy", ".npz", ".cfl", ".nii", ".nii.gz", ".txt", ""):
        path = tmp_path / f"scan{suffix}"
        path.write_bytes(b"not a scan at all")
        for reader in READERS.values():
            assert reader.recognises(path) in (True, False)


def test_a_file_may_hold_several_scans(tmp_path: Path):
    path = write_skm_tea(tmp_path / "MTR_005.h5", [KSPACE, 2 * KSPACE])
    assert [scan.name for scan in scans_in(path)] == ["MTR_005-echo1", "MTR_005-echo2"]
    assert [scan.name for scan in scans_in(path, name="p/7")] == ["p/7-echo1", "p/7-echo2"]
    path = save_npy(tmp_path / "a.npy")
    assert [scan.name for scan in scans_in(path)] == [open_scan(path).name] == ["a"]


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path):
    path = save_npy(tmp_path / "a.npy")
    for call in (lambda: open_scan(path, "dicom"), lambda: find_scans(tmp_path, "dicom")):
        with pytest.raises(ValueError, match=r"choose a format from auto, .*fastmri.*'dicom'"):
            call()


def test_an_unknown_file_says_what_is_in_it(tmp_path: Path):
    path = write_hdf5(tmp_path / "a.h5", {"image": np.zeros(3), "labels/brain": np.zeros(3)})
    message = refused(open_scan, path)
    assert message.startswith(f"{path} is a scan of no known format: found HDF5 with ['image', ")
    assert "'labels'" in message
    assert "fastmri" in message
    path = tmp_path / "b.h5"
    path.write_bytes(b"no HDF5")
    assert refused(open_scan, path).startswith(f"{path} is not a readable HDF5 file: ")
    path = tmp_path / "c.dcm"
    path.touch()
    assert "found a file named .dcm; known are" in refused(open_scan, path)
    for missing in (tmp_path / "d.h5", tmp_path):
        assert refused(open_scan, missing) == f"{missing}: no such file"
        assert refused(open_scan, missing, "fastmri") == f"{missing}: no such file"


def test_a_file_that_was_replaced_is_looked_at_again(tmp_path: Path):
    path = write_fastmri(tmp_path / "a.h5", KSPACE)
    assert open_scan(path).format == "fastmri"
    write_hdf5(path, {"kspace": KSPACE[:1]})
    assert (open_scan(path).format, open_scan(path).shape) == ("prepared", (1, 12, 16, 12))


def test_folders_are_searched_in_order_and_scans_named_by_their_place(tmp_path: Path):
    for place in ("b", "a/2.5mm", ".hidden"):
        (tmp_path / place).mkdir(parents=True)
    write_bart(tmp_path / "b" / "head.cfl", KSPACE)
    write_fastmri(tmp_path / "a" / "2.5mm" / "file1.h5", KSPACE)
    write_hdf5(tmp_path / "a" / "P01536.7.h5", {"kspace": KSPACE})
    save_npy(tmp_path / "z.npy")
    for name in ("README", "notes.txt", "view.png", "splits.yaml", "c.h5.partial", ".d.h5"):
        (tmp_path / name).write_text("no scan")
    save_npy(tmp_path / ".hidden" / "e.npy")
    (tmp_path / "folder.h5").mkdir()
    scans = find_scans(str(tmp_path))
    assert [(scan.name, scan.format) for scan in scans] == [
        ("a/2.5mm/file1", "fastmri"),
        ("a/P01536.7", "prepared"),
        ("b/head", "bart"),
        ("z", "numpy"),
    ]
    assert [scan.name for scan in find_scans(tmp_path, "numpy")] == ["z"]
    assert [type(s) for s in find_scans(tmp_path / "a", "prepared")] == [READERS["prepared"]] * 2


def test_an_empty_or_missing_folder_says_what_is_expected(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    for folder, found in ((tmp_path, "no such file in it"), (tmp_path / "no", "no such folder")):
        for bad in (None, {}):
            message = refused(find_scans, folder, "auto", bad)
            assert message.startswith(f"{folder} must be a folder with scans, files named *.h5, ")
            assert message.endswith(f"found {found}")
    assert "files named *.npy, *.npz; found" in refused(find_scans, tmp_path, "numpy")


def test_files_that_are_no_scans_are_an_error_or_listed(tmp_path: Path):
    save_npy(tmp_path / "good.npy")
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"no HDF5")
    strange = write_hdf5(tmp_path / "strange.h5", {"image": np.zeros(3)})
    assert str(broken) in refused(find_scans, tmp_path)
    bad: dict[Path, str] = {}
    assert [scan.name for scan in find_scans(tmp_path, bad=bad)] == ["good"]
    assert sorted(bad) == [broken, strange]
    assert "is not a readable HDF5 file" in bad[broken]
    assert "no known format" in bad[strange]


def test_two_files_of_one_name_are_refused(tmp_path: Path):
    save_npy(tmp_path / "a.npy")
    write_hdf5(tmp_path / "a.h5", {"kspace": KSPACE})
    message = f"{tmp_path / 'a.npy'} and {tmp_path / 'a.h5'} have one name, a: rename"
    assert refused(find_scans, tmp_path).startswith(message)
    bad: dict[Path, str] = {}
    assert len(find_scans(tmp_path, bad=bad)) == 1
    assert list(bad) == [tmp_path / "a.npy"]


def test_a_scan_is_opened_once_to_be_found_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(5):
        write_fastmri(tmp_path / f"{number}.h5", KSPACE)
    opened: list[object] = []
    original = h5py.File

    def count(*arguments: object) -> h5py.File:
        opened.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(hdf5.h5py, "File", count)
    assert {scan.shape for scan in find_scans(tmp_path)} == {KSPACE.shape}
    assert not any(scan.undersampled for scan in find_scans(tmp_path))
    assert len(opened) == 5


def test_a_thousand_files_start_in_two_seconds(tmp_path: Path):
    first = write_fastmri(tmp_path / "0000.h5", KSPACE[:, :2])
    for number in range(1, 1000):
        os.link(first, tmp_path / f"{number:04}.h5")
    begin = time.process_time()  # of this process alone: a busy machine is no slow library
    scans = find_scans(tmp_path)
    assert {scan.shape for scan in scans} == {(2, 2, 16, 12)}
    assert len(scans) == 1000
    assert time.process_time() - begin < 2
