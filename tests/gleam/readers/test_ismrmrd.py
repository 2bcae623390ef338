"""ISMRMRD: known images in files of the ismrmrd package come back exactly."""

import pickle
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from gleam.data.readers.ismrmrd import IsmrmrdScan
from tests.gleam.readers.layouts_more import (
    centred_fft,
    centred_ifft,
    mrd_acquisition,
    mrd_acquisitions,
    mrd_header,
    noise_of,
    write_ismrmrd,
)

FLAGS_TO_SKIP = [
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"


def shuffled(items: list, seed: int = 0) -> list:
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


def limits(lines: tuple[int, int, int], partitions: tuple[int, int, int] = (0, 0, 0)) -> dict:
    return {"kspace_encoding_step_1": lines, "kspace_encoding_step_2": partitions}


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape
    assert got.dtype == np.complex64
    assert got.flags.c_contiguous
    assert np.abs(got - wanted).max() <= 2e-6 * np.abs(wanted).max()


def as_2d(kspace: np.ndarray) -> np.ndarray:
    """What a 2D scan of lines ``(slices, coils, 1, 1, y, x)`` must be: x, the readout, first."""
    return kspace[:, :, 0, 0].swapaxes(-1, -2)


def test_coil_images_of_a_2d_scan_come_back_whatever_the_order_of_its_acquisitions(
    path: Path,
) -> None:
    images = noise_of((3, 2, 1, 1, 10, 12))  # slices, coils, t, z, y, x
    kspace = centred_fft(images, (-2, -1))
    write_ismrmrd(path, kspace, shuffled(mrd_acquisitions(kspace)))
    scan = IsmrmrdScan(path)
    assert scan.shape == (3, 2, 12, 10)
    assert_close(centred_ifft(scan.kspace(), (-2, -1)).astype(np.complex64), as_2d(images))
    assert_close(scan.kspace(slice(1, 2)), as_2d(kspace)[1:2])
    assert scan.acquired() is None
    assert not scan.undersampled
    assert scan.noise() is None


@pytest.mark.parametrize(
    ("order", "whole"),
    [
        ("0000 1111 2222 3333", False),
        ("0000 2222 1111 3333", False),  # one slice after the other, the odd ones last
        ("0011 0011 2233 2233", False),
        ("0123 0123 0123 0123", True),
    ],
)
def test_a_slice_takes_as_long_as_all_where_slices_take_turns(
    path: Path, order: str, whole: bool
) -> None:
    kspace = noise_of((4, 2, 1, 1, 4, 12))
    lines = mrd_acquisitions(kspace)
    left = [[line for line in lines if line.idx.slice == number] for number in range(4)]
    turns = [left[int(number)].pop(0) for number in order.replace(" ", "")]
    write_ismrmrd(path, kspace, turns)
    assert IsmrmrdScan(path).whole is whole
    assert_close(IsmrmrdScan(path).kspace(), as_2d(kspace))


def test_a_3d_scan_becomes_slices_along_its_readout(path: Path) -> None:
    images = noise_of((1, 2, 1, 6, 10, 12))
    kspace = centred_fft(images, (-3, -2, -1))
    write_ismrmrd(path, kspace, shuffled(mrd_acquisitions(kspace)))
    scan = IsmrmrdScan(path)
    assert scan.whole
    assert scan.header["acquisition"] == "3D"
    by_readout = images[0, :, 0].transpose(3, 0, 2, 1)  # x, coils, y, z
    assert scan.shape == by_readout.shape
    assert_close(centred_ifft(scan.kspace(), (-2, -1)).astype(np.complex64), by_readout)
    assert_close(scan.kspace(slice(4, 9)), scan.kspace()[4:9])


def test_the_samples_are_those_that_the_ismrmrd_package_reads(path: Path) -> None:
    write_ismrmrd(path)
    got = IsmrmrdScan(path).kspace()
    with ismrmrd.Dataset(str(path), mode="r") as file:
        for number in range(file.number_of_acquisitions()):
            one = file.read_acquisition(number)
            line = got[one.idx.slice, :, :, one.idx.kspace_encode_step_1]
            np.testing.assert_array_equal(line, one.data)


def test_cardiac_phases_are_time_and_without_them_repetitions_are(path: Path) -> None:
    kspace = noise_of((2, 2, 3, 1, 6, 8))
    wanted = kspace[:, :, :, 0].swapaxes(-1, -2)
    write_ismrmrd(path, kspace)
    assert IsmrmrdScan(path).dynamic
    assert_close(IsmrmrdScan(path).kspace(), wanted)
    repetitions = [
        line
        for t in range(3)
        for line in mrd_acquisitions(kspace[:, :, t : t + 1], repetition=2 * t)
    ]
    write_ismrmrd(path, kspace, repetitions)
    assert_close(IsmrmrdScan(path).kspace(slice(1, None)), wanted[1:])


def test_noise_measurements_are_kept_apart_and_other_measurements_left_out(path: Path) -> None:
    kspace = noise_of((1, 3, 1, 1, 6, 8))
    noise = noise_of((2, 3, 20), seed=1)
    apart = [mrd_acquisition(n, [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]) for n in noise]
    junk = noise_of((3, 8), seed=2)
    others = [mrd_acquisition(junk, [flag]) for flag in FLAGS_TO_SKIP]
    foreign = mrd_acquisition(junk, encoding_space_ref=1)
    lines = mrd_acquisitions(kspace)
    lines[2].setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    lines[2].setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    write_ismrmrd(path, kspace, [apart[0], *others, *lines, foreign, apart[1]])
    scan = IsmrmrdScan(path)
    assert_close(scan.kspace(), as_2d(kspace))
    got = scan.noise()
    assert got is not None
    assert_close(got, np.concatenate(noise, 1))


def test_averages_are_averaged_by_how_often_each_line_was_measured(path: Path) -> None:
    kspace, more = noise_of((1, 2, 1, 1, 6, 8)), noise_of((1, 2, 1, 1, 6, 8), seed=1)
    lines = mrd_acquisitions(kspace) + mrd_acquisitions(more, average=1)[:4]
    write_ismrmrd(path, kspace, shuffled(lines))
    wanted = kspace.copy()
    wanted[..., :4, :] = (kspace + more)[..., :4, :] / 2
    assert_close(IsmrmrdScan(path).kspace(), as_2d(wanted))


def test_averages_of_a_3d_scan_are_averaged(path: Path) -> None:
    kspace, more = noise_of((1, 2, 1, 4, 6, 8)), noise_of((1, 2, 1, 4, 6, 8), seed=1)
    write_ismrmrd(path, kspace, mrd_acquisitions(kspace) + mrd_acquisitions(more, average=1))
    wanted = centred_ifft((kspace + more)[0, :, 0] / 2, (-1,)).transpose(3, 0, 2, 1)
    assert_close(IsmrmrdScan(path).kspace(), wanted)


def test_partial_fourier_is_zero_filled_around_the_centre(path: Path) -> None:
    full = noise_of((1, 2, 1, 1, 16, 8))
    kept = full[..., 5:, :]  # counters run 0 .. 10, the centre is line 3 of them
    header = mrd_header((8, 16, 1), limits=limits((0, 10, 3)))
    write_ismrmrd(path, kept, header=header)
    scan = IsmrmrdScan(path)
    full[..., :5, :] = 0
    assert_close(scan.kspace(), as_2d(full))
    assert not scan.undersampled
    mask = scan.acquired()
    assert mask is not None
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, [[0] * 5 + [1] * 11])


