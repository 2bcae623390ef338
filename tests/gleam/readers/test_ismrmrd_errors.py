"""ISMRMRD: what cannot be read is refused with an error that names file and dataset."""

from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from gleam.data.readers.ismrmrd import IsmrmrdScan
from gleam.data.scan import DataError
from tests.gleam.readers.layouts_more import (
    mrd_acquisition,
    mrd_acquisitions,
    mrd_header,
    noise_of,
    write_ismrmrd,
)

KSPACE = noise_of((1, 2, 1, 1, 6, 8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"


def assert_refused(path: Path, where: str, message: str) -> None:
    """Reading fails with a message that names the file, the dataset and the trouble."""
    with pytest.raises(DataError, match=message) as error:
        IsmrmrdScan(path).kspace()
    assert str(path) in str(error.value)
    assert where in str(error.value)


def test_a_truncated_file_is_refused(path: Path) -> None:
    write_ismrmrd(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert_refused(path, "", "not a readable HDF5 file")


def test_a_file_whose_samples_are_damaged_is_refused(path: Path) -> None:
    write_ismrmrd(path)
    with h5py.File(path) as file:
        offset = file["dataset/data"].id.get_chunk_info(3).byte_offset
    raw = bytearray(path.read_bytes())
    raw[offset + 360 : offset + 368] = b"\xff" * 8  # behind the head: where the samples lie
    path.write_bytes(raw)
    assert_refused(path, "dataset/data", "cannot be read")


@pytest.mark.parametrize("key", ["xml", "data"])
def test_a_missing_dataset_is_named(path: Path, key: str) -> None:
    write_ismrmrd(path)
    with h5py.File(path, "a") as file:
        del file[f"dataset/{key}"]
    assert_refused(path, f"dataset/{key}", "must hold a dataset")


@pytest.mark.parametrize(
    "header",
    [
        "no XML",
        "<ismrmrdHeader",
        mrd_header((8, 6, 1)).replace("http://www.ismrm.org/ISMRMRD", "http://elsewhere"),
        mrd_header((8, 6, 1)).replace("<x>8</x>", "<x>eight</x>"),
        mrd_header((8, 0, 1)),
        mrd_header((8, 6, 1)).replace("<encoding>", "<!--").replace("</encoding>", "-->"),
    ],
    ids=["text", "cut", "namespace", "no number", "empty", "no encoding"],
)
def test_an_unreadable_header_is_refused(path: Path, header: str) -> None:
    write_ismrmrd(path, KSPACE, header=header)
    assert_refused(path, "dataset/xml", "no readable ISMRMRD header")


def test_a_header_that_is_no_text_is_refused(path: Path) -> None:
    write_ismrmrd(path)
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = np.zeros(3)
    assert_refused(path, "dataset/xml", "must hold one text")


def test_a_trajectory_that_is_not_cartesian_is_refused(path: Path) -> None:
    write_ismrmrd(path, KSPACE, header=mrd_header((8, 6, 1), trajectory="radial"))
    assert_refused(path, "dataset/xml", "must be cartesian, got radial")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(5), "cannot be read"),
        (np.zeros(5, [("head", [("flags", "u8")])]), "lack active_channels, "),
    ],
)
def test_a_wrong_type_is_refused(path: Path, values: np.ndarray, message: str) -> None:
    write_ismrmrd(path)
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = values
    assert_refused(path, "dataset/data", message)


def test_samples_of_a_wrong_type_are_refused(path: Path) -> None:
    write_ismrmrd(path)
    heads = ismrmrd.hdf5.acquisition_dtype["head"]
    wrong = np.dtype([("head", heads), ("data", h5py.vlen_dtype(np.complex64))])
    with h5py.File(path, "a") as file:
        stored = file["dataset/data"][:]
        rows = np.empty(len(stored), wrong)
        rows["head"] = stored["head"]
        for row, samples in zip(rows, stored["data"], strict=True):
            row["data"] = samples.view(np.complex64)
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=rows, dtype=wrong)
    assert_refused(path, "dataset/data", "must hold float32")


def test_a_file_without_imaging_acquisitions_is_refused(path: Path) -> None:
    noise = mrd_acquisition(noise_of((2, 8)), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    write_ismrmrd(path, KSPACE, [noise, noise])
    assert_refused(path, "dataset/data", "none of its 2 acquisitions is an imaging one")


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 8), r"number of coils.*\[2, 3\]"), ((2, 9), r"number of samples.*\[8, 9\]")],
)
def test_acquisitions_that_differ_in_size_are_refused(
    path: Path, shape: tuple[int, int], message: str
) -> None:
    odd = mrd_acquisition(noise_of(shape), kspace_encode_step_1=5)
    write_ismrmrd(path, KSPACE, [*mrd_acquisitions(KSPACE)[:5], odd])
    assert_refused(path, "dataset/data", message)


def test_zero_coils_are_refused(path: Path) -> None:
    write_ismrmrd(path, KSPACE, [mrd_acquisition(np.zeros((0, 8)))], mrd_header((8, 1, 1)))
    assert_refused(path, "dataset/data", "number of coils, at least one")


def test_heads_that_lie_about_the_samples_are_refused(path: Path) -> None:
    write_ismrmrd(path, KSPACE)
    with h5py.File(path, "a") as file:
        rows = file["dataset/data"][:]
        for row in rows:
            row["head"]["number_of_samples"] = 16
            row["head"]["center_sample"] = 8
        file["dataset/data"][:] = rows
    assert_refused(path, "dataset/data", "must hold 16 samples of every coil")


def test_noise_of_other_coils_is_refused(path: Path) -> None:
    noise = mrd_acquisition(noise_of((4, 8)), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    write_ismrmrd(path, KSPACE, [noise, *mrd_acquisitions(KSPACE)])
    assert_refused(path, "dataset/data", "noise measurements must have 2 coils")


def test_slices_with_different_lines_are_refused(path: Path) -> None:
    kspace = noise_of((2, 2, 1, 1, 6, 8))
    write_ismrmrd(path, kspace, mrd_acquisitions(kspace)[:-1])
    assert_refused(path, "dataset/data", r"same lines, found 5 \.\. 6 of 6")


def test_what_cannot_be_one_array_is_refused(path: Path) -> None:
    write_ismrmrd(path, noise_of((2, 2, 1, 4, 6, 8)))
    assert_refused(path, "dataset/data", "2 slabs")
    cine = noise_of((1, 2, 3, 1, 6, 8))
    again = mrd_acquisitions(cine, repetition=1)
    write_ismrmrd(path, cine, mrd_acquisitions(cine) + again)
    assert_refused(path, "dataset/data", "several cardiac phases and several repetitions")


def test_counters_far_beyond_the_header_are_refused(path: Path) -> None:
    write_ismrmrd(path, KSPACE, header=mrd_header((8, 4, 1)))
    assert_refused(
        path, "kspace_encode_step_1", "counters run to 5, but the header announces 4 lines"
    )


def test_a_centre_that_was_not_acquired_is_refused(path: Path) -> None:
    header = mrd_header((8, 16, 1), limits={"kspace_encoding_step_1": (0, 15, 8)})
    write_ismrmrd(path, KSPACE, header=header)
    assert_refused(path, "kspace_encode_step_1", "centre of k-space, 8, must be among")


def test_an_echo_outside_the_samples_is_refused(path: Path) -> None:
    write_ismrmrd(path, KSPACE, mrd_acquisitions(KSPACE, center_sample=8))
    assert_refused(path, "dataset/data", "center_sample")
