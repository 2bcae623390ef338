"""What the zeros of a scan say: padding, partial Fourier and shutters are no undersampling."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gleam.data.readers.arrays import ArrayScan
from gleam.data.readers.sampling import sampling
from physics.masks import equispaced_columns, random_columns
from tests.gleam.readers.layouts import normal

SPACE = (20, 16)


def sampled(mask: np.ndarray) -> tuple[np.ndarray | None, bool]:
    return sampling(normal(3, *mask.shape) * mask)


def ellipse(margin: float = 0) -> np.ndarray:
    y, x = (np.linspace(-1 - margin, 1 + margin, n)[:, None] for n in SPACE)
    return (y**2 + x.T**2 <= 1).astype(float)


def test_full_kspace_has_no_mask():
    assert sampled(np.ones(SPACE)) == (None, False)


def test_the_middle_slice_stands_for_the_scan(tmp_path: Path):
    kspace = normal(3, 2, *SPACE)
    kspace[[0, 2]] = 0  # outer slices may be empty
    kspace[1, ..., ::2] = 0
    np.save(tmp_path / "a.npy", kspace)
    scan = ArrayScan(tmp_path / "a.npy")
    assert scan.undersampled
    assert scan.acquired().tolist() == [[0, 1] * 8]


def test_nothing_says_nothing():
    assert sampled(np.zeros(SPACE)) == (None, False)


@pytest.mark.parametrize(
    ("rows", "columns"), [(slice(3, None), slice(None)), (slice(2, 15), slice(1, 12))]
)
def test_padding_and_partial_fourier_are_no_undersampling(rows: slice, columns: slice):
    mask = np.zeros(SPACE)
    mask[rows, columns] = 1
    got, undersampled = sampled(mask)
    assert not undersampled
    assert np.array_equal(np.broadcast_to(got, SPACE), mask)
    assert got.shape == (20, 1 if columns == slice(None) else 16)
    assert got.dtype == np.float32


@pytest.mark.parametrize("margin", [0, 0.3])
def test_an_elliptical_shutter_is_no_undersampling(margin: float):
    got, undersampled = sampled(ellipse(margin))
    assert not undersampled
    assert np.array_equal(got, ellipse(margin))


@pytest.mark.parametrize("factor", [1.2, 2, 2.5])
def test_skipped_columns_are_undersampling(factor: float):
    for draw in (random_columns, equispaced_columns):
        mask = draw(SPACE, factor, 4, seed=1).numpy()
        got, undersampled = sampled(np.broadcast_to(mask, SPACE))
        assert undersampled
        assert np.array_equal(got, mask)


def test_scattered_samples_in_a_shutter_are_undersampling():
    mask = ellipse() * (np.random.default_rng(0).random(SPACE) < 0.4)
    mask[7:13, 5:11] = 1
    got, undersampled = sampled(mask)
    assert undersampled
    assert np.array_equal(got, mask)


def test_frames_that_skip_different_columns_are_undersampling():
    mask = torch.stack([random_columns(SPACE, 2, 2, seed=n) for n in range(5)]).numpy()
    got, undersampled = sampled(np.broadcast_to(mask, (5, *SPACE)))
    assert undersampled
    assert got.shape == (5, 1, 16)
    assert np.array_equal(got, mask)


def test_a_sample_that_happens_to_be_zero_is_no_hole():
    mask = np.ones(SPACE)
    mask[4, 5] = 0
    assert sampled(mask) == (None, False)
    mask[:, -1] = 0
    got, undersampled = sampled(mask)
    assert (got.tolist(), undersampled) == ([[1] * 15 + [0]], False)


def test_one_coil_that_misses_a_sample_is_no_hole():
    kspace = normal(3, *SPACE)
    kspace[1, :, ::2] = 0
    assert sampling(kspace) == (None, False)
