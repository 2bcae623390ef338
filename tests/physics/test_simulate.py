import math

import numpy as np
import pytest
import torch

from physics.phantoms import TISSUE_INDEX
from physics.receive import noise_correlation
from physics.sequences import BRAIN_SEQUENCES
from physics.simulate import SimulatedScan, add_noise, coil_maps, simulate_brain

SIZE = (96, 80)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tissue_signal(scan, name):
    """Median magnitude where this tissue prevails."""
    return scan.image.abs()[scan.labels == TISSUE_INDEX[name]].median().item()


@pytest.fixture(scope="module")
def noiseless():
    return simulate_brain(3, SIZE, coils=5, noise=0.0)


def test_a_scan_has_the_documented_shapes_and_types(noiseless):
    assert noiseless.kspace.shape == (5, *SIZE)
    assert noiseless.image.shape == SIZE
    assert noiseless.maps.shape == (1, 5, *SIZE)
    assert noiseless.labels.shape == SIZE
    for tensor in (noiseless.kspace, noiseless.image, noiseless.maps):
        assert tensor.dtype == torch.complex64
    assert noiseless.labels.dtype == torch.uint8


def test_kspace_without_noise_is_the_centred_fft_of_the_coil_images(noiseless):
    coils = noiseless.maps[0].numpy() * noiseless.image.numpy()
    expected = np.fft.ifftshift(coils, axes=(1, 2))
    expected = np.fft.fftshift(np.fft.fft2(expected, norm="ortho"), axes=(1, 2))
    np.testing.assert_allclose(noiseless.kspace.numpy(), expected, atol=1e-4)


def test_the_noise_of_every_coil_has_the_standard_deviation_asked_for(noiseless):
    noisy = simulate_brain(3, SIZE, coils=5, noise=0.04)
    assert torch.equal(noisy.image, noiseless.image)
    noise = noisy.kspace - noiseless.kspace
    for part in (noise.real, noise.imag):
        torch.testing.assert_close(part.std(dim=(1, 2)), torch.full((5,), 0.04), rtol=0.05, atol=0)


def test_the_95th_percentile_of_the_head_is_1_and_air_is_dark(noiseless):
    head = noiseless.labels > 0
    assert np.percentile(noiseless.image.abs()[head].numpy(), 95) == pytest.approx(1, abs=1e-4)
    assert noiseless.image.abs()[~head].median() < 0.02


def test_the_squared_maps_sum_to_1(noiseless):
    total = noiseless.maps.abs().square().sum(1)
    torch.testing.assert_close(total, torch.ones(1, *SIZE))


def test_the_same_seed_gives_the_same_scan_bit_for_bit():
    first, second = (simulate_brain(11, (64, 64), coils=4) for _ in range(2))
    assert torch.equal(first.kspace, second.kspace)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.maps, second.maps)
    assert torch.equal(first.labels, second.labels)
    assert first.parameters == second.parameters


def test_other_seeds_give_other_heads_coils_and_protocols():
    scans = [simulate_brain(seed, (64, 64), coils=4) for seed in range(8)]
    assert len({scan.parameters["contrast"] for scan in scans}) > 1
    assert len({scan.parameters["echo_time"] for scan in scans}) == 8
    for other in scans[1:]:
        assert (scans[0].image - other.image).abs().mean() > 0.05
        assert (scans[0].maps - other.maps).abs().mean() > 0.05


def test_simulation_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    simulate_brain(0, (48, 48), coils=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [8, 11, 12])  # slices through the ventricles
def test_tissues_of_a_scan_are_ordered_as_its_contrast_demands(seed):
    t1, t2, flair = (
        simulate_brain(seed, (192, 192), 8, name, noise=0.0) for name in ("T1w", "T2w", "FLAIR")
    )
    assert tissue_signal(t1, "white") > tissue_signal(t1, "gray") > tissue_signal(t1, "csf")
    assert tissue_signal(t2, "csf") > tissue_signal(t2, "gray") > tissue_signal(t2, "white")
    assert tissue_signal(flair, "csf") < 0.5 * tissue_signal(flair, "white")


def test_the_contrast_changes_the_signal_and_not_the_head():
    scans = [simulate_brain(7, (64, 64), 4, contrast) for contrast in BRAIN_SEQUENCES]
    for name, scan in zip(BRAIN_SEQUENCES, scans, strict=True):
        assert scan.parameters["contrast"] == name
        assert torch.equal(scan.labels, scans[0].labels)


def test_parameters_are_plain_values_that_reproduce_the_scan():
    scan = simulate_brain(9, (48, 48), coils=3)
    assert all(type(value) in (int, float, str) for value in scan.parameters.values())
    again = simulate_brain(
        scan.parameters["seed"],
        (48, 48),
        coils=3,
        contrast=scan.parameters["contrast"],
        noise=scan.parameters["noise"],
    )
    assert torch.equal(again.kspace, scan.kspace)


