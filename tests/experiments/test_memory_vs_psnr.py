"""The memory benchmark: what it trains and measures, that it resumes, and what it concludes."""

import csv
import json
import signal
from itertools import combinations, product
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

import gleam
from experiments import memory_claims, memory_cost, memory_vs_psnr, training_runs
from experiments.memory_figure import draw
from experiments.memory_problems import SETTINGS, Problem, read_problems
from experiments.memory_report import markdown, summarise_problem, write_json
from gleam.build import build_loaders
from gleam.config import ConfigError
from gleam.evaluation import evaluate_network
from gleam.run_folder import RunFolderError
from gleam.trainer import _Trainer
from tests.helpers import same

TINY: dict[str, Any] = {
    "goal": 1.1,
    "seeds": [1, 2],
    "repeats": 2,
    "config": {
        "seed": 1000,
        "device": "cpu",
        "data": {
            "anatomy": "knee",
            "size": [32, 32],
            "coils": 3,
            "train": 2,
            "validate_on": 1,
            "test": 2,
            "mask": {"acceleration": 2, "calibration": 12},
        },
        "network": {"features": 4},
        "training": {"iterations": 6, "learning_rate": 1e-3, "validate_every": 3, "save_every": 2},
    },
    "variants": {
        "backprop-3": {"curve": "backprop", "strategy.name": "backprop", "network.steps": 3},
        "greedy-3": {"curve": "greedy", "strategy.name": "greedy", "network.steps": 3},
    },
}


def write_settings(folder: Path, **changes: Any) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump({"presets": {"tiny": {"knee": {**TINY, **changes}}}}))
    return path


