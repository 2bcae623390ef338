"""BART's pairs of files: slices, cines and volumes, and refused when they do not fit."""

from pathlib import Path

import numpy as np
import pytest

from gleam.data.readers import open_scan
from gleam.data.readers.bart import BartScan
from tests.gleam.readers.layouts import normal, refusal, to_images, write_bart, write_cfl


@pytest.mark.parametrize("shape", [(1, 3, 10, 6), (4, 3, 10, 6), (1, 3, 5, 10, 6), (2, 3, 5, 4, 6)])
def test_slices_and_cines_have_y_along_the_readout(tmp_path: Path, shape: tuple[int, ...]):
    kspace = normal(*shape)
    scan = open_scan(write_bart(tmp_path / "scan.cfl", kspace))
    assert isinstance(scan, BartScan)
    assert (scan.name, scan.shape, scan.whole) == ("scan", shape, False)
    assert scan.dynamic == (len(shape) == 5)
    assert scan.header == {"acquisition": "2D"}
    assert np.array_equal(scan.kspace(), kspace)
    assert np.array_equal(scan.kspace(slice(-1, None)), kspace[-1:])
    assert scan.kspace().dtype == np.complex64
    assert scan.kspace().flags.c_contiguous
    assert (scan.undersampled, scan.acquired()) == (False, None)


def test_the_bytes_are_in_the_order_of_bart(tmp_path: Path):
    readout, phase, coils = 3, 2, 2
    sizes = f"{readout} {phase} 1 {coils}"
    (tmp_path / "a.hdr").write_text(f"# Dimensions\n{sizes}\n")
    numbers = np.arange(12) + 1j * np.arange(12, 24)
    (tmp_path / "a.cfl").write_bytes(numbers.astype("<c8").tobytes())
    kspace = BartScan(tmp_path / "a.cfl").kspace()
    assert kspace.shape == (1, coils, readout, phase)
    for coil in range(coils):
        for y in range(readout):
            for x in range(phase):
                assert kspace[0, coil, y, x] == numbers[y + readout * (x + phase * coil)]


@pytest.mark.parametrize("sizes", [(8, 10, 6), (7, 5, 9), (1, 4, 6)])
def test_the_readout_of_a_volume_is_transformed_into_slices(tmp_path: Path, sizes):
    images = normal(sizes[0], 3, *sizes[1:])
    # all three axes in k-space, by the definition of the centred FFT: a sum over positions
    stored = images
    for axis, n in zip((0, 2, 3), sizes, strict=True):
        places = np.arange(n) - n // 2
        matrix = np.exp(-2j * np.pi * np.outer(places, places) / n) / np.sqrt(n)
        stored = np.moveaxis(np.tensordot(matrix, stored, axes=(1, axis)), 0, axis)
    scan = open_scan(write_cfl(tmp_path / "a.cfl", stored.transpose(0, 2, 3, 1)))
    assert (scan.shape, scan.whole) == ((sizes[0], 3, *sizes[1:]), True)
    assert scan.header == {"acquisition": "3D"}
    assert np.allclose(to_images(scan.kspace()), images, atol=1e-5)
    assert np.array_equal(scan.kspace(slice(0, 1)), scan.kspace()[:1])


def test_what_writes_a_volume_is_what_reads_it(tmp_path: Path):
    kspace = normal(8, 3, 10, 6)
    scan = BartScan(write_bart(tmp_path / "a.cfl", kspace, volume=True))
    assert np.allclose(scan.kspace(), kspace, atol=1e-6)


@pytest.mark.parametrize("volume", [False, True])
def test_holes_mean_undersampling_and_padding_does_not(tmp_path: Path, volume: bool):
    kspace = normal(4, 3, 10, 6)
    kspace[..., :2, :] = 0
    scan = BartScan(write_bart(tmp_path / "a.cfl", kspace, volume=volume))
    assert not scan.undersampled
    assert scan.acquired().tolist() == [[0], [0], *[[1]] * 8]
    kspace[..., [1, 3]] = 0
    scan = BartScan(write_bart(tmp_path / "b.cfl", kspace, volume=volume))
    assert scan.undersampled
    wanted = np.outer([0, 0, *[1] * 8], [1, 0, 1, 0, 1, 1])
    assert np.array_equal(scan.acquired(), wanted)


@pytest.mark.parametrize("kept", [0, 100, -8, 8])
def test_a_file_of_another_size_than_its_header_says_is_refused(tmp_path: Path, kept: int):
    path = write_bart(tmp_path / "a.cfl", normal(2, 3, 10, 6))
    content = path.read_bytes()
    path.write_bytes(content[:kept] if kept < 8 or kept == 100 else content + bytes(kept))
    size = path.stat().st_size
    assert refusal(BartScan(path), "kspace").startswith(
        f"{path}: its header says 2880 bytes, the file has {size}: "
    )


@pytest.mark.parametrize(
    "header",
    ["", "# Dimensions\n", "# Dimensions\n10 6 one 3\n", "10 6 1 3\n", "# Dimensions\n10 6 0 3\n"],
)
def test_an_unreadable_header_is_named(tmp_path: Path, header: str):
    path = write_bart(tmp_path / "a.cfl", normal(1, 3, 10, 6))
    path.with_suffix(".hdr").write_text(header)
    message = refusal(BartScan(path), "kspace")
    assert message.startswith(str(tmp_path / "a.hdr"))
    assert "expected" in message


def test_a_header_or_samples_that_are_missing_are_named(tmp_path: Path):
    path = write_bart(tmp_path / "a.cfl", normal(1, 3, 10, 6))
    path.unlink()
    assert refusal(BartScan(path), "kspace").startswith(f"{path} cannot be read: ")
    path = write_bart(tmp_path / "b.cfl", normal(1, 3, 10, 6))
    path.with_suffix(".hdr").unlink()
    assert refusal(BartScan(path), "kspace").startswith(
        f"{tmp_path / 'b.hdr'}: unreadable header of b.cfl: "
    )


@pytest.mark.parametrize(
    "sizes",
    [
        (10, 6, 1, 3, 2),  # two sets of coil maps
        (10, 6, 1, 3, 1, 2),  # echoes
        (10, 6, 4, 3, 1, 1, 1, 1, 1, 1, 2),  # a volume in time
        (10, 6, 4, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2),  # several volumes
        (10, 6, 1, 0),  # no coils
    ],
)
def test_axes_that_are_no_scan_are_refused(tmp_path: Path, sizes: tuple[int, ...]):
    message = refusal(
        BartScan(write_cfl(tmp_path / "a.cfl", np.zeros(sizes, np.complex64))), "kspace"
    )
    assert message.startswith(f"{tmp_path / 'a.hdr'}: expected k-space along axes 0, 1, 3, 10")
    assert str([*sizes, *[1] * (16 - len(sizes))]) in message
