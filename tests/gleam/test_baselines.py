import numpy as np
import pytest
import torch

from gleam.baselines import best_weight, cg_sense, l1_wavelet, total_variation, zero_filled
from gleam.metrics import complex_psnr

SHAPE, COILS = (8, 6), 3


def random_problem(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """K-space of random numbers everywhere, a mask of columns, random maps."""
    generator = torch.Generator().manual_seed(1)
    kspace = torch.randn(batch, COILS, *SHAPE, dtype=torch.complex64, generator=generator)
    maps = torch.randn(batch, 1, COILS, *SHAPE, dtype=torch.complex64, generator=generator)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1]).reshape(1, 1, 1, -1)
    return kspace, mask, maps


def smooth_problem(size: int = 32) -> tuple[torch.Tensor, ...]:
    """A noisy scan of an ellipse with four smooth coils, and the true image."""
    generator = torch.Generator().manual_seed(2)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) + 0.5 * (x**2 + (y - 0.2) ** 2 < 0.1)
    corners = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    maps = torch.stack([torch.exp(-((x - a) ** 2) - (y - b) ** 2 + 1j * a * x) for a, b in corners])
    maps = maps / maps.abs().square().sum(0).sqrt()
    axes = (-2, -1)
    kspace = torch.fft.ifftshift(maps * image, dim=axes)
    kspace = torch.fft.fftshift(torch.fft.fft2(kspace, norm="ortho"), dim=axes)
    kspace += 0.02 * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    mask = torch.zeros(1, 1, 1, size)
    mask[..., ::3] = 1
    mask[..., size // 2 - 3 : size // 2 + 3] = 1
    return kspace[None], mask, maps[None, None], image[None, None].to(torch.complex64)


def dense_encoding(mask: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The encoding of one sample as a matrix: samples of all coils by pixels."""

    def centred_dft(n: int) -> np.ndarray:
        index = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)

    fourier = np.kron(centred_dft(SHAPE[0]), centred_dft(SHAPE[1]))
    sampled = np.broadcast_to(mask, SHAPE).ravel().astype(bool)
    return np.concatenate([(fourier * coil.ravel())[sampled] for coil in maps])


def dense_parts(sample: int) -> tuple[np.ndarray, np.ndarray]:
    kspace, mask, maps = random_problem()
    encoding = dense_encoding(mask[0, 0].numpy(), maps[sample, 0].numpy().astype(complex))
    sampled = np.broadcast_to(mask[0, 0].numpy(), SHAPE).ravel().astype(bool)
    data = np.concatenate([coil.ravel()[sampled] for coil in kspace[sample].numpy()])
    return encoding, data


def test_zero_filled_is_the_adjoint_of_the_dense_encoding():
    image = zero_filled(*random_problem())
    assert image.shape == (2, 1, *SHAPE)
    for sample in range(2):
        encoding, data = dense_parts(sample)
        expected = (encoding.conj().T @ data).reshape(SHAPE)
        np.testing.assert_allclose(image[sample, 0], expected, atol=2e-5)


@pytest.mark.parametrize("regularisation", [0.0, 0.5])
def test_cg_sense_solves_the_dense_least_squares_problem(regularisation):
    image = cg_sense(*random_problem(), iterations=80, regularisation=regularisation)
    for sample in range(2):
        encoding, data = dense_parts(sample)
        normal = encoding.conj().T @ encoding + regularisation * np.eye(encoding.shape[1])
        expected = np.linalg.solve(normal, encoding.conj().T @ data).reshape(SHAPE)
        np.testing.assert_allclose(image[sample, 0], expected, rtol=1e-3, atol=1e-3)


def test_the_number_of_iterations_reaches_the_solver():
    few, many = (cg_sense(*random_problem(), iterations=n) for n in (1, 20))
    encoding, data = dense_parts(0)
    gradient = encoding.conj().T @ data
    normal = encoding.conj().T @ encoding + 0.01 * np.eye(len(gradient))
    step = np.vdot(gradient, gradient) / np.vdot(gradient, normal @ gradient)
    np.testing.assert_allclose(few[0, 0].ravel(), step * gradient, rtol=1e-3, atol=1e-4)
    assert (many - few).abs().max() > 0.05


METHODS = [
    zero_filled,
    cg_sense,
    lambda kspace, mask, maps: l1_wavelet(kspace, mask, maps, 0.01, iterations=20),
    lambda kspace, mask, maps: total_variation(kspace, mask, maps, 0.01, iterations=20),
]
every_sparse = pytest.mark.parametrize("sparse", [l1_wavelet, total_variation])


@pytest.mark.parametrize("method", METHODS)
def test_what_lies_outside_the_mask_is_ignored(method):
    kspace, mask, maps = random_problem()
    torch.testing.assert_close(
        method(kspace, mask, maps), method(kspace * mask, mask.bool(), maps), rtol=0, atol=1e-6
    )


def test_a_measured_zero_is_data_and_not_a_gap():
    kspace, mask, maps = random_problem()
    kspace[..., 2] = 0
    without = mask.clone()
    without[..., 2] = 0
    difference = cg_sense(kspace, mask, maps) - cg_sense(kspace, without, maps)
    assert difference.abs().max() > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_samples_of_a_batch_do_not_influence_each_other(method):
    kspace, mask, maps = random_problem()
    kspace[1] *= 100
    both = method(kspace, mask.expand(2, -1, -1, -1), maps)
    alone = method(kspace[:1], mask, maps[:1])
    torch.testing.assert_close(both[:1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_image_scales_with_the_data(method):
    kspace, mask, maps, _ = smooth_problem(16)
    image, small = method(kspace, mask, maps), method(1e-5 * kspace, mask, maps)
    torch.testing.assert_close(1e5 * small, image, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_no_signal_gives_a_zero_image(method):
    kspace, mask, maps = random_problem()
    assert not method(torch.zeros_like(kspace), mask, maps).any()
    assert not method(kspace, mask, torch.zeros_like(maps)).any()


def test_l1_wavelet_with_full_sampling_and_no_weight_returns_the_image():
    kspace, mask, maps, image = smooth_problem()
    result = l1_wavelet(kspace, torch.ones_like(mask), maps, 0.0, iterations=5)
    torch.testing.assert_close(result, zero_filled(kspace, torch.ones_like(mask), maps))
    assert complex_psnr(result, image) > 30


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_total_variation_draws_two_plateaus_together(scale):
    """By 4 w / n each, where rows of n pixels go round: ``n d^2 / 2 + 2 w (1 - 2 d)`` is least."""
    image = scale * torch.tensor([1.0, 0, 0, 0, 0, 1, 1, 1]).expand(1, 1, 6, 8)
    axes = (-2, -1)
    kspace = torch.fft.ifftshift(image.to(torch.complex64), dim=axes)
    kspace = torch.fft.fftshift(torch.fft.fft2(kspace, norm="ortho"), dim=axes)
    maps, mask = torch.ones(1, 1, 1, 6, 8, dtype=torch.complex64), torch.ones(1, 1, 1, 1)
    found = total_variation(kspace, mask, maps, 0.2, iterations=300)
    wanted = torch.where(image > 0, 0.9, 0.1) * scale
    torch.testing.assert_close(found.real, wanted, rtol=0, atol=1e-3 * scale)


def test_a_huge_weight_leaves_no_wavelet_coefficient():
    kspace, mask, maps, _ = smooth_problem()
    assert not l1_wavelet(kspace, mask, maps, 1e4, iterations=5).any()


@pytest.mark.parametrize("method", METHODS)
def test_pixels_that_no_coil_sees_are_zero(method):
    kspace, mask, maps, _ = smooth_problem()
    maps[..., :9] = 0
    image = method(kspace, mask, maps)
    assert not image[..., :9].any()
    assert image[..., 9:].any()


def test_better_priors_reconstruct_better():
    kspace, mask, maps, image = smooth_problem()
    results = [
        zero_filled(kspace, mask, maps),
        cg_sense(kspace, mask, maps),
        l1_wavelet(kspace, mask, maps, 0.01),
        total_variation(kspace, mask, maps, 0.01),
    ]
    quality = [float(complex_psnr(result, image)) for result in results]
    assert quality[0] + 3 < quality[1]
    assert quality[1] + 1 < min(quality[2:])


@every_sparse
def test_the_best_weight_is_the_one_of_highest_psnr(sparse):
    kspace, mask, maps, image = smooth_problem()
    weights = [1e-5, 0.01, 1.0]
    best, weight = best_weight(sparse, kspace, mask, maps, weights, image, iterations=20)
    images = [sparse(kspace, mask, maps, value, iterations=20) for value in weights]
    quality = [float(complex_psnr(result, image)) for result in images]
    index = int(np.argmax(quality))
    assert weight == weights[index] == 0.01
    assert torch.equal(best, images[index])


@pytest.mark.parametrize("peak", range(7))
def test_the_best_of_many_weights_is_found_by_trying_about_half_of_them(peak):
    weights = [8.0, 1.0, 64.0, 2.0, 32.0, 4.0, 16.0]
    reference = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
    tried = []

    def method(kspace, mask, maps, weight, iterations):
        tried.append(weight)
        return reference + abs(np.log2(weight) - peak) + 0.1

    image, weight = best_weight(method, *[reference] * 3, weights, reference)
    assert weight == 2.0**peak
    torch.testing.assert_close(image, reference + 0.1)
    assert len(tried) == len(set(tried)) <= 5


def test_global_random_state_is_left_alone():
    kspace, mask, maps = random_problem()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    for method in METHODS:
        method(kspace, mask, maps)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("method", METHODS)
def test_shapes_that_do_not_fit_are_refused(method):
    kspace, mask, maps = random_problem()
    with pytest.raises(ValueError, match="one map set"):
        method(kspace, mask, maps.expand(-1, 2, -1, -1, -1))
    with pytest.raises(ValueError, match="fold time"):
        method(kspace[:, :, None].expand(-1, -1, 4, -1, -1), mask[:, :, None], maps[:, :, :, None])
    with pytest.raises(ValueError, match="mask must be"):
        method(kspace, mask[..., :-1], maps)
    with pytest.raises(ValueError, match="mask must be"):
        method(kspace, mask[0], maps)


def test_choosing_among_no_weights_is_refused():
    kspace, mask, maps, image = smooth_problem(16)
    with pytest.raises(ValueError, match="at least one"):
        best_weight(l1_wavelet, kspace, mask, maps, [], image)
