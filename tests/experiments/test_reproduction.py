"""The reproductions: presets, strategies, what a run leaves, and measured scans in true layouts."""

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from experiments import knee2d, reproduction
from experiments.memory_problems import read_problems
from experiments.reproduction import CONFIGS, PRESETS, TUNING, run_experiment
from gleam.build import build_network
from gleam.config import ConfigError, load_config
from tests.gleam.raw import body, raw_volume, true_maps
from tests.gleam.readers.layouts import write_fastmri
from tests.gleam.readers.layouts_more import mrd_header, write_cmrxrecon
from tests.gleam.readers.test_mridata_fse import write as write_knee

EXPERIMENTS = ("knee2d", "brain2d", "knee3d", "cine")
COMPARED = {"backprop", "checkpoint", "invertible", "greedy"}


def smaller(folder: Path, name: str, preset: str, keep: str, **data: Any) -> Path:
    """The settings of an experiment with one problem of one preset, its numbers made small."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    problem = content["presets"][preset][keep]
    config = problem["config"]
    config["network"]["features"] = 2
    config["device"] = "cpu"
    config["data"] |= {"workers": 0, **data}
    config["training"] |= {"iterations": 3, "validate_every": 2, "save_every": 2}
    problem |= {"seeds": [1], "repeats": 1, "parallel": None}
    path = folder / "configs" / f"{name}.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"presets": {preset: {keep: problem}}}))
    return path.parent


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_compares_all_strategies_and_trains_them_alike(name: str, preset: str):
    strategies: set[str] = set()
    for problem in read_problems(CONFIGS / f"{name}.yaml", preset).values():
        configs = problem.configs.values()  # refuses what does not fit together
        strategies |= {config.strategy.name for config in configs}
        assert len({config.model_dump_json(include={"data", "seed"}) for config in configs}) == 1
    assert strategies >= COMPARED
    module = importlib.import_module(f"experiments.{name}")
    assert module.run.args == (name,)


@pytest.mark.parametrize("name", ["knee2d", "cine"])
def test_learning_rates_are_tuned_with_seeds_and_scans_of_their_own(name: str):
    small, tuning = (read_problems(CONFIGS / f"{name}.yaml", key) for key in ("small", TUNING))
    for key, problem in tuning.items():
        ours, theirs = (p[key].base.model_dump(exclude={"seed"}) for p in (small, tuning))
        assert ours == theirs
        assert problem.base.seed != small[key].base.seed
        assert not {*problem.seeds} & {*small[key].seeds}


def test_the_paper_preset_holds_the_published_hyperparameters():
    problems = read_problems(CONFIGS / "knee2d.yaml", "paper")
    found = {
        name: (
            config.network.features,
            config.training.iterations,
            config.training.batch_size,
            config.data.mask.acceleration,
            config.network.weight,
        )
        for name, problem in problems.items()
        for config in [problem.configs["greedy-8x1"]]
    }
    assert found == {
        "pgd-R4": (100, 80000, 4, 4.0, None),
        "pgd-R16": (100, 80000, 4, 16.0, None),
        "modl-R4": (70, 50000, 4, 4.0, 4.0),
        "modl-R16": (70, 50000, 4, 16.0, 0.05),
    }
    training = problems["pgd-R4"].configs["backprop-8"].training
    assert (training.learning_rate, training.weight_decay, training.schedule) == (
        *(1e-4, 1e-4),
        "constant",
    )
    brain = read_problems(CONFIGS / "brain2d.yaml", "paper")["pgd-R8"].configs
    assert (brain["backprop-8"].network.steps, brain["greedy-3x8"].network.steps) == (8, 24)
    assert brain["greedy-3x8"].modules == 3
    # 273,902 parameters an unroll, one of them the step size
    with torch.random.fork_rng():
        network = build_network(brain["backprop-8"].network, brain["backprop-8"].data)
    assert sum(p.numel() for p in network.steps[0].parameters()) == 273_902 + 1


def write_knees(folder: Path, readout: int) -> None:
    images = true_maps(4, readout, 24, 24) * body(readout + 2, 24, 24)[1:-1]  # coils, x, y, z
    stack = images.transpose(0, 3, 2, 1)
    for split in ("train", "validate", "test"):
        (folder / split).mkdir(parents=True)
        write_knee(
            folder / split / f"{split}.h5",
            stack,
            mrd_header((readout, 24, 1)),
            lines=24,
            before=readout // 2,
        )


def write_brains(folder: Path) -> None:
    for split in ("train", "validate", "test"):
        (folder / split).mkdir(parents=True)
        kspace = raw_volume(slices=2, coils=4, space=(128, 72))
        write_fastmri(folder / split / f"file_brain_AXT2_{split}.h5", kspace)


def write_cines(folder: Path) -> None:
    for split in ("train", "validate", "test"):
        (folder / split).mkdir(parents=True)
        kspace = raw_volume(slices=1, coils=4, space=(32, 120))[0]  # coils, y, x
        frames = np.stack([kspace * (1 + 0.1 * t) for t in range(4)])[None]  # slice, t, c, y, x
        write_cmrxrecon(folder / split / f"{split}.mat", frames.transpose(3, 4, 2, 0, 1))


MEASURED = {
    "knee2d": (partial(write_knees, readout=2), "pgd-R4", {"calibration": 10}),
    "brain2d": (write_brains, "pgd-R8", {"calibration": 0.2, "acceleration": 4}),
    "knee3d": (partial(write_knees, readout=8), "slabs", {"calibration": 10, "acceleration": 4}),
    "cine": (write_cines, "separable", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_paper_preset_trains_and_validates_on_measured_scans(name: str, tmp_path: Path):
    write, problem, mask = MEASURED[name]
    write(tmp_path / "scans")
    configs = smaller(tmp_path, name, "paper", problem)
    path = configs / f"{name}.yaml"
    content = yaml.safe_load(path.read_text())
    settings = content["presets"]["paper"][problem]
    settings["config"]["data"]["mask"] |= mask
    if name == "knee3d":
        settings["config"]["data"]["slab"] = 3
    greedy = [n for n, v in settings["variants"].items() if v["strategy.name"] == "greedy"]
    settings["variants"] = {greedy[0]: settings["variants"][greedy[0]]}
    path.write_text(yaml.safe_dump(content))
    report = run_experiment(
        name, "greedy", "paper", tmp_path / "scans", out=tmp_path / "out", jobs=1, configs=configs
    )
    rows = report["problems"][problem]["rows"]
    assert {row["strategy"] for row in rows} == {"greedy"}
    assert all(np.isfinite([row["psnr_mean"], row["validation_psnr"]]).all() for row in rows)
    run = tmp_path / "out" / "runs" / problem / rows[0]["variant"] / "1"
    facts = json.loads((run / "run.json").read_text())
    assert [len(facts["scans"][split]) for split in ("train", "validate", "test")] == [1, 1, 1]
    assert str(tmp_path / "scans") in (tmp_path / "out" / "results.md").read_text()


def test_the_paper_preset_says_that_it_needs_data(tmp_path: Path):
    with pytest.raises(ConfigError, match="--data"):
        knee2d.run(preset="paper", out=tmp_path)


def test_an_unknown_strategy_names_those_there_are(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"backprop.*greedy-parallel"):
        knee2d.run("gready", out=tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The quick knees, smaller still, run to the end."""
    folder = tmp_path_factory.mktemp("knee2d")
    data = {"size": [32, 32], "train": 2, "validate_on": 1, "test": 2}
    configs = smaller(folder, "knee2d", "quick", "pgd-R4", **data)
    return folder, run_experiment("knee2d", out=folder / "out", jobs=1, configs=configs)