def test_an_asymmetric_echo_lands_on_the_centre(path: Path) -> None:
    full = noise_of((1, 2, 1, 1, 6, 16))
    write_ismrmrd(
        path,
        acquisitions=mrd_acquisitions(full[..., 6:], center_sample=2),
        header=mrd_header((16, 6, 1)),
    )
    scan = IsmrmrdScan(path)
    full[..., :6] = 0
    assert_close(scan.kspace(), as_2d(full))
    mask = scan.acquired()
    assert mask is not None
    np.testing.assert_array_equal(mask, [[0]] * 6 + [[1]] * 10)


def test_samples_to_discard_are_left_out(path: Path) -> None:
    full = noise_of((1, 2, 1, 1, 6, 8))
    padded = np.pad(full, [(0, 0)] * 5 + [(3, 2)], constant_values=7)
    fields = {"discard_pre": 3, "discard_post": 2, "center_sample": 7}
    lines = mrd_acquisitions(padded, **fields)
    for line in lines[1::2]:  # backwards, what comes first is what ends up last
        line.data[:] = line.data[:, ::-1].copy()
        line.setFlag(ismrmrd.ACQ_IS_REVERSE)
        line.discard_pre, line.discard_post = 2, 3
    write_ismrmrd(path, acquisitions=lines, header=mrd_header((8, 6, 1)))
    assert_close(IsmrmrdScan(path).kspace(), as_2d(full))


