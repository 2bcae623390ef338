import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gleam.metrics import (
    complex_psnr,
    evaluate_scan,
    evaluate_slice,
    fastmri_nmse,
    fastmri_psnr,
    fastmri_ssim,
    nrmse,
    ssim,
    summarise,
)


def pair(*shape: int, noise: float = 0.2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(shape, dtype=torch.complex64, generator=generator)
    error = torch.randn(shape, dtype=torch.complex64, generator=generator)
    return reference + noise * error, reference


def test_complex_psnr_and_nrmse_follow_their_formulas():
    image, reference = pair(2, 9, 11)
    x, ref = image.numpy().astype(complex), reference.numpy().astype(complex)
    rms = np.sqrt(np.mean(np.abs(ref - x) ** 2))
    assert float(complex_psnr(image, reference)) == pytest.approx(
        20 * np.log10(np.abs(ref).max() / rms), rel=1e-12
    )
    assert float(nrmse(image, reference)) == pytest.approx(
        np.linalg.norm(x - ref) / np.linalg.norm(ref), rel=1e-12
    )


def test_a_tenth_of_the_peak_as_error_everywhere_is_20_db():
    reference = torch.full((8, 8), 2.0 + 0j)
    assert float(complex_psnr(reference + 0.2j, reference)) == pytest.approx(20, abs=1e-5)
    assert float(nrmse(reference + 0.2j, reference)) == pytest.approx(0.1, abs=1e-7)


def test_a_wrong_phase_lowers_the_complex_metrics_and_not_the_magnitude_ones():
    _, reference = pair(3, 12, 12)
    rotated = reference * np.exp(0.5j)
    assert float(complex_psnr(rotated, reference)) < 25
    assert float(nrmse(rotated, reference)) == pytest.approx(2 * np.sin(0.25), rel=1e-5)
    assert float(ssim(rotated, reference)) == pytest.approx(1, abs=1e-6)
    assert float(fastmri_nmse(rotated, reference)) < 1e-12


@pytest.mark.parametrize("shape", [(7, 7), (32, 20), (15, 40)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_ssim_agrees_with_scikit_image(shape, scale):
    image, reference = pair(*shape, noise=0.5)
    image, reference = image * scale, reference * scale
    magnitudes = image.abs().double().numpy(), reference.abs().double().numpy()
    expected = structural_similarity(*magnitudes, data_range=magnitudes[1].max())
    assert 0.1 < expected < 0.95
    assert float(ssim(image, reference)) == pytest.approx(expected, abs=1e-6)


def test_ssim_averages_the_images_of_a_stack_with_one_data_range():
    image, reference = pair(3, 16, 12, noise=0.5)
    reference[0] *= 0.1
    x, ref = image.abs().double().numpy(), reference.abs().double().numpy()
    slices = [
        structural_similarity(a, b, data_range=ref.max()) for a, b in zip(x, ref, strict=True)
    ]
    assert float(ssim(image, reference)) == pytest.approx(np.mean(slices), abs=1e-6)


def test_fastmri_metrics_follow_the_volume_formulas_on_magnitudes():
    image, reference = pair(4, 20, 16, noise=0.4)
    x, ref = image.abs().double().numpy(), reference.abs().double().numpy()
    slices = [structural_similarity(ref[i], x[i], data_range=ref.max()) for i in range(4)]
    assert float(fastmri_nmse(image, reference)) == pytest.approx(
        np.linalg.norm(ref - x) ** 2 / np.linalg.norm(ref) ** 2, rel=1e-6
    )
    assert float(fastmri_psnr(image, reference)) == pytest.approx(
        peak_signal_noise_ratio(ref, x, data_range=ref.max()), rel=1e-6
    )
    assert float(fastmri_ssim(image, reference)) == pytest.approx(np.mean(slices), abs=1e-6)


def test_metrics_compute_in_float64_on_float32_input():
    image, reference = pair(12, 12)
    for metric in (complex_psnr, nrmse, ssim):
        value = metric(image, reference)
        assert value.dtype == torch.float64
        assert float(value) == float(metric(image.to(torch.complex128), reference))


def test_a_perfect_image_has_the_best_value_of_every_metric():
    _, reference = pair(2, 12, 12)
    values = evaluate_scan(reference, reference)
    assert values["psnr"] == values["fastmri_psnr"] == float("inf")
    assert values["nrmse"] == values["fastmri_nmse"] == 0
    assert values["ssim"] == pytest.approx(1, abs=1e-12)


def test_a_slice_of_real_images_is_evaluated_like_a_complex_one():
    image, reference = pair(12, 12)
    real = evaluate_slice(image.abs(), reference.abs())
    assert real == pytest.approx(evaluate_slice(image.abs() + 0j, reference.abs() + 0j))
    assert set(real) == {"psnr", "ssim", "nrmse"}


def test_a_scan_is_one_item_and_not_the_mean_of_its_slices():
    image, reference = pair(3, 12, 12)
    reference[0] *= 10
    scan = evaluate_scan(image, reference)
    slices = summarise(evaluate_slice(a, b) for a, b in zip(image, reference, strict=True))
    assert scan["psnr"] == pytest.approx(float(complex_psnr(image, reference)))
    assert abs(scan["psnr"] - slices["psnr"]["mean"]) > 1


@pytest.mark.parametrize("metric", [complex_psnr, nrmse, ssim, fastmri_nmse, fastmri_psnr])
def test_unusable_input_is_refused_with_its_reason(metric):
    image, reference = pair(3, 12, 12)
    with pytest.raises(ValueError, match="one shape"):
        metric(image[:1], reference)
    with pytest.raises(ValueError, match="reference is zero"):
        metric(image, torch.zeros_like(reference))
    for broken in (float("nan"), float("inf")):
        spoiled = image.clone()
        spoiled[0, 0, 0] = broken
        with pytest.raises(ValueError, match="image holds NaN"):
            metric(spoiled, reference)
        with pytest.raises(ValueError, match="reference holds NaN"):
            metric(image, spoiled)


def test_ssim_refuses_images_smaller_than_its_window():
    image, reference = pair(6, 12)
    with pytest.raises(ValueError, match="7 x 7"):
        ssim(image, reference)


def test_fastmri_ssim_is_not_defined_on_a_single_slice():
    with pytest.raises(ValueError, match="slices"):
        fastmri_ssim(*pair(12, 12))


def test_summary_gives_mean_sample_deviation_and_count():
    summary = summarise([{"psnr": 30.0}, {"psnr": 32.0}, {"psnr": 37.0}])
    assert summary == {
        "psnr": {"mean": pytest.approx(33.0), "std": pytest.approx(13**0.5), "count": 3}
    }


def test_the_deviation_of_a_single_row_is_zero():
    assert summarise([{"ssim": 0.9}]) == {"ssim": {"mean": 0.9, "std": 0.0, "count": 1}}


def test_summary_refuses_no_rows_and_rows_that_differ():
    with pytest.raises(ValueError, match="empty"):
        summarise([])
    with pytest.raises(ValueError, match="same metrics"):
        summarise([{"psnr": 1.0}, {"ssim": 1.0}])