def test_the_head_fits_the_field_of_view_in_nearly_all_scans():
    cut = 0
    for seed in range(10):
        labels = simulate_brain(seed, (64, 48), coils=1).labels
        border = torch.cat((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
        cut += (border > 0).float().mean().item() > 0.1
    assert cut <= 1


def axes(points=40, spacing=6.0):
    across = (torch.arange(points) - points // 2) * spacing
    return torch.zeros(1), across, across


@pytest.mark.parametrize("coils", [1, 4, 16])
def test_coil_maps_are_normalised_and_smooth(coils):
    maps, shading = coil_maps(axes(), coils, seeded())
    assert maps.shape == (coils, 1, 40, 40)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(1, 40, 40))
    assert shading.mean().item() == pytest.approx(1, abs=1e-4)
    assert (maps[:, 0, 8:32, 9:32] - maps[:, 0, 8:32, 8:31]).abs().max() < 0.5


def test_coils_see_different_sides_of_the_head():
    maps, _ = coil_maps(axes(), 8, seeded())
    power = maps[:, 0].abs().square()
    y, x = axes()[1:]
    centres = torch.stack(((power * y[:, None]).sum((1, 2)), (power * x).sum((1, 2)))) / power.sum(
        (1, 2)
    )
    angles = torch.atan2(*centres).sort().values
    gaps = torch.cat((angles[1:], angles[:1] + 2 * math.pi)) - angles
    assert gaps.max() < math.pi
    assert centres.norm(dim=0).min() > 10


def test_noise_is_white_and_equal_in_both_parts():
    noise = add_noise(torch.zeros(2, 200, 200, dtype=torch.complex64), 0.5, seeded())
    assert noise.real.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.imag.std().item() == pytest.approx(0.5, rel=0.02)
    assert abs((noise.real * noise.imag).mean().item()) < 0.01
    assert abs((noise[:, 1:] * noise[:, :-1].conj()).mean().item()) < 0.01
    assert abs((noise[0] * noise[1].conj()).mean().item()) < 0.01


def test_noise_follows_the_correlation_between_coils():
    correlation = torch.tensor([[1, 0.3 + 0.4j], [0.3 - 0.4j, 1]])
    noise = add_noise(torch.zeros(2, 90_000, dtype=torch.complex64), 1.0, seeded(), correlation)
    measured = noise @ noise.mH / noise.shape[1] / 2
    torch.testing.assert_close(measured, correlation, atol=0.02, rtol=0)


def test_body_noise_correlates_coils_that_see_the_same_and_stays_of_unit_variance():
    maps, _ = coil_maps(axes(), 6, seeded())
    correlation = noise_correlation(maps, torch.ones(1, 40, 40, dtype=torch.bool), seeded())
    torch.testing.assert_close(correlation.diagonal(), torch.ones(6, dtype=torch.complex64))
    torch.testing.assert_close(correlation, correlation.mH)
    assert torch.linalg.eigvalsh(correlation).min() > 0.4
    assert correlation[0, 1].abs() > correlation[0, 3].abs()


@pytest.mark.parametrize("size", [(96, 96), (97, 121)])
def test_image_and_labels_lie_on_the_same_pixels(size):
    scan = simulate_brain(5, size, coils=4, contrast="PDw", noise=0.0)
    head, bright = scan.labels > 0, scan.image.abs() > 0.1

    def edges(mask, dim):
        inside = mask.any(dim).nonzero()
        return inside.min().item(), inside.max().item()

    for dim in (0, 1):
        assert edges(bright, dim) == pytest.approx(edges(head, dim), abs=2)
    assert (head & bright).sum() > 0.8 * head.sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrast": "T3w"}, "one of T1w, T2w, PDw, FLAIR, got 'T3w'"),
        ({"size": (256, 16)}, r"at least 32, got \(256, 16\)"),
        ({"size": (64, 64, 64)}, "two numbers"),
        ({"coils": 0}, "at least one coil, got 0"),
        ({"noise": -0.1}, "must not be negative, got -0.1"),
        ({"noise": math.nan}, "must not be negative, got nan"),
    ],
)
def test_impossible_scans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_brain(0, **arguments)


def test_impossible_coils_and_noise_are_refused():
    with pytest.raises(ValueError, match="at least one coil, got 0"):
        coil_maps(axes(), 0, seeded())
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        add_noise(torch.zeros(1, 4, 4, dtype=torch.complex64), -1, seeded())


def test_a_scan_cannot_be_changed_by_accident(noiseless):
    assert isinstance(noiseless, SimulatedScan)
    with pytest.raises(AttributeError, match="cannot assign"):
        noiseless.labels = noiseless.labels + 1