def test_reversed_readouts_are_flipped(path: Path) -> None:
    kspace = noise_of((1, 2, 1, 1, 6, 8))
    lines = mrd_acquisitions(kspace)
    for line in lines[1::2]:
        line.data[:] = line.data[:, ::-1].copy()
        line.setFlag(ismrmrd.ACQ_IS_REVERSE)
    write_ismrmrd(path, kspace, lines)
    assert_close(IsmrmrdScan(path).kspace(), as_2d(kspace))


def test_an_elliptical_shutter_is_no_undersampling_but_holes_are(path: Path) -> None:
    kspace = noise_of((1, 2, 1, 12, 16, 4))
    z, y = np.ogrid[-6:6, -8:8]
    inside = (z / 6) ** 2 + (y / 8) ** 2 <= 1
    lines = mrd_acquisitions(kspace)

    def write(keep: np.ndarray) -> IsmrmrdScan:
        chosen = [line for line, kept in zip(lines, keep.flatten(), strict=True) if kept]
        write_ismrmrd(path, acquisitions=chosen, header=mrd_header((4, 16, 12)))
        return IsmrmrdScan(path)

    scan = write(inside)
    assert not scan.undersampled
    mask = scan.acquired()
    assert mask is not None
    np.testing.assert_array_equal(mask, inside.T)
    wanted = centred_ifft(kspace[0, :, 0] * inside[..., None], (-1,)).transpose(3, 0, 2, 1)
    assert_close(scan.kspace(), wanted)
    every_second = inside & ((np.arange(12)[:, None] % 2 == 0) | (abs(z) < 2))
    assert write(every_second).undersampled


def test_every_second_line_or_a_factor_in_the_header_means_undersampling(path: Path) -> None:
    kspace = noise_of((1, 2, 1, 1, 8, 8))
    write_ismrmrd(path, kspace, mrd_acquisitions(kspace)[::2])
    assert IsmrmrdScan(path).undersampled
    write_ismrmrd(path, kspace, header=mrd_header((8, 8, 1), acceleration=2))
    assert IsmrmrdScan(path).undersampled