def benchmark(folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    settings = write_settings(folder, **changes)
    return memory_vs_psnr.run("tiny", out=folder, jobs=1, settings=settings)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark that ran to its end; tests change nothing in it."""
    folder = tmp_path_factory.mktemp("benchmark") / "runs"
    benchmark(folder)
    return folder


def result(folder: Path, variant: str = "greedy-3", seed: int = 1) -> dict[str, Any]:
    return json.loads((folder / f"runs/knee/{variant}/{seed}/result.json").read_text())


def test_all_variants_of_a_seed_train_on_the_same_batches_and_another_seed_on_others():
    runs = training_runs.runs_of("knee", Problem.model_validate(TINY), Path("nowhere"))
    batches = {
        (run.variant, run.config.seed): [
            batch.kspace
            for number in range(3)
            for batch in build_loaders(run.config.data, run.config.seed)["train"].training(number)
        ]
        for run in runs
    }
    assert len(batches) == 4
    assert same(batches["greedy-3", 1], batches["backprop-3", 1])
    assert same(batches["greedy-3", 2], batches["backprop-3", 2])
    assert not same(batches["greedy-3", 1], batches["greedy-3", 2])
    trainings = [run.config.training for run in runs]
    assert all(training == trainings[0] for training in trainings)


def test_every_network_is_tested_on_the_scans_of_the_problems_own_seed(done: Path):
    data = Problem.model_validate(TINY).base.data
    loader = build_loaders(data, 1000)["test"]
    for variant, seed in product(TINY["variants"], TINY["seeds"]):
        network = gleam.load(done / f"runs/knee/{variant}/{seed}/best.pt")
        wanted = evaluate_network(network, loader, torch.device("cpu")).slices["network"]
        cases = result(done, variant, seed)["cases"]
        assert [case.pop("scan") for case in cases] == ["test-0000", "test-0001"]
        assert cases == wanted


def test_finished_runs_and_measured_costs_are_not_repeated(done: Path, monkeypatch):
    def repeated(*_: Any, **__: Any) -> None:
        raise RuntimeError("repeated")

    monkeypatch.setattr(training_runs.gleam, "train", repeated)
    monkeypatch.setattr(memory_cost, "measure", repeated)
    before = (done / "results.json").read_text()
    benchmark(done)
    assert (done / "results.json").read_text() == before
    with pytest.raises(RuntimeError, match="repeated"):
        memory_vs_psnr.run(
            "tiny", out=done, jobs=1, settings=done / "settings.yaml", remeasure=True
        )


@pytest.mark.parametrize("kill", [KeyboardInterrupt, MemoryError])
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(
    done: Path, tmp_path: Path, monkeypatch, kill: type[BaseException]
):
    """Ctrl-C, after which the trainer saves, or a death behind the last save."""
    steps = []
    plain = _Trainer.step

    def step(self: _Trainer, *arguments: Any) -> Any:
        steps.append(self.iteration)
        if len(steps) == 4:
            if kill is MemoryError:
                raise MemoryError
            signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(_Trainer, "step", step)
    only = {"greedy-3": TINY["variants"]["greedy-3"]}
    with pytest.raises(kill):
        benchmark(tmp_path, seeds=[1], variants=only)
    assert steps == [0, 1, 2, 3]
    assert not (tmp_path / "runs/knee/greedy-3/1/result.json").exists()
    benchmark(tmp_path, seeds=[1], variants=only)
    assert steps[4:] == ([2, 3, 4, 5] if kill is MemoryError else [4, 5])
    assert result(tmp_path)["cases"] == result(done)["cases"]


def test_results_of_other_settings_are_refused_and_named(done: Path):
    variants = {**TINY["variants"]}
    variants["greedy-3"] = {**variants["greedy-3"], "training.learning_rate": 2e-3}
    problem = Problem.model_validate({**TINY, "variants": variants})
    runs = training_runs.runs_of("knee", problem, done)
    with pytest.raises(RunFolderError, match=r"training\.learning_rate was 0\.001, is now 0\.002"):
        training_runs.train_all(runs, jobs=1)
    moved = {**TINY, "config": {**TINY["config"], "seed": 1001}}
    runs = training_runs.runs_of("knee", Problem.model_validate(moved), done)
    with pytest.raises(RunFolderError, match="test_seed was 1000, is now 1001"):
        training_runs.train_all(runs, jobs=1)


def test_a_run_that_diverges_is_named_when_the_others_have_ended(tmp_path: Path):
    wild = {**TINY["variants"]["backprop-3"], "training.learning_rate": 1e30}
    variants = {"wild": wild, "greedy-3": TINY["variants"]["greedy-3"]}
    with pytest.raises(RuntimeError, match=r"knee wild, seed 1: iteration \d+: .* is not finite"):
        benchmark(tmp_path, seeds=[1], variants=variants)
    assert result(tmp_path)["cases"]


def test_csv_and_json_agree_and_hold_what_was_measured(done: Path):
    rows = json.loads((done / "results.json").read_text())["problems"]["knee"]["rows"]
    with open(done / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(rows) == len(lines) == 2
    for row, line in zip(rows, lines, strict=True):
        assert [*row] == [*line]
        assert {key: str(value) for key, value in row.items()} == line
    backprop, greedy = rows
    assert (backprop["modules"], greedy["modules"], greedy["steps"]) == (1, 3, 3)
    assert greedy["parameters"] == backprop["parameters"] == 3 * greedy["parameters_bytes"] / 12
    assert greedy["activations_bytes"] < 0.6 * backprop["activations_bytes"]
    for row in rows:
        parts = ("parameters", "gradients", "optimizer", "inputs", "activations")
        assert row["peak_bytes"] == sum(row[f"{part}_bytes"] for part in parts)
        phases = sum(row[f"{phase}_seconds"] for phase in ("forward", "backward", "update"))
        assert 0 < phases < 2 * row["step_seconds"]
        seeds = [
            np.mean([case["psnr"] for case in result(done, row["variant"], seed)["cases"]])
            for seed in TINY["seeds"]
        ]
        assert row["psnr_mean"] == pytest.approx(sum(seeds) / 2)
        assert row["psnr_std"] == pytest.approx(stdev(seeds))
    text = (done / "results.md").read_text()
    assert "| greedy-3 | greedy | 3 | 3 | 0 | 0 | 0.001 |" in text
    assert "commit " in text
    assert (done / "results_knee.png").read_bytes()[:4] == b"\x89PNG"


def test_every_depth_has_checkpointing_of_the_base_network_as_its_yardstick():
    variants = {
        "a": {"curve": "a", "strategy.name": "backprop", "network.steps": 2, "network.hidden": 3},
        "b": {"curve": "b", "strategy.name": "checkpoint", "network.steps": 4},
    }
    problem = Problem.model_validate({**TINY, "variants": variants})
    everything, references = memory_cost.with_references(problem.base, problem.configs)
    assert references["4"] == "b"
    twin = everything[references["2"]]
    assert (twin.strategy.name, twin.network.steps, twin.network.hidden) == ("checkpoint", 2, 0)
    assert twin.data == problem.base.data
    assert len(everything) == 3


def test_costs_are_measured_again_when_a_variant_changes_or_joins(tmp_path: Path, monkeypatch):
    measured = []
    monkeypatch.setattr(memory_cost, "measure", lambda job: measured.append([*job.configs]) or {})
    problem = Problem.model_validate(TINY)
    wider = {**TINY["variants"]["greedy-3"], "network.features": 5}
    changed = Problem.model_validate({**TINY, "variants": {**TINY["variants"], "greedy-3": wider}})
    for name, one in [("a", problem), ("a", problem), ("b", problem), ("a", problem)]:
        memory_cost.measure_problem(tmp_path, name, one)
    assert len(measured) == 2
    memory_cost.measure_problem(tmp_path, "a", changed)
    assert len(measured) == 3
    assert measured[0] == ["backprop-3", "greedy-3", "checkpoint 3 (reference)"]


def test_learning_rates_are_tuned_with_seeds_and_scans_of_their_own():
    full, tuning = (read_problems(SETTINGS, preset) for preset in ("full", "tuning"))
    for name, problem in tuning.items():
        assert problem.base.data == full[name].base.data
        assert problem.base.seed != full[name].base.seed
        assert not {*problem.seeds} & {*full[name].seeds}


@pytest.mark.parametrize("key", ["data.coils", "training.iterations", "seed", "training.loss"])
def test_variants_cannot_change_what_all_must_share(tmp_path: Path, key: str):
    variants = {"odd": {"curve": "a", key: 5}}
    with pytest.raises(ConfigError, match=f"odd changes {key}, which must be the same"):
        read_problems(write_settings(tmp_path, variants=variants), "tiny")


def test_unknown_presets_and_problems_are_named(tmp_path: Path):
    settings = write_settings(tmp_path)
    with pytest.raises(ConfigError, match=r"no preset 'full'; choose from \['tiny'\]"):
        read_problems(settings, "full")
    with pytest.raises(ConfigError, match=r"no problem \['brain'\] in tiny"):
        read_problems(settings, "tiny", ["brain"])


@pytest.mark.parametrize("preset", ["quick", "full"])
def test_the_presets_compare_every_strategy_on_knees_in_2d_and_3d(preset: str):
    problems = read_problems(SETTINGS, preset)
    assert {name: problem.goal for name, problem in problems.items()} == {
        "knee2d": 1.1,
        "knee3d": 1.8,
    }
    wanted = {"backprop", "checkpoint", "invertible", "offload", "greedy"}
    for problem in problems.values():
        configs = problem.configs.values()
        assert {config.strategy.name for config in configs} >= wanted - {"invertible"}
        assert all(config.data == problem.base.data for config in configs)
        assert any(config.strategy.lookahead for config in configs)
    plane, _ = problems.values()
    assert {config.strategy.name for config in plane.configs.values()} == wanted
    assert [problem.base.data.ndim for problem in problems.values()] == [2, 3]
    assert preset == "quick" or all(len(problem.seeds) >= 3 for problem in problems.values())


def test_a_variant_of_the_same_weights_is_measured_but_not_trained_and_the_table_says_so(
    tmp_path: Path,
):
    twin = {"curve": "checkpoint", "strategy.name": "checkpoint", "network.steps": 3}
    variants = {**TINY["variants"], "twin-3": {**twin, "trained_as": "backprop-3"}}
    report = benchmark(tmp_path / "runs", variants=variants, seeds=[1])
    rows = {row["variant"]: row for row in report["problems"]["knee"]["rows"]}
    assert not (tmp_path / "runs/runs/knee/twin-3").exists()
    assert rows["twin-3"]["strategy"] == "checkpoint"
    assert rows["twin-3"]["psnr_mean"] == rows["backprop-3"]["psnr_mean"]
    assert rows["twin-3"]["activations_bytes"] < rows["backprop-3"]["activations_bytes"]
    assert "Not trained anew, the weights being the same bit for bit: twin-3 as backprop-3." in (
        markdown(report, "results")
    )


@pytest.mark.parametrize(
    "change",
    [{"trained_as": "nobody"}, {"network.steps": 2}, {"training.learning_rate": 1e-2}],
)
def test_a_variant_that_would_get_other_weights_is_refused_as_trained(tmp_path: Path, change):
    other = {**TINY["variants"]["backprop-3"], "trained_as": "backprop-3", **change}
    with pytest.raises(ConfigError, match="other can be trained as another variant only if"):
        benchmark(tmp_path, variants={**TINY["variants"], "other": other})


# A report of runs that never ran: two seeds, two test cases, numbers chosen by hand.
PSNR = {
    "backprop-2": [[30.0, 32.0], [31.0, 33.0]],
    "backprop-8": [[36.0, 38.0], [36.0, 38.0]],
    "greedy-8": [[35.9, 37.9], [35.8, 37.8]],
    "greedy-16": [[36.5, 38.5], [36.9, 38.9]],
    "lookahead-8": [[35.9, 37.9], [35.9, 37.9]],
    "poor-8": [[35.0, 38.0], [34.0, 37.0]],
    "invertible-8": [[34.0, 36.0], [34.0, 36.0]],
    "lucky-4": [[39.0, 41.0], [39.0, 41.0]],  # on the test scans only
}
STEPS = {name: int(name.partition("-")[2]) for name in PSNR}
ACTIVATIONS = dict(zip(PSNR, (20, 80, 20, 20, 40, 20, 10, 5), strict=True))
SECONDS = {
    "backprop-2": [1.0, 1.0, 1.0],
    "backprop-8": [4.0, 4.0, 4.0],
    "greedy-8": [2.0, 8.0, 5.0],
    "greedy-16": [10.0, 10.0, 10.0],
    "lookahead-8": [2.5, 10.0, 6.25],
    "poor-8": [2.5, 10.0, 6.25],
    "invertible-8": [4.0, 16.0, 1.0],
    "lucky-4": [2.0, 2.0, 2.0],
    "yardstick-2": [1.5, 1.5, 1.5],
    "yardstick-4": [3.0, 3.0, 3.0],
    "yardstick-8": [3.0, 12.0, 15.0],
    "yardstick-16": [12.0, 12.0, 12.0],
}


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of the numbers above."""
    folder = tmp_path_factory.mktemp("by_hand")
    variants: dict[str, dict[str, Any]] = {}
    for name, steps in STEPS.items():
        strategy = name.partition("-")[0]
        strategy = strategy if strategy in ("backprop", "invertible") else "greedy"
        variants[name] = {"curve": name, "strategy.name": strategy, "network.steps": steps}
    variants["lookahead-8"]["strategy.lookahead"] = 1
    variants["invertible-8"]["network.regularizer"] = "coupling"
    problem = Problem.model_validate({**TINY, "goal": 5.0, "variants": variants})
    for run in training_runs.runs_of("knee", problem, folder):
        values = PSNR[run.variant][run.config.seed - 1]
        valid = 20.0 if run.variant == "lucky-4" else values[0]
        cases = [{"scan": "a", "psnr": values[0], "ssim": 0.8, "nrmse": 0.1}]
        cases += [{"scan": "b", "psnr": values[1], "ssim": 0.9, "nrmse": 0.2}]
        content = {"seed": run.config.seed, "validation_psnr": valid, "cases": cases}
        write_json(
            run.result, {**content, "settings": run.settings(), "provenance": {"commit": "abc"}}
        )
    cost = {
        "parameters": 7,
        "source": "by hand",
        "peak_bytes": 10**8,
        **dict.fromkeys(("forward_seconds", "backward_seconds", "update_seconds"), 0.1),
    }
    measured = {
        name: {
            **cost,
            "seconds": seconds,
            "parts": {"activations": 10**6 * ACTIVATIONS.get(name, 0)},
        }
        for name, seconds in SECONDS.items()
    }
    references = {str(steps): f"yardstick-{steps}" for steps in (2, 4, 8, 16)}
    content = {"references": references, "measured": measured, "repeats": 3, "provenance": {}}
    write_json(folder / "cost.json", {"knee": content})
    return summarise_problem(folder, "knee", problem)


def test_rows_hold_means_over_cases_spread_over_seeds_and_ratios_within_rounds(by_hand):
    row = {row["variant"]: row for row in by_hand["rows"]}["greedy-8"]
    assert row["psnr_mean"] == pytest.approx(36.85)
    assert row["psnr_std"] == pytest.approx(0.1 / 2**0.5)
    assert (row["ssim_mean"], row["ssim_std"]) == (pytest.approx(0.85), pytest.approx(0))
    assert row["step_seconds"] == 5.0
    assert row["time_over_checkpoint"] == pytest.approx(2 / 3)
    assert row["activations_bytes"] == 20e6


def claims(by_hand: dict[str, Any], title: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = [claim for claim in by_hand["claims"] if claim["title"].startswith(title)]
    return {(claim["variant"], claim["against"]): claim for claim in found}


def test_the_same_memory_is_claimed_for_the_best_greedy_network_that_fits(by_hand):
    """On validation scans greedy-16 is, 6.2 dB above one rival of 20 MB, 0.7 above one of 80."""
    found = claims(by_hand, "Same activation memory")
    assert {pair: claim["met"] for pair, claim in found.items()} == {
        ("greedy-16", "backprop-2"): True,
        ("greedy-16", "backprop-8"): False,
    }
    first = found["greedy-16", "backprop-2"]
    assert first["value"] == pytest.approx(6.2)
    assert first["std"] == pytest.approx(0.6 / 2**0.5)  # 6.5 and 5.9
    assert found["greedy-16", "backprop-8"]["value"] == pytest.approx(0.7)


def test_the_same_depth_needs_both_little_loss_and_little_memory(by_hand):
    found = claims(by_hand, "Same depth")
    assert {pair: claim["met"] for pair, claim in found.items()} == {
        ("greedy-8", "backprop-8"): True,  # -0.15 dB at a quarter
        ("lookahead-8", "backprop-8"): False,  # -0.1 dB at half
        ("poor-8", "backprop-8"): False,  # -1 dB at a quarter
    }
    assert found["greedy-8", "backprop-8"]["value"] == pytest.approx(-0.15)
    assert found["greedy-8", "backprop-8"]["share"] == 0.25
    assert found["lookahead-8", "backprop-8"]["value"] == pytest.approx(-0.1)
    assert found["lookahead-8", "backprop-8"]["share"] == 0.5
    assert found["poor-8", "backprop-8"]["value"] == pytest.approx(-1.0)


def test_speed_is_compared_at_the_same_depth_within_rounds(by_hand):
    found = claims(by_hand, "Time")
    assert {pair: (claim["value"], claim["met"]) for pair, claim in found.items()} == {
        ("greedy-8", "yardstick-8"): (pytest.approx(1.5), True),
        ("lookahead-8", "yardstick-8"): (pytest.approx(1.2), False),
        ("poor-8", "yardstick-8"): (pytest.approx(1.2), False),
        ("greedy-16", "yardstick-16"): (pytest.approx(1.2), False),
        ("lucky-4", "yardstick-4"): (pytest.approx(1.5), True),
        ("greedy-8", "invertible-8"): (pytest.approx(2.0), True),
        ("lookahead-8", "invertible-8"): (pytest.approx(1.6), False),
        ("poor-8", "invertible-8"): (pytest.approx(1.6), False),
    }


def test_missed_claims_are_printed_as_such(by_hand):
    report = {"title": "By hand", "command": "none", "problems": {"knee": by_hand}}
    text = markdown(report, "hand")
    assert "- met: greedy-16 (20.00 MB) against backprop-2 (20.00 MB): +6.20 dB ± 0.42" in text
    assert "- missed: greedy-16 (20.00 MB) against backprop-8 (80.00 MB): +0.70 dB" in text
    assert "- missed: poor-8 against backprop-8: -1.00 dB" in text
    assert "- missed: lookahead-8 is 1.20 times as fast as yardstick-8" in text
    assert len([line for line in text.splitlines() if line.startswith("- missed")]) == 8
    assert "16 runs: commit abc" in text


def test_where_no_greedy_network_fits_the_claim_is_missed():
    rows = [{"variant": "b", "strategy": "backprop", "steps": 1, "activations_bytes": 100}]
    rows += [{"variant": "g", "strategy": "greedy", "steps": 1, "activations_bytes": 102}]
    claim = memory_claims.same_memory(rows[0], rows[1:], {}, 1.0)
    assert (claim["met"], claim["variant"]) == (False, None)
    assert "no greedy variant fits" in claim["text"]


def test_a_paired_difference_cancels_what_seeds_and_cases_share():
    random = np.random.default_rng(3)
    common = 30 + 5 * random.standard_normal((3, 8))
    gain = 0.1 * random.standard_normal(8) - 0.05
    found = memory_claims.paired(common + gain + np.array([[0.0], [0.1], [0.2]]), common)
    assert found["value"] == pytest.approx(gain.mean() + 0.1)
    assert found["std"] == pytest.approx(0.1)
    assert found["case_std"] == pytest.approx(stdev(gain))
    by_case = gain + 0.1
    flips = np.array([np.mean(by_case * signs) for signs in product([-1, 1], repeat=8)])
    exact = np.mean(np.abs(flips) >= abs(by_case.mean()) - 1e-12)
    assert found["p"] == pytest.approx(exact, abs=0.02)
    assert 0.01 < exact < 0.9


def test_labels_of_the_figure_name_depth_and_time_and_do_not_overlap(tmp_path: Path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    rows = [
        {
            "curve": curve,
            "steps": steps,
            "activations_bytes": 1e6 * size,
            "step_seconds": 0.006 * steps,
            "psnr_mean": 30 + steps**0.5 + shift,
            "psnr_std": 0.1,
        }
        for curve, size, shift in (("a", 5, 0), ("b", 5, 0.05), ("c", 5.5, 0.1), ("d", 9, 0))
        for steps in (1, 2, 4, 8, 16)
    ]
    draw(tmp_path / "figure.png", rows, "title")
    labels = [text for text in figures[0].axes[0].texts if isinstance(text, Annotation)]
    assert len(labels) == 20
    assert {"1 step, 6 ms", "16 steps, 96 ms"} <= {label.get_text() for label in labels}
    boxes = [Text.get_window_extent(label) for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_labels_stay_inside_the_figure_where_error_bars_leave_no_free_place(
    tmp_path: Path, monkeypatch
):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    point = {"curve": "a", "steps": 8, "step_seconds": 0.2, "psnr_mean": 30.0, "psnr_std": 9.0}
    draw(tmp_path / "f.png", [{**point, "activations_bytes": 1e6 * n} for n in range(8, 20)], "t")
    axes = figures[0].axes[0]
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    boxes = [Text.get_window_extent(label) for label in labels]
    frame = axes.get_window_extent()
    assert len(boxes) == 12
    assert all(frame.contains(*corner) for box in boxes for corner in (box.min, box.max))
