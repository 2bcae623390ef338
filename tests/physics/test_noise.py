"""The noise found in k-space is the noise that was simulated, where it shows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from physics.brain import simulate_brain
from physics.heart import simulate_heart
from physics.knee import simulate_knee
from physics.masks import draw_mask
from physics.noise import noise_level

SIZE = (96, 112)


def noise(sigma: float, seed: int, coils: int = 4, size: tuple[int, int] = SIZE) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.view_as_complex(sigma * torch.randn(coils, *size, 2, generator=random))


def brain(seed: int, coils: int, snr: float) -> Tensor:
    return simulate_brain(seed, SIZE, coils, snr=snr).kspace


def knee(seed: int, coils: int, snr: float) -> Tensor:
    return simulate_knee(seed, SIZE, coils, snr=snr).kspace


def heart(seed: int, coils: int, snr: float) -> Tensor:
    return simulate_heart(seed, (1, *SIZE), coils, snr=snr).kspace[:, 0]


@pytest.mark.parametrize("simulate", [brain, knee, heart])
@pytest.mark.parametrize("kind", ["random_columns", "equispaced_columns", "uniform_random"])
def test_the_noise_of_simulated_scans_is_found(
    simulate: Callable[[int, int, float], Tensor], kind: str
):
    for seed, coils in ((1, 4), (2, 12)):
        for snr in (10.0, 20.0):  # noise of 1 / snr: the image is normalised
            kspace = simulate(seed, coils, snr)
            mask = draw_mask(kind, SIZE, 4, 12, seed)
            assert noise_level(kspace * mask, mask) == pytest.approx(1 / snr, rel=0.15)


def test_where_signal_reaches_the_edge_it_is_an_upper_bound():
    for seed in range(3):
        assert noise_level(brain(seed, 8, 300.0), torch.ones(1, 1)) > 0.9 / 300


def test_only_measured_samples_count_and_strong_ones_do_not():
    mask = draw_mask("uniform_random", SIZE, 4, 12, 3)
    kspace = noise(0.3, 4) + 1e6 * (1 - mask)
    kspace[:, 40:60, 40:60] += 100  # the signal is in the centre
    assert noise_level(kspace, mask) == pytest.approx(0.3, rel=0.05)
    kspace[:, :2, :10] += 100 * mask[:2, :10]
    assert noise_level(kspace, mask) == pytest.approx(0.3, rel=0.1)


def test_few_samples_are_enough_and_none_are_refused():
    mask = torch.zeros(32, 32)
    mask[16, 8:28] = 1
    assert noise_level(noise(2.0, 5, 16, (32, 32)), mask) == pytest.approx(2.0, rel=0.15)
    with pytest.raises(ValueError, match="must sample something"):
        noise_level(noise(1.0, 1, 4, (32, 32)), 0 * mask)