@pytest.mark.parametrize(
    ("lines", "matrix", "counters", "size", "first"),
    [
        (9, 8, (0, 8, 4), 9, 0),  # one line more than the matrix has
        (7, 8, (0, 6, 3), 8, 1),  # one line less, its centre in the middle
        (7, 8, (0, 6, 4), 8, 0),  # one line less, the last one
        (8, 8, (0, 8, 4), 8, 0),  # a maximum that is a number of lines
        (8, 8, (0, 7, 0), 8, 0),  # no centre
    ],
)
def test_sizes_that_are_off_by_one_lose_no_line_and_keep_the_centre(
    path: Path, lines: int, matrix: int, counters: tuple[int, int, int], size: int, first: int
) -> None:
    kspace = noise_of((1, 2, 1, 1, lines, 4))
    write_ismrmrd(path, kspace, header=mrd_header((4, matrix, 1), limits=limits(counters)))
    scan = IsmrmrdScan(path)
    wanted = np.zeros((1, 2, 4, size), np.complex64)
    wanted[..., first : first + lines] = as_2d(kspace)
    assert_close(scan.kspace(), wanted)
    centre = counters[2] or lines // 2
    np.testing.assert_array_equal(scan.kspace()[..., size // 2], as_2d(kspace)[..., centre])
    assert isinstance(scan.header["voxel_size"], list)
    assert scan.header["voxel_size"][2] == pytest.approx(matrix / size)


@pytest.mark.parametrize(("samples", "size", "first"), [(9, 9, 0), (7, 8, 1)])
def test_readouts_that_are_off_by_one_keep_the_echo_in_the_centre(
    path: Path, samples: int, size: int, first: int
) -> None:
    kspace = noise_of((1, 2, 1, 1, 4, samples))
    write_ismrmrd(path, kspace, header=mrd_header((8, 4, 1)))
    wanted = np.zeros((1, 2, size, 4), np.complex64)
    wanted[..., first : first + samples, :] = as_2d(kspace)
    assert_close(IsmrmrdScan(path).kspace(), wanted)


def test_a_readout_without_a_centre_is_centred(path: Path) -> None:
    kspace = noise_of((1, 2, 1, 1, 4, 8))
    write_ismrmrd(path, kspace, mrd_acquisitions(kspace, center_sample=0))
    assert_close(IsmrmrdScan(path).kspace(), as_2d(kspace))


def test_oversampling_is_cut_from_a_3d_readout_and_told_of_a_2d_one(path: Path) -> None:
    images = noise_of((1, 2, 1, 4, 6, 16))
    kspace = centred_fft(images, (-3, -2, -1))
    spaces = {"recon_matrix": (8, 6, 4), "recon_fov": (8.0, 6.0, 4.0)}
    write_ismrmrd(path, kspace, header=mrd_header((16, 6, 4), **spaces))
    scan = IsmrmrdScan(path)
    assert "oversampling" not in scan.header
    assert scan.header["voxel_size"] == [1.0, 1.0, 1.0]
    visible = images[0, :, 0, :, :, 4:12].transpose(3, 0, 2, 1)
    assert_close(centred_ifft(scan.kspace(), (-2, -1)).astype(np.complex64), visible)
    flat = {"recon_matrix": (8, 6, 1), "recon_fov": (8.0, 6.0, 1.0)}
    write_ismrmrd(path, kspace[:, :, :, :1], header=mrd_header((16, 6, 1), **flat))
    assert IsmrmrdScan(path).header["oversampling"] == 2.0
    assert IsmrmrdScan(path).shape == (1, 2, 16, 6)


def test_unchopped_lines_get_their_alternating_sign(path: Path) -> None:
    images = noise_of((1, 2, 1, 1, 8, 4))
    unchopped = centred_fft(np.roll(images, 4, -2), (-2, -1))  # shifted by half the field of view
    write_ismrmrd(path, unchopped, header=mrd_header((4, 8, 1), user={"ChopY": 0, "ChopZ": 1}))
    got = centred_ifft(IsmrmrdScan(path).kspace(), (-2, -1))
    assert_close(got.astype(np.complex64), as_2d(images))


def test_of_several_contrasts_and_sets_the_first_is_read_and_the_header_tells(path: Path) -> None:
    kspace = noise_of((1, 2, 1, 1, 4, 8))
    second = mrd_acquisitions(3 * kspace, contrast=2)
    flow = mrd_acquisitions(5 * kspace, set=1)
    write_ismrmrd(path, kspace, [*second, *flow, *mrd_acquisitions(kspace)])
    scan = IsmrmrdScan(path)
    assert_close(scan.kspace(), as_2d(kspace))
    assert scan.header["contrasts"] == 2
    assert scan.header["sets"] == 2


def test_the_header_tells_the_protocol_and_voxel_sizes_along_slices_y_and_x(path: Path) -> None:
    protocol = (
        "<studyInformation><studyDate>unknown</studyDate></studyInformation>"
        "<measurementInformation><patientPosition>HFS</patientPosition>"
        "<protocolName>PD FSE</protocolName></measurementInformation>"
        "<acquisitionSystemInformation><systemFieldStrength_T>2.89</systemFieldStrength_T>"
        "</acquisitionSystemInformation>"
    )
    header = mrd_header((8, 4, 1), fov=(160.0, 120.0, 3.0), protocol=protocol)
    write_ismrmrd(path, noise_of((1, 2, 1, 1, 4, 8)), header=header)
    assert IsmrmrdScan(path).header == {
        "acquisition": "2D",
        "sequence": "PD FSE",
        "field_strength": 2.89,
        "repetition_time": 1550.0,
        "echo_time": 25.0,
        "flip_angle": 90.0,
        "voxel_size": [3.0, 20.0, 30.0],
    }


def test_a_scan_can_be_sent_to_another_process_before_and_after_it_was_read(path: Path) -> None:
    write_ismrmrd(path)
    scan = IsmrmrdScan(path)
    fresh = len(pickle.dumps(scan))
    wanted = scan.kspace()
    assert len(pickle.dumps(scan)) < fresh + 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan)).kspace(), wanted)


def test_it_recognises_its_files_only(path: Path, tmp_path: Path) -> None:
    write_ismrmrd(path)
    assert IsmrmrdScan.recognises(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = np.zeros(3)
    (tmp_path / "text.h5").write_text("no HDF5")
    assert not IsmrmrdScan.recognises(tmp_path / "other.h5")
    assert not IsmrmrdScan.recognises(tmp_path / "text.h5")


def test_many_acquisitions_are_read_in_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of one place in one block and in different ones, slices interleaved."""
    monkeypatch.setattr("gleam.data.readers.ismrmrd._BLOCK", 7)
    kspace = noise_of((3, 1, 1, 1, 10, 2))
    first, again = mrd_acquisitions(kspace), mrd_acquisitions(3 * kspace, average=1)
    lines = [line for pair in zip(first[:15], again[:15], strict=True) for line in pair]
    write_ismrmrd(path, kspace, lines + first[15:] + again[15:])
    assert_close(IsmrmrdScan(path).kspace(slice(1, 3)), 2 * as_2d(kspace)[1:])
