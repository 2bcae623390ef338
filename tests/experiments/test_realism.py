"""Statistics of simulated and real images; here on images whose statistics are known."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import realism
from physics.brain import simulate_brain

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GLEAM_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.parametrize("exponent", [-2.0, -3.0])
def test_the_slope_is_that_of_the_power_law_an_image_was_made_with(exponent: float):
    y, x = np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij")
    radius = np.maximum(np.hypot(y, x), 1 / 256)
    noise = np.random.default_rng(0).standard_normal((256, 256))
    image = np.fft.ifft2(np.fft.fft2(noise) * radius ** (exponent / 2)).real
    assert realism.slope(image - image.min() + 1) == pytest.approx(exponent, abs=0.15)


def test_histograms_count_the_foreground_only_and_do_not_depend_on_units():
    image = np.zeros((100, 100))
    image[:50] = np.linspace(0.2, 1, 50)[:, None]
    density = realism.histogram(image)
    assert density.sum() * (realism.BINS[1] - realism.BINS[0]) == pytest.approx(1)
    assert not density[realism.BINS[:-1] < 0.15].any()
    assert np.allclose(density, realism.histogram(1e-6 * image))


def test_eigenvalues_are_one_where_there_is_an_object():
    scan = simulate_brain(0, (96, 96), 4, "T2w", snr=500.0)
    values = realism.eigenvalues(scan.kspace.numpy())
    assert np.median(values[scan.labels.numpy() > 0]) > 0.97


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mc_brain_T2_4ch.mat").exists(), reason="no real scans here")
def test_the_comparison_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(realism, "SEEDS", range(1))
    realism.main(["--data", str(DATA), "--out", str(tmp_path)])
    text = (tmp_path / "realism.md").read_text()
    for row in ("| brain, real | 1 |", "| brain, simulated | 1 |", "| heart, real | 100 |"):
        assert row in text
    assert (tmp_path / "realism.png").read_bytes().startswith(b"\x89PNG")
    assert torch.get_num_threads() == 1
