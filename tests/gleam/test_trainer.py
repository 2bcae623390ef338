"""The training loop: exact, honest in what it writes, and loud about NaN."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import gleam
import gleam.evaluation
import gleam.planning
import gleam.trainer
from gleam.build import build_network, build_strategy
from gleam.checkpoint import read_checkpoint
from gleam.config import ConfigError, load_config
from gleam.data import DataError, Loader, write_scan
from gleam.metrics import evaluate_slice
from gleam.run_folder import RunFolderError
from gleam.strategies import STRATEGIES
from gleam.strategies.modules import Module
from gleam.trainer import TrainingDiverged
from physics.masks import random_columns
from tests.gleam import tiny


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in tiny.records(folder) if "loss" in record]


def validations(folder: Path) -> list[dict]:
    return [record for record in tiny.records(folder) if "psnr" in record]


def weights(path: Path) -> dict:
    return dict(tiny.state(path)["network"])


def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_does_not(tmp_path: Path):
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        tiny.train(tmp_path / name, seed=seed)
    tiny.assert_same_run(tmp_path / "one", tmp_path / "two")
    one, other = (weights(tmp_path / name / "last.pt") for name in ("one", "other"))
    assert not tiny.equal(one, other)


def test_training_neither_reads_nor_moves_the_global_random_state(tmp_path: Path):
    before = torch.get_rng_state()
    tiny.train(tmp_path / "one")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    tiny.train(tmp_path / "two")
    torch.set_rng_state(before)
    tiny.assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_data_seed_that_differs_gives_other_scans(tmp_path: Path):
    scans = [
        gleam.trainer.build_loaders(tiny.settings(tmp_path).data, seed)["train"].source[0].kspace
        for seed in (1, 2)
    ]
    assert not torch.equal(*scans)


@pytest.mark.parametrize("step", ["pgd", "modl"])
@pytest.mark.parametrize("strategy", ["backprop", "checkpoint", "greedy"])
def test_the_loss_falls_with_every_strategy_and_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, strategy: str
):
    # One scan under one mask: the same batch every time.
    mask = random_columns((32, 32), 2, 12, seed=0)
    monkeypatch.setattr(gleam.build, "mask_drawer", lambda *_, **__: lambda shape, seed: mask)
    result = tiny.train(
        tmp_path,
        strategy=strategy,
        network={"step": step, "features": 8},
        data={"train": 1, "validate_on": 1},
        training={"iterations": 50, "learning_rate": 2e-3, "validate_every": 50},
    )
    assert result.finished
    curve = losses(tmp_path)
    assert len(curve) == 50
    # MoDL learns faster: it starts from a better image.
    assert curve[-1] < (0.99 if step == "pgd" else 0.75) * curve[0]


def test_checkpointing_trains_the_same_weights_as_backprop(tmp_path: Path):
    for name in ("backprop", "checkpoint"):
        tiny.train(tmp_path / name, strategy=name)
    tiny.assert_same_run(tmp_path / "backprop", tmp_path / "checkpoint")


def test_greedy_with_one_module_trains_the_same_weights_as_backprop(tmp_path: Path):
    for name, strategy in (("one", {"name": "greedy", "modules": 1}), ("two", "backprop")):
        tiny.train(tmp_path / name, strategy=strategy)
    tiny.assert_same_run(tmp_path / "one", tmp_path / "two")


def test_accumulated_batches_train_like_one_large_batch(tmp_path: Path):
    tiny.train(tmp_path / "large", **{"training.batch_size": 2})
    tiny.train(tmp_path / "parts", **{"training.accumulate": 2})
    large, parts = (losses(tmp_path / name) for name in ("large", "parts"))
    assert parts == pytest.approx(large, rel=1e-4)
    one = tiny.train(tmp_path / "one")
    assert losses(one.folder)[0] != pytest.approx(large[0], rel=1e-4)


def test_clipping_limits_the_step_but_reports_the_gradient_before(tmp_path: Path):
    tiny.train(tmp_path / "free", **{"training.iterations": 2})
    tiny.train(tmp_path / "clipped", **{"training.iterations": 2, "training.clip": 1e-9})
    free, clipped = (tiny.records(tmp_path / name)[0] for name in ("free", "clipped"))
    assert clipped["gradient_norms"] == free["gradient_norms"]
    # Adam divides a gradient by its size, but adds 1e-8 to that: a tiny gradient moves little.
    first = [tiny.state(tmp_path / name / "last.pt") for name in ("free", "clipped")]
    moments = [s["strategy"]["modules"][0]["optimizer"]["state"][1]["exp_avg"] for s in first]
    assert float(moments[1].norm()) < 1e-8 < float(moments[0].norm())


def test_a_cosine_schedule_warms_up_and_falls_to_nothing(tmp_path: Path):
    tiny.train(tmp_path, **{"training.schedule": "cosine", "training.iterations": 8})
    rates = [record["learning_rate"] for record in tiny.records(tmp_path) if "loss" in record]
    wanted = [1e-3, *(0.5e-3 * (1 + math.cos(math.pi * step / 7)) for step in range(7))]
    assert rates == pytest.approx(wanted, abs=1e-12)


def test_early_stopping_stops_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    scores = iter([20.0, 21.0, 20.9, 21.0, 30.0])

    def score(image, target):
        return {"psnr": next(scores), "ssim": 0.5, "nrmse": 0.1}

    monkeypatch.setattr(gleam.trainer, "evaluate_slice", score)
    changes = {"iterations": 50, "validate_every": 3, "save_every": 50, "patience": 2}
    result = tiny.train(tmp_path, quiet=False, training=changes, data={"validate_on": 1})
    assert (result.iteration, result.psnr, result.finished) == (12, 21.0, True)
    assert "stopped early: 2 validations without a better PSNR" in capsys.readouterr().out
    assert tiny.state(result.last)["iteration"] == 12
    assert tiny.state(result.best)["iteration"] == 6
    again = tiny.train(tmp_path, resume=True, training=changes, data={"validate_on": 1})
    assert again.iteration == 12


def test_mixed_precision_trains_close_to_full_precision(tmp_path: Path):
    for name, mixed in (("mixed", True), ("full", False)):
        tiny.train(tmp_path / name, network={"mixed_precision": mixed, "step": "modl"})
    mixed, full = losses(tmp_path / "mixed"), losses(tmp_path / "full")
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.02)
    assert all(
        value.dtype == torch.float32 for value in weights(tmp_path / "mixed/last.pt").values()
    )


def test_two_map_sets_shared_weights_and_slabs_train(tmp_path: Path):
    changes = {
        "data": {"map_sets": 2, "slab": 20},
        "network": {"shared": True},
        "training": {"loss": "ssim", "iterations": 2},
        "strategy": "backprop",
    }
    assert tiny.train(tmp_path, **changes).finished


def test_the_best_checkpoint_is_the_best_of_the_validations(tmp_path: Path):
    result = tiny.train(tmp_path, training={"iterations": 12, "learning_rate": 2e-2})
    rows = validations(tmp_path)
    assert [row["iteration"] for row in rows] == [2, 4, 6, 8, 10, 12]
    best = max(rows, key=lambda row: row["psnr"])
    content = tiny.state(result.best)
    assert content["iteration"] == best["iteration"]
    assert result.psnr == content["progress"]["best"] == best["psnr"]
    # The checkpoint reproduces the score that it was chosen for.
    loader = gleam.trainer.build_loaders(tiny.settings(tmp_path).data, 7)["validate"]
    images = gleam.evaluation.reconstructions(gleam.load(result.best), loader, torch.device("cpu"))
    scores = [evaluate_slice(image, example.target)["psnr"] for example, _, image in images]
    assert sum(scores) / len(scores) == best["psnr"]


def test_every_iteration_asks_for_its_own_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    plain = Loader.training

    def watch(self, *arguments):
        asked.append(arguments)
        return plain(self, *arguments)

    monkeypatch.setattr(Loader, "training", watch)
    tiny.train(tmp_path, **{"training.iterations": 3, "training.batch_size": 2})
    tiny.train(tmp_path, resume=True, **{"training.iterations": 5, "training.batch_size": 2})
    assert asked == [(number, 2, 1, (0, 1)) for number in range(5)]


def test_networks_are_validated_in_evaluation_mode_and_trained_in_training_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    modes = []
    plain, step = gleam.trainer.reconstructions, gleam.trainer._Trainer.step

    def validate(network, *others):
        modes.append(network.training)
        return plain(network, *others)

    def train(self, *arguments):
        modes.append(self.network.training)
        return step(self, *arguments)

    monkeypatch.setattr(gleam.trainer, "reconstructions", validate)
    monkeypatch.setattr(gleam.trainer._Trainer, "step", train)
    tiny.train(tmp_path, **{"training.iterations": 4})
    assert modes == [True, True, False, True, True, False]


def test_metrics_hold_a_line_an_iteration_and_one_a_validation(tmp_path: Path):
    tiny.train(tmp_path, **{"training.validate_every": 4})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = [(line["iteration"], "psnr" in line) for line in lines]
    # The end of a run is validated too.
    numbers = [(n, False) for n in range(1, 5)] + [(4, True), (5, False), (6, False), (6, True)]
    assert kinds == numbers
    first = lines[0]
    assert first.keys() == {
        *("iteration", "loss", "module_losses", "gradient_norms", "learning_rate"),
        *tiny.TIMES,
    }
    assert first["loss"] == first["module_losses"][-1]
    assert len(first["module_losses"]) == len(first["gradient_norms"]) == 2
    assert first["learning_rate"] == 1e-3
    assert lines[4].keys() == {"iteration", "psnr", "ssim", "nrmse"}


def test_the_folder_says_what_was_run(tmp_path: Path):
    result = tiny.train(tmp_path / "run")
    names = {"best.pt", "last.pt", "config.yaml", "run.json", "metrics.jsonl", "curves.png"}
    assert {path.name for path in result.folder.iterdir()} == names
    assert load_config(result.folder / "config.yaml") == tiny.settings(tmp_path / "run")
    content = json.loads((result.folder / "run.json").read_text())
    assert content["seed"] == 7
    assert content["scans"] == {
        "train": ["train-0000", "train-0001", "train-0002"],
        "validate": ["validate-0000", "validate-0001"],
        "test": ["test-0000", "test-0001"],
    }
    (start,) = content["starts"]
    assert start["iteration"] == 0
    assert start["versions"]["torch"] == torch.__version__
    own = json.loads(read_checkpoint(result.best)["config"])
    assert own == yaml.safe_load((result.folder / "config.yaml").read_text())


def poison(monkeypatch: pytest.MonkeyPatch, call: int, value: float) -> None:
    """Add a value to the loss at its ``call``-th evaluation, counted from one."""
    calls = iter(range(1, 10_000))
    plain = gleam.build.LOSSES["l1"]
    monkeypatch.setitem(
        gleam.build.LOSSES,
        "l1",
        lambda image, target: plain(image, target) + (value if next(calls) == call else 0.0),
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
):
    with monkeypatch.context() as patched:
        poison(patched, call=2 * 4 + 2, value=value)  # fifth iteration, second module
        with pytest.raises(TrainingDiverged) as caught:
            tiny.train(tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("iteration 5: the loss of module 1 is not finite")
    assert f"{tmp_path / 'run' / 'last.pt'} is the last good checkpoint" in message
    assert tiny.state(tmp_path / "run" / "last.pt")["iteration"] == 4
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run"))
    tiny.train(tmp_path / "run", resume=True)
    tiny.train(tmp_path / "good")
    tiny.assert_same_run(tmp_path / "run", tmp_path / "good")


def test_nan_before_the_first_checkpoint_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    poison(monkeypatch, call=1, value=float("nan"))
    with pytest.raises(TrainingDiverged, match=r"iteration 1: .*module 0 .*no checkpoint yet"):
        tiny.train(tmp_path)
    assert not list(tmp_path.glob("*.pt*"))


def test_nan_in_a_validation_stops_the_run_before_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = gleam.trainer.reconstructions

    def spoilt(network, loader, device):
        for example, batch, image in plain(network, loader, device):
            yield example, batch, image * (float("nan") if trainer_at_four() else 1)

    def trainer_at_four() -> bool:
        return len(losses(tmp_path)) == 4

    monkeypatch.setattr(gleam.trainer, "reconstructions", spoilt)
    with pytest.raises(TrainingDiverged, match=r"iteration 4: .*validate-0000 is not finite"):
        tiny.train(tmp_path)
    assert tiny.state(tmp_path / "last.pt")["iteration"] == 2
    assert tiny.state(tmp_path / "best.pt")["iteration"] == 2


def test_a_learning_rate_that_is_far_too_high_is_caught(tmp_path: Path):
    with pytest.raises(TrainingDiverged, match=r"lower training\.learning_rate"):
        tiny.train(tmp_path, training={"learning_rate": 1e20, "iterations": 20})


def test_a_scan_with_nan_is_named_and_leaves_the_checkpoint(tmp_path: Path):
    for split in ("train", "validate"):
        (tmp_path / split).mkdir()
        for seed in range(2):
            kspace = tiny.brain_kspace(seed)[None].numpy()
            write_scan(tmp_path / split / f"{split}{seed}.h5", kspace)
    changes = {"data": {"path": tmp_path}, "training": {"save_every": 1}}
    tiny.train(tmp_path / "run", data=changes["data"], training={"iterations": 2, "save_every": 1})
    for path in (tmp_path / "train").iterdir():
        write_scan(path, np.full_like(kspace, np.nan))
    with pytest.raises(DataError, match=r"train/train\d\.h5, kspace\[0\]: holds NaN or infinity"):
        tiny.train(tmp_path / "run", resume=True, **changes)
    assert tiny.state(tmp_path / "run" / "last.pt")["iteration"] == 2


def test_another_run_in_the_folder_is_refused_and_left_as_it_is(tmp_path: Path):
    tiny.train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunFolderError, match="already holds a run"):
        tiny.train(tmp_path, seed=8)
    with pytest.raises(RunFolderError, match="seed was 7, is now 8"):
        tiny.train(tmp_path, resume=True, seed=8)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_settings_that_fail_at_the_first_batch_can_be_cured_in_the_same_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="acceleration 8"):
        tiny.train(tmp_path, **{"data.mask.acceleration": 8.0})
    assert tiny.train(tmp_path).finished


def test_a_device_that_is_not_there_is_a_setting_out_of_range(tmp_path: Path):
    with pytest.raises(ConfigError, match="device: "):
        tiny.train(tmp_path / "run", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device: cuda:1 is not here"):
            tiny.train(tmp_path / "run", device="cuda:1")
    assert not (tmp_path / "run").exists()


def test_training_on_scans_from_disk_describes_them(tmp_path: Path):
    for split, count in (("train", 2), ("validate", 1)):
        (tmp_path / split).mkdir()
        for seed in range(count):
            slices = torch.stack([tiny.brain_kspace(seed), tiny.brain_kspace(seed + 5)])
            write_scan(tmp_path / split / f"{split}{seed}.h5", slices.numpy())
    result = tiny.train(tmp_path / "run", data={"path": tmp_path})
    content = json.loads((result.folder / "run.json").read_text())
    assert content["scans"] == {"train": ["train0", "train1"], "validate": ["validate0"]}


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch):
    update, calls = Module.update, []

    def spoil(self: Module) -> Tensor:
        norm = update(self)
        calls.append(self)
        if len(calls) == 6:  # the last module of the third iteration, whose loss is finite
            self.trainable[0].data.fill_(float("nan"))
        return norm

    monkeypatch.setattr(Module, "update", spoil)
    with pytest.raises(TrainingDiverged, match="iteration 3: a parameter is not finite"):
        tiny.train(tmp_path, training={"save_every": 1, "validate_every": 6})
    assert tiny.state(tmp_path / "last.pt")["iteration"] == 2


@pytest.mark.parametrize("step", ["pgd", "modl"])
def test_weight_decay_spares_step_sizes_and_lambdas(tmp_path: Path, step: str):
    config = tiny.settings(tmp_path, network={"step": step}, training={"weight_decay": 0.1})
    with torch.random.fork_rng():
        network = build_network(config.network, config.data)
    for module in build_strategy(config, network).modules:
        decay = {p: g["weight_decay"] for g in module.optimizer.param_groups for p in g["params"]}
        assert decay == {p: 0.1 if p.ndim else 0.0 for p in module.parameters}
        assert 0.0 in decay.values()


def test_strategy_auto_trains_with_what_fits_its_budget_and_keeps_it_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    auto = {"name": "auto", "budget": "1GiB"}
    tiny.train(tmp_path / "auto", strategy=auto, **{"training.iterations": 4})
    chosen = yaml.safe_load((tmp_path / "auto/config.yaml").read_text())["strategy"]
    assert chosen["name"] in STRATEGIES
    monkeypatch.setattr(gleam.planning, "plan", lambda *_: pytest.fail("planned again"))
    again = tiny.train(tmp_path / "auto", resume=True, strategy=auto)
    assert again.iteration == 6
    tiny.train(tmp_path / "plain", strategy=chosen)
    tiny.assert_same_run(tmp_path / "auto", tmp_path / "plain")


def test_strategy_auto_says_what_is_needed_where_nothing_fits(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"0\.1MiB is too little for any strategy"):
        tiny.train(tmp_path, strategy={"name": "auto", "budget": "0.1MiB"})


def test_a_run_that_loses_invertibility_stops_with_its_iteration_and_the_cure(tmp_path: Path):
    network = {"step": "modl", "steps": 4, "features": 4, "weight": 0.001, "cg_iterations": 2}
    with pytest.raises(TrainingDiverged, match=r"iteration 1: .*checkpoint_every"):
        tiny.train(tmp_path, network=network | {"regularizer": "coupling"}, strategy="invertible")
