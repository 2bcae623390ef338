"""What a plan predicts is what a run then takes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from experiments.plan_accuracy import make_batches, measure_peak
from experiments.step_cost import make_strategy
from gleam.build import build_loaders, build_network
from gleam.config import Config, ConfigError, load_config
from gleam.data import DataError, write_scan
from gleam.memory import PeakMemory
from gleam.plan_command import parse_shape, print_plan
from gleam.plan_estimate import Estimator, variant
from gleam.plan_shapes import batch_shape
from gleam.plan_trace import trace
from gleam.planning import MARGIN, Plan, Row, choose_strategy, plan, recommend
from gleam.strategies.offload import Lane
from tests.helpers import normal, seeded

LINES = {"acceleration": 2, "calibration": 12}
CINE = {
    "size": (3, 32, 32),
    "items": "cines",
    "anatomy": "heart",
    "coils": 3,
    "mask": {"kind": "kt_variable_density", "acceleration": 2, "calibration": 12},
}
VOLUME = {"size": (6, 16, 24), "items": "volumes", "coils": 3, "mask": LINES}
CUBE = VOLUME | {"size": (32, 32, 32), "map_method": "low_resolution"}  # smaller ones have no brain
SLICE = {"size": (48, 32), "coils": 4, "mask": LINES}
PROBLEMS: dict[str, dict[str, Any]] = {
    "2D pgd, deep": {
        "data": SLICE,
        "network": {"step": "pgd", "steps": 9, "features": 6},
    },
    "2D modl with hidden channels, lookahead and two images of two maps": {
        "data": SLICE | {"map_sets": 2},
        "network": {"step": "modl", "steps": 8, "features": 8, "hidden": 2, "cg_iterations": 3},
        "strategy": {"name": "greedy", "lookahead": 2},
        "training": {"batch_size": 2},
    },
    "3D pgd in two batches": {
        "data": VOLUME,
        "network": {"step": "pgd", "steps": 6, "features": 4, "padding": "reflect"},
        "training": {"accumulate": 2, "loss": "l2", "clip": 1.0, "weight_decay": 0.1},
    },
    "2D+t modl": {
        "data": CINE,
        "network": {"step": "modl", "steps": 6, "features": 4, "cg_iterations": 3},
    },
    "2D+t pgd with separable convolutions": {
        "data": CINE,
        "network": {"step": "pgd", "steps": 6, "features": 6, "convolution": "separable"},
    },
    "wide on a small image, shared weights": {
        "data": SLICE | {"size": (24, 32)},
        "network": {"step": "pgd", "steps": 5, "features": 64, "shared": True},
        "strategy": "backprop",
    },
    "invertible": {
        "data": SLICE,
        "network": {"step": "modl", "steps": 6, "features": 8, "regularizer": "coupling"},
        "strategy": {"name": "invertible", "checkpoint_every": 2},
    },
    "grown, with lookahead": {
        "data": SLICE,
        "network": {"step": "pgd", "steps": 9, "features": 6},
        "strategy": {"name": "greedy", "lookahead": 1, "frozen": 5},
        "grown_from": "not_read.pt",
    },
    "points, mixed precision, ssim": {
        "data": SLICE | {"mask": {"kind": "uniform_random", **LINES}},
        "network": {"step": "pgd", "steps": 4, "features": 8, "mixed_precision": True},
        "training": {"loss": "ssim", "schedule": "cosine"},
    },
}


def configured(**settings: Any) -> Config:
    return load_config({"device": "cpu", **settings})


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_predicted_peak_of_every_strategy_is_the_measured_one(name):
    config = configured(**PROBLEMS[name])
    rows = plan(config).rows
    assert len(rows) > 1
    for row in rows:
        parts = measure_peak(variant(config, row.strategy, row.steps, row.modules))
        total = sum(parts.values())
        assert row.bytes == pytest.approx(total, rel=0.01), (row, parts)
        assert row.bytes == sum(row.parts.values())
        for part, size in parts.items():
            assert row.parts[part] == pytest.approx(size, abs=0.02 * total), (row, parts)


def test_every_strategy_and_every_number_of_modules_is_there():
    rows = plan(configured(data=SLICE, network={"steps": 12, "features": 16})).rows
    assert [(row.strategy, row.modules) for row in rows] == [
        ("backprop", 1),
        ("checkpoint", 1),
        *(("greedy", modules) for modules in (2, 3, 4, 6, 12)),
    ]
    assert [row.exact_gradient for row in rows] == [True, True, *[False] * 5]
    assert rows[0].time == 1
    assert 1.2 < rows[1].time < 1.6  # one more forward pass of three passes' work
    assert all(row.fits is None and row.deepest is None for row in rows)


def test_frozen_steps_cost_weights_and_time_but_no_activations():
    short, deep = (
        plan(
            configured(
                data=SLICE,
                network={"steps": 2 + frozen, "features": 8},
                strategy={"name": "greedy", "frozen": frozen},
                grown_from="not_read.pt",
            )
        ).rows
        for frozen in (6, 62)
    )
    assert [(row.strategy, row.modules, row.length) for row in deep] == [
        ("greedy", 1, 2),
        ("greedy", 2, 1),
    ]
    for one, other in zip(short, deep, strict=True):
        for part in ("gradients", "optimizer", "inputs", "activations"):
            assert one.parts[part] == other.parts[part]
        assert other.parts["parameters"] == 8 * one.parts["parameters"]
    # They go forward alone: at most a third of the work that training so many steps is.
    assert short[0].time < (2 + 6 / 3) / 8
    assert deep[0].time < (2 + 62 / 3) / 64
    assert deep[0].time * 64 > 2 * short[0].time * 8


def test_shared_weights_leave_no_greedy_strategy():
    network = {"steps": 4, "features": 2, "shared": True}
    rows = plan(configured(data=SLICE, network=network, strategy="backprop")).rows
    assert [row.strategy for row in rows] == ["backprop", "checkpoint"]


def test_parameters_optimizer_and_inputs_are_those_counted_by_hand():
    row = plan(configured(data=SLICE, network={"steps": 8, "features": 5}, strategy="greedy")).rows[
        -1
    ]
    with seeded():
        parameters = [
            *build_network(
                load_config({"network": {"steps": 8, "features": 5}}).network, load_config({}).data
            ).parameters()
        ]
    numbers = sum(parameter.numel() for parameter in parameters)
    assert row.parts["parameters"] == 4 * numbers
    assert row.parts["optimizer"] == 8 * numbers + 4 * len(parameters)  # two moments, a counter
    kspace, maps, target, mask, scale = 8 * 4 * 48 * 32, 8 * 4 * 48 * 32, 8 * 48 * 32, 4 * 32, 4
    assert row.parts["inputs"] == kspace + maps + target + mask + scale


def test_a_step_convolves_and_transforms_as_often_as_its_formula_says():
    config = configured(
        data=SLICE, network={"steps": 1, "features": 5}, strategy={"name": "backprop"}
    )
    found = trace(config, batch_shape(config), "cpu").work
    pixels, taps = 48 * 32, 9
    weights = taps * (2 * 5 + 5 * 5 + 5 * 5 + 5 * 5 + 5 * 2) + 2 * 5
    # Twice for multiply and add; forward, and both gradients.
    assert found.convolutions == 3 * 2 * pixels * weights
    # Zero-filled image, along both axes; normal operator, forth and back along x.
    wanted = 5 * 4 * pixels * (np.log2(pixels) + 2 * np.log2(32))
    assert found.transforms == pytest.approx(wanted)


def test_conjugate_gradients_are_taken_to_take_all_their_iterations():
    def transforms(iterations: int) -> tuple[float, float]:
        network = {"step": "modl", "steps": 2, "features": 2, "cg_iterations": iterations}
        config = configured(data=SLICE, network=network, strategy="backprop")
        found = trace(config, batch_shape(config), "cpu")
        return found.work.transforms, found.iteration.transforms

    one = 5 * 4 * 48 * 32 * 2 * np.log2(32)  # a normal operator
    assert transforms(2)[0] - transforms(1)[0] == pytest.approx(4 * one)  # 2 steps, forth and back
    assert transforms(7) == transforms(2)
    assert transforms(7)[1] == pytest.approx(4 * one)


def test_more_solver_iterations_take_more_time():
    def time(iterations: int) -> float:
        network = {"step": "modl", "steps": 2, "features": 2, "cg_iterations": iterations}
        config = configured(data=SLICE, network=network)
        estimator = Estimator(config, batch_shape(config), "cpu")
        one, other = (estimator.estimate(n, 2, 1).seconds for n in ("backprop", "checkpoint"))
        return other / one

    # Checkpointing repeats the forward pass: with endless solves, one of two solves.
    assert time(100_000) == pytest.approx(1.5, abs=0.001)
    assert time(1) < time(10) < 1.5


@pytest.mark.parametrize("frozen", [0, 3])
def test_the_deepest_network_fits_and_a_deeper_one_does_not(frozen):
    # Wide on a small image: memory grows by weights and moments, whatever the strategy.
    config = configured(
        data=SLICE | {"size": (24, 32)},
        network={"steps": 6 + frozen, "features": 32},
        strategy={"name": "greedy", "frozen": frozen},
        grown_from="not_read.pt" if frozen else None,
    )
    budget = 8_000_000
    found = plan(config, budget=budget)
    assert found.deepest is not None
    assert found.deepest.deepest == max(row.deepest or 0 for row in found.rows) > 6 + frozen
    for row in found.rows:
        length = row.length if row.strategy == "greedy" else 1
        assert row.deepest is not None
        assert row.fits == (row.deepest >= 6 + frozen)
        for steps, fits in ((row.deepest, True), (row.deepest + length, False)):
            modules = (steps - frozen) // length if row.strategy == "greedy" else 1
            need = sum(measure_peak(variant(config, row.strategy, steps, modules)).values())
            assert (need * (1 + MARGIN) <= budget) == fits, (row, steps)


def test_nothing_fits_nothing():
    found = plan(configured(data=SLICE, network={"steps": 3, "features": 2}), budget="0.1MB")
    assert not any(row.fits for row in found.rows)
    assert {row.deepest for row in found.rows} == {0}
    assert found.recommended is None
    assert found.deepest is None


def row(strategy: str, modules: int, time: float, fits: bool | None = True) -> Row:
    return Row(strategy, modules, 8, 1, {}, time, strategy != "greedy", fits)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([row("backprop", 1, 1), row("checkpoint", 1, 1.3), row("greedy", 8, 0.95)], 0),
        ([row("backprop", 1, 1), row("checkpoint", 1, 1.3), row("greedy", 8, 0.8)], 2),
        ([row("backprop", 1, 1, False), row("checkpoint", 1, 1.3), row("greedy", 8, 0.95)], 2),
        ([row("backprop", 1, 1, False), row("greedy", 8, 0.95), row("greedy", 2, 1.0)], 2),
        ([row("backprop", 1, 1, False), row("greedy", 8, 0.95), row("greedy", 2, 1.1)], 1),
        ([row("backprop", 1, 1, False), row("checkpoint", 1, 1.3)], 1),
        ([row("backprop", 1, 1, None), row("checkpoint", 1, 1.3, None)], 0),
        ([row("checkpoint", 1, 1.04), row("backprop", 1, 1.0)], 1),
        ([row("greedy", 1, 0.95), row("backprop", 1, 1.0)], 1),
    ],
)
def test_the_fastest_that_fits_is_recommended_and_of_equals_the_exact_gradient(rows, wanted):
    assert recommend(rows) is rows[wanted]


def test_strategy_auto_becomes_what_fits_its_budget():
    settings = {"data": SLICE, "network": {"steps": 4, "features": 16}}
    needs = {(r.strategy, r.modules): r.bytes for r in plan(configured(**settings)).rows}

    def chosen(need: int) -> tuple[str, int | None, str | None]:
        budget = f"{need * (1 + MARGIN) / 1e6 + 0.001:.6f}MB"
        strategy = choose_strategy(
            configured(**settings, strategy={"name": "auto", "budget": budget})
        ).strategy
        return strategy.name, strategy.modules, strategy.budget

    assert chosen(needs["backprop", 1]) == ("backprop", None, None)
    assert chosen(needs["backprop", 1] - 1000) == ("greedy", 2, None)  # margin included
    assert chosen(needs["greedy", 2]) == ("greedy", 2, None)
    with pytest.raises(ConfigError, match=r"too little for any.*greedy, 4 modules of 1 step,"):
        chosen(needs["greedy", 4] // 2)
    other = configured(**settings, strategy="checkpoint")
    assert choose_strategy(other) is other


@pytest.mark.parametrize(
    ("data", "batch_size"),
    [
        (SLICE, 2),
        (SLICE | {"slab": 20}, 1),
        (SLICE | {"mask": {"kind": "uniform_random", **LINES}, "map_sets": 2}, 1),
        (CUBE | {"slab": 3}, 1),
        (CUBE | {"mask": {"kind": "poisson_disc", **LINES}}, 1),
        (CINE, 1),
        (CINE | {"mask": {"kind": "random_columns", **LINES}, "slab": 16}, 1),
        (CINE | {"items": "frames", "mask": LINES}, 2),
    ],
    ids=lambda value: str(value)[:80],
)
def test_batches_have_the_shapes_planned_for(data, batch_size):
    few = {"train": 2, "validate_on": 1, "test": 1}
    config = configured(data=data | few, training={"batch_size": batch_size})
    batch = build_loaders(config.data, 1)["train"].training(0, batch_size)[0]
    shape = batch_shape(config)
    images, maps, coils = shape.images, shape.maps, shape.coils
    assert batch.target is not None
    assert batch.scale is not None
    assert batch.kspace.shape == (images, coils, *shape.space)
    assert batch.maps.shape == (images, maps, coils, *shape.maps_space)
    assert batch.mask.shape == (images, 1, *shape.mask_space)
    assert batch.target.shape == (images, maps, *shape.space)
    assert batch.scale.shape == (images,)
    assert batch.axes == shape.axes


def test_sizes_come_from_the_first_training_scan_unless_they_are_given(tmp_path):
    kspace = normal(5, 3, 20, 24).numpy()
    for split in ("train", "validate", "test"):
        (tmp_path / split).mkdir()
        write_scan(tmp_path / split / f"{split}.h5", kspace)
    found = batch_shape(configured(data={"path": tmp_path}))
    assert (found.coils, found.space) == (3, (20, 24))
    found = batch_shape(configured(data={"path": tmp_path, "items": "volumes"}), coils=7)
    assert (found.coils, found.space) == (7, (5, 20, 24))
    nowhere = configured(data={"path": tmp_path / "nothing"})
    found = batch_shape(nowhere, shape=(8, 9), coils=2)
    assert (found.coils, found.space, found.mask_space) == (2, (8, 9), (1, 9))
    with pytest.raises(DataError, match="nothing"):
        batch_shape(nowhere, shape=(8, 9))


def test_data_without_training_scans_is_refused_with_the_cure(tmp_path):
    (tmp_path / "test").mkdir()
    write_scan(tmp_path / "test" / "one.h5", normal(1, 3, 20, 24).numpy())
    with pytest.raises(ConfigError, match=r"has none: give a shape and coils"):
        batch_shape(configured(data={"path": tmp_path}))


@pytest.mark.parametrize(
    ("data", "shape", "message"),
    [
        (SLICE, (4, 5, 6), r"y,x for data.items = slices.*got 4,5,6"),
        (VOLUME, (4, 5), r"z,y,x for data.items = volumes"),
        (CINE, (4, 5), r"t,y,x for data.items = cines"),
        (SLICE, (0, 5), r"at least 1"),
        (SLICE | {"slab": 16}, (8, 9), r"slab = 16 must not exceed the 8 rows"),
    ],
)
def test_sizes_that_cannot_be_are_refused(data, shape, message):
    with pytest.raises(ConfigError, match=message):
        batch_shape(configured(data=data), shape=shape, coils=2)


def test_on_cuda_coils_are_handled_in_larger_groups():
    # 48 coil images of 0.1 MB are five groups on a CPU, and one on a card.
    settings = {
        "data": SLICE | {"size": (96, 128), "coils": 48},
        "network": {"steps": 4, "features": 2},
    }
    cpu = plan(configured(**settings)).rows[0]
    card = plan(load_config(settings, device="cuda"))
    assert card.device == "cuda"
    extra = card.rows[0].bytes - cpu.bytes
    images = 8 * 48 * 96 * 128
    assert images < extra < 3 * images


class OnHost(Lane):
    """Copies to memory of numpy's, which the counter of live storages leaves out."""

    def room(self, size: int) -> Tensor:
        return torch.from_numpy(np.empty(size, np.uint8))


