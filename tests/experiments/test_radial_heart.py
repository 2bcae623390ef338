"""The radial experiment: on a phantom, and on the real heart if it is here."""

import math
import os
from pathlib import Path

import pytest
import sigpy
import torch
from torch import Tensor

from experiments import radial_heart
from gleam.metrics import nrmse
from physics.noncartesian import NonCartesianSense
from tests.helpers import normal

pytest.importorskip("finufft", reason="the extra noncartesian is not installed")
pytest.importorskip("mrinufft", reason="the extra noncartesian is not installed")

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GLEAM_TEST_DATA", ROOT.parent / "shared" / "data"))
FILE = DATA / "mc_cardiac_radial_12ch_25spokes.mat"
needs_data = pytest.mark.skipif(not FILE.exists(), reason="the real heart is not here")
SIZE, COILS, SPOKES = 48, 6, 24


def measure() -> tuple[Tensor, Tensor, Tensor]:
    """Phantom, k-space ``(coils, spokes, readout)`` and positions, by a dense transform."""
    phantom = torch.from_numpy(sigpy.shepp_logan((SIZE, SIZE))).to(torch.complex64)
    line = (torch.arange(SIZE) - SIZE // 2) / SIZE
    angles = 2 * math.pi * torch.arange(COILS) / COILS
    distance = (line[:, None] - 0.6 * angles.sin()[:, None, None]) ** 2
    distance = distance + (line - 0.6 * angles.cos()[:, None, None]) ** 2
    maps = torch.polar(torch.exp(-2 * distance), angles[:, None, None] + line)
    maps = maps / maps.abs().square().sum(0).sqrt()
    turns = torch.arange(SPOKES) * math.pi / SPOKES
    radii = (torch.arange(2 * SIZE) - SIZE) / (2 * SIZE)
    positions = torch.stack([turns.sin(), turns.cos()], -1)[:, None] * radii[:, None]
    pixels = torch.cartesian_prod(line, line) * SIZE
    waves = torch.polar(torch.ones(()), -2 * math.pi * (positions @ pixels.T)) / SIZE
    kspace = torch.einsum("srp,cp->csr", waves, (maps * phantom).flatten(1))
    return phantom, kspace + 0.01 * normal(*kspace.shape), positions


@pytest.fixture
def small(monkeypatch) -> tuple[Tensor, Tensor, Tensor]:
    monkeypatch.setattr(radial_heart, "SIZE", (SIZE, SIZE))
    return measure()


def test_cg_sense_is_closer_to_the_phantom_than_gridding(small):
    phantom, kspace, positions = small
    images, maps = radial_heart.reconstruct(kspace, positions)
    assert maps.shape == (COILS, SIZE, SIZE)
    truth = phantom.abs()
    errors = []
    for image in images.values():
        magnitude = image.abs()
        scale = (magnitude * truth).sum() / magnitude.square().sum()  # gridding has its own
        errors.append(float(nrmse(scale * magnitude, truth)))
    assert list(images) == ["gridding", "CG-SENSE, 3 iterations", "CG-SENSE, 30 iterations"]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.7 * errors[0]
    # And without a scale of its own: the equation solved is that of the image itself.
    assert float(nrmse(images["CG-SENSE, 30 iterations"].abs(), truth)) < 0.3


def test_the_maps_of_gridded_spokes_explain_the_measurements(small):
    _, kspace, positions = small
    samples, trajectory = kspace.flatten(1), positions.flatten(0, 1)
    maps, density = radial_heart.estimate_maps(samples, trajectory, (SIZE, SIZE))
    operator = NonCartesianSense(maps, trajectory, density)
    image = radial_heart.cg_sense(operator, samples[None], 1e-3, 30)
    assert radial_heart.relative(operator.forward(image), samples[None]) < 0.15


def test_every_row_of_the_table_is_measured_and_iterations_lower_the_residual(small):
    _, kspace, positions = small
    rows = radial_heart.cross_validate(kspace, positions)
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [cell[:2] for cell in cells] == [
        [weights, str(count)] for weights in ("Pipe", "none") for count in (3, 10, 30)
    ]
    for part in (cells[:3], cells[3:]):
        residuals = [float(cell[2]) for cell in part]
        assert residuals == sorted(residuals, reverse=True)
        misfit, error = (float(number) for number in part[-1][3:])
        assert 0 < misfit < error < 1
    assert cells[2][2:] != cells[5][2:]


def test_the_normal_operators_compared_run_in_turn(small):
    _, kspace, positions = small
    rows = radial_heart.measure_normal(kspace, positions, repeats=2)
    assert [row.split(" | ")[0] for row in rows] == ["| Toeplitz", "| adjoint(forward)"]
    assert rows[0].endswith("| 1.000 |")


def test_the_figure_is_drawn(tmp_path: Path):
    images = {name: normal(256, 256, seed=seed) for seed, name in enumerate("ab")}
    radial_heart.draw(tmp_path / "new" / "a.png", images, normal(3, 256, 256).abs())
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")


@needs_data
def test_the_heart_is_read_with_coils_first_and_y_before_x():
    from scipy.io import loadmat

    kspace, positions = radial_heart.read_heart(FILE)
    assert kspace.shape == (12, 25, 256)
    assert positions.shape == (25, 256, 2)
    content = loadmat(FILE)
    assert complex(kspace[5, 7, 100]) == pytest.approx(content["rawdata"][100, 7, 5], rel=1e-6)
    k = content["k"][100, 7]
    assert positions[7, 100].tolist() == pytest.approx([-k.imag, -k.real], rel=1e-6)


@needs_data
@pytest.mark.slow
def test_cg_sense_of_the_real_heart_tells_blood_from_myocardium():
    images, _ = radial_heart.reconstruct(*radial_heart.read_heart(FILE))
    gridding, *_, best = (image.abs() for image in images.values())

    def contrast(image: Tensor) -> float:
        """Blood of the left ventricle against the septum."""
        return float(image[117:125, 128:137].mean() / image[117:127, 121:124].mean())

    def edges(image: Tensor) -> float:
        heart = image[radial_heart.HEART]
        return float(heart.diff(dim=0).abs().mean() / heart.mean())

    assert contrast(best) > 1.1 * contrast(gridding)
    assert edges(best) > 1.5 * edges(gridding)
