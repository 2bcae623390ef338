import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from physics.preparation import (
    compress_geometric,
    compress_svd,
    noise_covariance,
    prewhiten,
    remove_oversampling,
)

SHAPES = {"static": (3, 6, 20, 18), "dynamic": (2, 6, 4, 20, 18)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Complex white noise of unit power."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


def mixing(coils: int, seed: int = 1) -> Tensor:
    """What makes white noise correlated, with very different power in every coil."""
    return normal(coils, coils, seed=seed) * torch.logspace(-2, 1, coils)[:, None]


def to_image(kspace: np.ndarray, *axes: int) -> np.ndarray:
    """Centred orthonormal inverse FFT by numpy."""
    shifted = np.fft.ifftshift(kspace, axes)
    return np.fft.fftshift(np.fft.ifftn(shifted, axes=axes, norm="ortho"), axes)


def to_kspace(image: np.ndarray, *axes: int) -> np.ndarray:
    shifted = np.fft.ifftshift(image, axes)
    return np.fft.fftshift(np.fft.fftn(shifted, axes=axes, norm="ortho"), axes)


def birdcage(slices: int, coils: int, height: int, width: int, frames: int = 0) -> Tensor:
    """K-space of a disc seen by a ring of coils: many coils, few degrees of freedom."""
    z, y, x = np.meshgrid(
        np.linspace(-0.5, 0.5, slices),
        (np.arange(height) - height // 2) * (2 / height),
        (np.arange(width) - width // 2) * (2 / width),
        indexing="ij",
    )
    angles = 2 * np.pi * np.arange(coils) / coils
    distance = [(x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2 + (z - a / 9) ** 2 for a in angles]
    maps = np.stack([np.exp(-d + 1j * (x + a)) for d, a in zip(distance, angles, strict=True)], 1)
    disc = (y**2 + x**2 < 0.6) * (1 + 0.5 * np.cos(9 * x + 4 * y))
    images = maps * disc[:, None]
    if frames:
        beat = 1 + 0.2 * np.sin(np.arange(frames))
        images = images[:, :, None] * beat[:, None, None]
    return torch.from_numpy(to_kspace(images, -2, -1).astype(np.complex64))


def phantom(kind: str) -> Tensor:
    return birdcage(3, 8, 28, 24, frames=4 if kind == "dynamic" else 0)


def test_the_covariance_is_that_of_numpy_and_of_the_noise_that_was_mixed():
    mix = mixing(5)
    noise = mix @ normal(5, 100_000)
    covariance = noise_covariance(noise)
    assert covariance.dtype == torch.complex128
    reference = np.cov(noise.numpy(), bias=True)
    scale = np.sqrt(np.outer(reference.diagonal().real, reference.diagonal().real))
    np.testing.assert_allclose(covariance.numpy() / scale, reference / scale, atol=1e-4)
    truth = (mix @ mix.mH).numpy()  # E[|n|^2] of `normal` is 1: both parts together
    np.testing.assert_allclose(covariance.numpy() / scale, truth / scale, atol=0.02)
    assert torch.equal(covariance, covariance.mH)


@pytest.mark.parametrize("kind", SHAPES)
def test_prewhitened_noise_is_uncorrelated_with_unit_power(kind):
    mix = mixing(6)
    covariance = noise_covariance(mix @ normal(6, 50_000, seed=2))
    kspace = torch.tensordot(mix, normal(*SHAPES[kind]).movedim(1, 0), 1).movedim(0, 1)
    white = prewhiten(kspace, covariance)
    assert white.shape == kspace.shape
    assert white.dtype == torch.complex64
    samples = white.movedim(1, 0).flatten(1).numpy()
    found = samples @ samples.conj().T / samples.shape[1]
    np.testing.assert_allclose(found, np.eye(6), atol=5 / math.sqrt(samples.shape[1]))


@pytest.mark.parametrize("kind", SHAPES)
def test_prewhitening_solves_with_the_cholesky_factor(kind):
    kspace, covariance = normal(*SHAPES[kind]), mixing(6) @ mixing(6).mH
    factor = np.linalg.cholesky(covariance.numpy().astype(complex))
    expected = np.linalg.solve(factor, np.moveaxis(kspace.numpy(), 1, 0).reshape(6, -1))
    found = prewhiten(kspace, covariance).movedim(1, 0).reshape(6, -1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_prewhitening_works_in_any_units():
    kspace, mix = normal(*SHAPES["static"]), mixing(6)
    covariance = noise_covariance(mix @ normal(6, 500))
    tiny = prewhiten(1e-12 * kspace, 1e-24 * covariance)
    torch.testing.assert_close(tiny, prewhiten(kspace, covariance), rtol=1e-4, atol=1e-3)


def test_a_singular_covariance_is_refused_by_the_name_of_the_coil():
    kspace = normal(*SHAPES["static"])
    noise = normal(6, 1000, seed=3)
    copied = noise.clone()
    copied[4] = (1 + 2j) * copied[1]
    with pytest.raises(ValueError, match="coil 4 is a combination"):
        prewhiten(kspace, noise_covariance(copied))
    mixed = noise.clone()
    mixed[5] = mixed[0] - 1j * mixed[2] + 1e-5 * mixed[5]
    with pytest.raises(ValueError, match="coil 5 is a combination"):
        prewhiten(kspace, noise_covariance(mixed))
    dead = noise.clone()
    dead[3] = 0
    with pytest.raises(ValueError, match="coil 3 is dead"):
        noise_covariance(dead)
    indefinite = torch.eye(6)
    indefinite[3, 1] = indefinite[1, 3] = 2
    with pytest.raises(ValueError, match="coil 3 is a combination"):
        prewhiten(kspace, indefinite)
    covariance = noise_covariance(noise)
    covariance[2] = covariance[:, 2] = 0
    with pytest.raises(ValueError, match="coil 2 is dead"):
        prewhiten(kspace, covariance)


def test_a_coil_with_weak_but_own_noise_is_no_singularity():
    noise = normal(6, 1000, seed=3) * torch.tensor([1, 1e-6, 1e6, 1, 1, 1])[:, None]
    white = prewhiten(noise[None, :, :, None], noise_covariance(noise))
    samples = white[0, :, :, 0]
    torch.testing.assert_close(
        samples @ samples.mH / 1000, torch.eye(6).to(torch.complex64), atol=1e-3, rtol=0
    )


def test_unusable_noise_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"5 noise samples cannot tell.*6 coils.*longer"):
        noise_covariance(normal(6, 5))
    for wrong in (normal(6, 10).real, normal(6, 10, 2), normal(0, 10)):
        with pytest.raises(ValueError, match=r"complex \(coils, samples\)"):
            noise_covariance(wrong)
    broken = normal(6, 100)
    broken[1, 7] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        noise_covariance(broken)
    with pytest.raises(ValueError, match="Hermitian"):
        prewhiten(normal(*SHAPES["static"]), torch.eye(6) + 0.1 * torch.ones(6, 6).triu(1))
    with pytest.raises(ValueError, match=r"6 x 6 coils, got \(5, 5\)"):
        prewhiten(normal(*SHAPES["static"]), torch.eye(5))
    with pytest.raises(ValueError, match=r"\(slices, coils, y, x\)"):
        prewhiten(normal(6, 20, 18), torch.eye(6))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("coils", [1, 3, 8])
def test_svd_compression_keeps_the_energy_of_numpys_singular_values(kind, coils):
    kspace = phantom(kind)
    compressed, energy = compress_svd(kspace, coils)
    matrix = np.moveaxis(kspace.numpy(), 1, 0).reshape(8, -1)
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    assert energy == pytest.approx((values[:coils] ** 2).sum() / (values**2).sum(), rel=1e-5)
    assert compressed.shape == (kspace.shape[0], coils, *kspace.shape[2:])
    assert compressed.dtype == torch.complex64
    found = compressed.movedim(1, 0).reshape(coils, -1).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), values[:coils], rtol=1e-3)
    # One matrix: virtual coils are the projections on the left singular vectors, up to phase.
    expected = left[:, :coils].conj().T @ matrix
    phases = (found * expected.conj()).sum(1, keepdims=True)
    phases /= np.abs(phases)
    np.testing.assert_allclose(found, phases * expected, atol=1e-3 * values[0] / 10)


@pytest.mark.parametrize("kind", SHAPES)
def test_compressed_images_have_the_root_sum_of_squares_of_all_but_the_energy_lost(kind):
    kspace = phantom(kind)
    power = (np.abs(to_image(kspace.numpy(), -2, -1)) ** 2).sum(1)
    readouts = (-2, -1, 0)
    ways = [compress_svd(kspace, 4), *(compress_geometric(kspace, 4, axis) for axis in readouts)]
    for compressed, energy in ways:
        found = (np.abs(to_image(compressed.numpy(), -2, -1)) ** 2).sum(1)
        assert (found <= power + 1e-5).all()
        assert (power - found).sum() == pytest.approx((1 - energy) * power.sum(), rel=1e-2)
        assert 0.9 < energy < 1


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("axis", [0, -2, -1])
@pytest.mark.parametrize("coils", [1, 2, 4])
def test_geometric_compression_is_the_best_at_every_position_and_better_than_one_matrix(
    kind, axis, coils
):
    kspace = phantom(kind)
    compressed, energy = compress_geometric(kspace, coils, axis)
    assert compressed.shape == (kspace.shape[0], coils, *kspace.shape[2:])
    hybrid = kspace.numpy() if axis == 0 else to_image(kspace.numpy(), axis)
    found = compressed.numpy() if axis == 0 else to_image(compressed.numpy(), axis)
    best = 0.0
    for position in range(hybrid.shape[axis]):
        there = np.take(hybrid, [position], axis)
        values = np.linalg.svd(np.moveaxis(there, 1, 0).reshape(8, -1), compute_uv=False)
        best += (values[:coils] ** 2).sum()
        kept = (np.abs(np.take(found, [position], axis)) ** 2).sum()
        assert kept == pytest.approx((values[:coils] ** 2).sum(), rel=1e-3, abs=1e-5)
    assert energy == pytest.approx(best / (np.abs(hybrid) ** 2).sum(), rel=1e-5)
    assert energy > compress_svd(kspace, coils)[1] + 1e-4


@pytest.mark.parametrize("axis", [0, -2])
def test_virtual_coils_are_smooth_along_the_readout(axis):
    coils = 3
    kspace = birdcage(12, 8, 20, 24) if axis == 0 else birdcage(2, 8, 48, 24)
    kspace = kspace + 1e-4 * normal(*kspace.shape)
    compressed = compress_geometric(kspace, coils, axis)[0].numpy()
    hybrid = kspace.numpy() if axis == 0 else to_image(kspace.numpy(), axis)
    found = compressed if axis == 0 else to_image(compressed, axis)
    matrices = []  # of every position in the object, recovered from input and output
    for position in range(12) if axis == 0 else range(12, 36):
        before, after = (
            np.take(data, [position], axis).swapaxes(0, 1).reshape(data.shape[1], -1)
            for data in (hybrid, found)
        )
        matrices.append(after @ np.linalg.pinv(before, rcond=1e-6))
    for a, b in pairwise(matrices):
        rotation = np.linalg.svd(b @ a.conj().T)[1]  # no rotation brings them nearer
        nearest = math.sqrt(max(0, 2 * coils - 2 * rotation.sum()))
        assert np.linalg.norm(b - a) == pytest.approx(nearest, abs=0.02)
        assert nearest < 0.5  # arbitrary bases differ by up to sqrt(4 * coils)


def test_compression_has_orthonormal_rows_so_that_white_noise_stays_white():
    kspace = birdcage(3, 8, 28, 24) + 1e-3 * normal(3, 8, 28, 24)
    compressed = compress_svd(kspace, 4)[0]
    geometric = compress_geometric(kspace, 4, 0)[0]
    pairs = [(kspace.movedim(1, 0), compressed.movedim(1, 0)), *zip(kspace, geometric, strict=True)]
    for before, after in pairs:
        matrix = after.flatten(1).numpy() @ np.linalg.pinv(before.flatten(1).numpy(), rcond=1e-6)
        np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(4), atol=2e-3)


def test_all_coils_keep_everything():
    kspace = phantom("static")
    for compressed, energy in (compress_svd(kspace, 8), compress_geometric(kspace, 8, -1)):
        assert energy == pytest.approx(1, abs=1e-6)
        assert compressed.norm() == pytest.approx(float(kspace.norm()), rel=1e-5)


def test_impossible_compression_is_refused_with_the_reason():
    kspace = phantom("dynamic")
    for compress in (compress_svd, lambda k, c: compress_geometric(k, c, -2)):
        for coils in (0, 9):
            with pytest.raises(ValueError, match=r"virtual coils must be 1 \.\. 8"):
                compress(kspace, coils)
        with pytest.raises(ValueError, match="not all zero"):
            compress(torch.zeros_like(kspace), 2)
        with pytest.raises(ValueError, match="finite"):
            compress(kspace * float("nan"), 2)
        with pytest.raises(ValueError, match=r"\(slices, coils, y, x\)"):
            compress(kspace[0, 0], 2)
    for axis in (1, -3, 2):
        with pytest.raises(ValueError, match="readout must be axis 0"):
            compress_geometric(kspace, 2, axis)


@pytest.mark.parametrize(
    ("n", "size"), [(40, 20), (40, 21), (41, 20), (41, 21), (39, 38), (40, 39), (6, 1)]
)
@pytest.mark.parametrize("axis", [-2, -1])
def test_removing_oversampling_keeps_the_inner_image_as_it_is(n, size, axis):
    inner = normal(2, 3, size, 5, seed=4).numpy()
    outer = np.zeros((2, 3, n, 5), np.complex64)
    start = n // 2 - size // 2
    outer[:, :, start : start + size] = inner
    if axis == -1:
        inner, outer = inner.swapaxes(-1, -2), outer.swapaxes(-1, -2)
    kspace = torch.from_numpy(to_kspace(outer, -2, -1))
    found = remove_oversampling(kspace, size, axis)
    assert found.shape == inner.shape
    assert found.dtype == torch.complex64
    np.testing.assert_allclose(to_image(found.numpy(), -2, -1), inner, atol=1e-5)


def test_removing_oversampling_cuts_what_lies_outside_and_keeps_the_variance_of_noise():
    image = normal(2, 3, 4, 64, 10).numpy()
    found = remove_oversampling(torch.from_numpy(to_kspace(image, -2, -1)), 32, -2)
    assert found.shape == (2, 3, 4, 32, 10)
    np.testing.assert_allclose(to_image(found.numpy(), -2, -1), image[..., 16:48, :], atol=1e-5)
    assert found.abs().square().mean() == pytest.approx(1, abs=0.05)


def test_a_field_of_view_that_is_not_oversampled_stays_as_it_is():
    kspace = phantom("static")
    assert torch.equal(remove_oversampling(kspace, 28, -2), kspace)
    for size in (0, 29):
        with pytest.raises(ValueError, match=r"1 \.\. 28, got"):
            remove_oversampling(kspace, size, -2)


def test_nothing_is_changed_in_place():
    kspace = phantom("static")
    before = kspace.clone()
    prewhiten(kspace, torch.eye(8))
    compress_svd(kspace, 3)
    compress_geometric(kspace, 3, 0)
    compress_geometric(kspace, 3, -1)
    remove_oversampling(kspace, 10, -1)
    assert torch.equal(kspace, before)