def test_offload_is_planned_on_cuda_by_what_it_leaves_on_the_device():
    settings = {"data": SLICE | {"size": (96, 96)}, "network": {"steps": 6, "features": 32}}
    found = plan(load_config(settings, device="cuda"))
    row = next(row for row in found.rows if row.strategy == "offload")
    assert row.exact_gradient
    config = configured(**settings, strategy="offload")
    strategy, batches = make_strategy(config, "cpu"), make_batches(config)
    vars(strategy).update(_lane=OnHost(torch.device("cpu")), storing=strategy.offloading)
    strategy.train_step(*map(replace, batches))
    with PeakMemory("cpu", strategy, batches) as peak:
        strategy.train_step(*map(replace, batches))
    assert row.bytes == pytest.approx(peak.total, rel=0.01)
    assert row.bytes < 0.5 * found.rows[0].bytes
    assert "offload" not in {row.strategy for row in plan(configured(**settings)).rows}


def printed(plan: Plan) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        print_plan(plan, console)
    return capture.get()


def test_the_table_names_strategies_sizes_advice_and_what_is_left_out():
    config = configured(data=SLICE, network={"steps": 4, "features": 8})
    text = printed(plan(config, budget="2MB"))
    for word in ("backprop", "checkpoint", "greedy", "MiB", "deepest", "margin of 10%"):
        assert word in text
    assert "fits" not in printed(plan(config)).split("\n- ")[0]


def test_a_shape_is_read_from_a_word():
    assert parse_shape("320,320, 256") == (320, 320, 256)
    with pytest.raises(ConfigError, match=r"320x320"):
        parse_shape("320x320")
