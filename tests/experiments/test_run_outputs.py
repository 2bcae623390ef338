"""What a finished run leaves to read, in every dimension."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.image import imread

from experiments.run_outputs import draw_cases, write_outputs
from experiments.training_runs import Run, train_and_test
from gleam.build import build_loaders
from gleam.config import load_config
from gleam.metrics import complex_psnr

COLUMNS = {"kind": "random_columns", "acceleration": 2, "calibration": 16}
DATA: dict[str, dict[str, Any]] = {
    "2D": {"anatomy": "knee", "size": [36, 32]},
    "3D": {"anatomy": "knee", "items": "volumes", "size": [8, 32, 36]},
    "2D+t": {"anatomy": "heart", "items": "cines", "size": [4, 44, 48], "mask": COLUMNS},
}


@pytest.fixture(scope="module", params=DATA)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A greedy run that ended, with its outputs."""
    shared = {"coils": 3, "train": 1, "validate_on": 1, "test": 3}
    mask = {"acceleration": 2, "calibration": 12}
    config = load_config(
        {
            "seed": 1,
            "device": "cpu",
            "out": tmp_path_factory.mktemp("run"),
            "data": {"mask": mask, **shared, **DATA[request.param]},
            "network": {"features": 4, "steps": 4},
            "strategy": {"name": "greedy", "modules": 2},
            "training": {"iterations": 2},
        }
    )
    ended = Run("problem", "variant", config, test_seed=1000)
    assert train_and_test(ended) == ""
    write_outputs(ended)
    return ended


def read(run: Run, name: str) -> Any:
    return json.loads((run.config.out / name).read_text())


def test_psnr_goes_from_the_zero_filled_image_to_that_of_the_test(run: Run):
    anytime, cases = read(run, "anytime.json"), read(run, "result.json")["cases"]
    zero_filled = [
        float(complex_psnr(batch.rescale(batch.zero_filled)[0], example.target))
        for example, batch in build_loaders(run.config.data, 1000)["test"].fixed()
    ]
    network = [case["psnr"] for case in cases]
    for place, wanted in ((0, zero_filled), (-1, network)):
        assert anytime["psnr_mean"][place] == pytest.approx(np.mean(wanted))
        assert anytime["psnr_std"][place] == pytest.approx(np.std(wanted, ddof=1))
    middle = int(np.argsort(zero_filled)[1])
    assert anytime["case_psnr"][0] == pytest.approx(zero_filled[middle])
    assert anytime["case_psnr"][-1] == pytest.approx(network[middle])
    assert len(anytime["psnr_mean"]) == 5
    assert (anytime["strategy"], anytime["ends"]) == ("greedy", [2, 4])


def test_images_by_step_are_planes_as_bytes_of_a_case_that_no_training_chooses(run: Run):
    anytime = np.load(run.config.out / "anytime.npz")
    images, reference = anytime["images"], anytime["reference"]
    assert images.shape == (5, *run.config.data.size[-2:])
    assert images.dtype == reference.dtype == np.uint8
    loader = build_loaders(run.config.data, 1000)["test"]
    psnr = [
        float(complex_psnr(batch.rescale(batch.zero_filled)[0], example.target))
        for example, batch in loader.fixed()
    ]
    example, batch = next(loader.fixed([int(np.argsort(psnr)[1])]))
    target, start = example.target[0].abs(), batch.rescale(batch.zero_filled)[0, 0].abs()
    if target.ndim == 3:
        middle = len(target) // 2
        target, start = target[middle], start[middle]
    window = torch.quantile(target, 0.995)
    for shown, plane in ((reference, target), (images[0], start)):
        wanted = (255 * plane / window).clamp(0, 255).numpy()
        np.testing.assert_allclose(shown, wanted, atol=0.6)


def test_the_table_holds_mean_and_deviation_of_the_tested_cases_and_the_time(run: Run):
    result, text = read(run, "result.json"), (run.config.out / "table.md").read_text()
    psnr = [case["psnr"] for case in result["cases"]]
    line = next(line for line in text.splitlines() if line.startswith("| network"))
    assert f"| {np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} |" in line
    assert line.endswith("| 3 |")
    assert f"{result['seconds']:.1f} s" in text


def test_outputs_that_are_there_are_not_made_again(run: Run):
    table = run.config.out / "table.md"
    before = table.read_text()
    table.write_text("kept")
    write_outputs(run)
    assert table.read_text() == "kept"
    table.write_text(before)


def test_errors_are_shown_five_times_brighter_and_each_case_has_a_row(tmp_path: Path):
    reference = torch.ones(1, 24, 24, dtype=torch.complex64)
    network = reference.clone()
    network[:, 12:] += 0.1j  # a wrong phase is an error too
    cases = {name: {"network": network, "reference": reference} for name in ("worst", "best")}
    draw_cases(tmp_path / "images.png", cases)
    picture = imread(tmp_path / "images.png")
    colour = np.array(colormaps["inferno"](0.5))
    shares = np.isclose(picture, colour, atol=0.02).all(-1).mean(1)
    rows = np.flatnonzero(np.diff((shares > 0.1).astype(int)) == 1)
    assert len(rows) == 2