@pytest.mark.slow
def test_a_run_leaves_configuration_metrics_checkpoint_table_pictures_and_curves(
    tiny: tuple[Path, dict[str, Any]],
):
    folder, report = tiny
    run = folder / "out" / "runs" / "pgd-R4" / "greedy-4x2" / "1"
    wanted = {"config.yaml", "metrics.jsonl", "best.pt", "table.md", "images.png", "curves.png"}
    assert wanted <= {path.name for path in run.iterdir()}
    assert load_config(run / "config.yaml").strategy.name == "greedy"
    assert {path.name for path in (folder / "out").iterdir()} >= {
        *("results.md", "results.json", "results.csv", "results_pgd-R4.png")
    }
    again = json.loads((folder / "out" / "results.json").read_text())
    assert again["problems"]["pgd-R4"]["rows"] == report["problems"]["pgd-R4"]["rows"]
    titles = {claim["title"] for claim in again["problems"]["pgd-R4"]["claims"]}
    assert titles == {
        "Same activation memory, to 1%: greedy at least 1.1 dB above end-to-end",
        "Same depth: greedy within 0.2 dB of end-to-end",
        "Same depth: greedy within 0.2 dB of invertible",
        "Time: greedy 1.3 times faster than checkpoint of the same depth",
        "Time: greedy 1.3 times faster than invertible of the same depth",
    }


@pytest.mark.slow
def test_one_strategy_can_be_run_alone_and_uses_what_is_there(
    tiny: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    folder, report = tiny
    monkeypatch.setattr(reproduction, "train_all", lambda runs, jobs: None)
    alone = run_experiment("knee2d", "invertible", out=folder / "out", configs=folder / "configs")
    rows = {row["variant"]: row for row in report["problems"]["pgd-R4"]["rows"]}
    found = alone["problems"]["pgd-R4"]["rows"]
    assert [row["variant"] for row in found] == ["invertible-8"]
    assert found[0]["psnr_mean"] == rows["invertible-8"]["psnr_mean"]


def test_greedy_variants_can_be_trained_through_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Asked(Exception):
        pass

    def train_all(runs: list[Any], jobs: int) -> None:
        raise Asked({run.config.strategy.name for run in runs}, jobs)

    monkeypatch.setattr(reproduction, "train_all", train_all)
    with pytest.raises(Asked) as found:
        knee2d.run("greedy-parallel", out=tmp_path)
    assert found.value.args == ({"greedy-parallel"}, 1)
