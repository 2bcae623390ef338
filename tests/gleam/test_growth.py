"""A network that grows: the steps there are stay as they are, and only the new ones learn."""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

import gleam
import gleam.trainer
from gleam.batch import Batch
from gleam.build import build_loaders, build_network, build_strategy
from gleam.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from gleam.config import ConfigError, load_config
from gleam.evaluation import images_by_step
from gleam.growth import grown_config
from gleam.losses import complex_l1
from gleam.memory import PeakMemory
from gleam.metrics import evaluate_slice
from gleam.run_folder import RunFolderError
from gleam.strategies import Greedy
from tests.gleam import tiny
from tests.helpers import make_batch, make_network, same, seeded, weights_of

ADAM = partial(Adam, lr=1e-2)
SPACE = (8, 7)
CHANGES: dict[str, Any] = {
    "network": {"steps": 4},
    "strategy": {"modules": 2},
    "training": {"iterations": 4, "validate_every": 2},
}


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of four steps in two modules."""
    return tiny.train(tmp_path_factory.mktemp("runs") / "run", **CHANGES).last


@pytest.fixture(scope="module")
def grown(best: Path) -> Path:
    """The same with four steps more."""
    return gleam.grow(best, 4, quiet=True).last


def steps_of(checkpoint: Path, steps: range) -> dict[str, Tensor]:
    weights = read_checkpoint(checkpoint)["network"]
    return {name: value for name, value in weights.items() if int(name.split(".")[1]) in steps}


def copies_of_the_last_two(checkpoint: Path) -> dict[str, Tensor]:
    """Of four steps, as the fifth to the eighth."""
    return {
        name.replace(f".{step}.", f".{step + more}.", 1): value
        for step in (2, 3)
        for more in (2, 4)
        for name, value in steps_of(checkpoint, range(step, step + 1)).items()
    }


class Prepared:
    """The last steps of a network as a network of their own, with the states they start from."""

    def __init__(self, network: nn.Module, frozen: int, batches: list[Batch]) -> None:
        with torch.no_grad():
            self.states = [self.take(network, range(frozen), batch) for batch in batches]
        self.batches = batches
        self.steps = nn.ModuleList(copy.deepcopy(step) for step in network.steps[frozen:])

    def take(self, network: nn.Module, steps: range, batch: Batch) -> Tensor:
        state = network.start(batch)
        for index in steps:
            state = network.steps[index](state, batch)
        return state

    def start(self, batch: Batch) -> Tensor:
        return next(s for s, b in zip(self.states, self.batches, strict=True) if b is batch)

    def step(self, index: int, state: Tensor, batch: Batch) -> Tensor:
        return self.steps[index](state, batch)

    def image(self, state: Tensor, batch: Batch) -> Tensor:
        return state[:, : batch.zero_filled.shape[1]]

    def parameters(self):
        return self.steps.parameters()


@pytest.mark.parametrize("kind", ["pgd", "modl"])
@pytest.mark.parametrize(
    ("count", "lookahead", "hidden"), [(1, 0, 0), (1, 1, 2), (3, 0, 0), (2, 2, 0)]
)
def test_new_steps_learn_as_if_their_inputs_had_been_there_from_the_start(
    kind, count, lookahead, hidden
):
    network = make_network(kind, 7, hidden=hidden)
    data = [make_batch(*SPACE, seed=10 * number) for number in range(3 * count)]
    frozen, reference = weights_of(network.steps[:3]), Prepared(network, 3, data)
    settings = {"modules": 2, "lookahead": lookahead, "clip": 0.5}
    ours = Greedy(network, complex_l1, ADAM, frozen=3, **settings)
    theirs = Greedy(reference, complex_l1, ADAM, **settings)
    before = weights_of(reference)
    for first in range(0, len(data), count):
        reports = [s.train_step(*data[first : first + count]) for s in (ours, theirs)]
        for key in ("module_losses", "gradient_norms"):
            assert reports[0][key] == reports[1][key]
    assert same(weights_of(network.steps[3:]), weights_of(reference))
    assert not same(before, weights_of(reference))
    assert same(weights_of(network.steps[:3]), frozen)


def test_a_grown_run_is_greedy_training_on_the_states_behind_the_frozen_steps(
    best: Path, grown: Path
):
    config = grown_config(best, 4)
    loader = build_loaders(config.data, config.seed, frozen=4)["train"]
    data = [batch for number in range(4) for batch in loader.training(number)]
    with seeded(config.seed):  # as a run does
        network = build_network(config.network, config.data)
    network.load_state_dict(steps_of(best, range(4)) | copies_of_the_last_two(best))
    reference = Prepared(network, 4, data)
    alone = load_config(
        config, grown_from=None, network={"steps": 4}, strategy={"modules": 2, "frozen": 0}
    )
    strategy = build_strategy(alone, reference)
    for batch in data:
        strategy.train_step(batch)
    wanted = {f"steps.{4 + int(k[0])}{k[1:]}": v for k, v in reference.steps.state_dict().items()}
    assert tiny.equal(steps_of(grown, range(4, 8)), wanted)


def test_the_first_steps_stay_and_the_new_ones_learn(best: Path, grown: Path):
    start = copies_of_the_last_two(best)
    assert tiny.equal(steps_of(grown, range(4)), steps_of(best, range(4)))
    for name, value in steps_of(grown, range(4, 8)).items():
        assert not torch.equal(value, start[name]), name
    assert len(read_checkpoint(grown)["strategy"]["modules"]) == 2  # of two steps, as before


def test_the_image_after_the_first_steps_stays_and_the_last_one_is_better(best: Path):
    result = gleam.grow(
        best, 2, out=best.parent.with_name("better"), quiet=True, **{"training.iterations": 30}
    )
    network, deeper = gleam.load(best), gleam.load(result.last)
    scores = []
    for example, batch in build_loaders(tiny.settings(best).data, 7)["validate"].fixed():
        with torch.no_grad():
            images = [*images_by_step(deeper, batch)]
            assert torch.equal(images[4], network(batch))
        scores.append([evaluate_slice(batch.rescale(i)[0], example.target)["psnr"] for i in images])
    after = torch.tensor(scores).mean(0)
    assert after[6] > after[4] > after[0]
    assert after[6] == pytest.approx(result.psnr, abs=0.5)


def test_a_grown_network_is_a_network_as_any_other(grown: Path):
    assert len(gleam.load(grown).steps) == 8
    assert len(gleam.evaluate(grown, device="cpu").slices["network"]) == 2
    kspace = tiny.brain_kspace(3).numpy() * tiny.columns()
    assert gleam.reconstruct(grown, kspace, device="cpu").shape == (32, 32)


def test_a_network_grows_twice(best: Path, grown: Path):
    result = gleam.grow(grown, 2, quiet=True)
    assert result.folder.name == "run_10steps"
    assert tiny.equal(steps_of(result.last, range(8)), steps_of(grown, range(8)))
    config = grown_config(result.last, 2)
    assert (config.network.steps, config.strategy.frozen, config.modules) == (12, 10, 1)
    new, old = steps_of(result.last, range(8, 10)), steps_of(grown, range(4, 6))
    for (name, value), other in zip(new.items(), old.values(), strict=True):
        assert value.ndim < 2 or not torch.equal(value, other), name


def test_scans_are_the_same_and_their_order_and_masks_are_not(best: Path, grown: Path):
    facts = [json.loads((path.parent / "run.json").read_text()) for path in (best, grown)]
    assert facts[0]["scans"] == facts[1]["scans"]
    config = grown_config(best, 4)
    first, same_again, second, third = (
        build_loaders(config.data, config.seed, frozen) for frozen in (0, 0, 4, 8)
    )
    for split in ("train", "validate", "test"):
        assert torch.equal(first[split].source[0].target, second[split].source[0].target)
    assert torch.equal(next(first["test"].fixed())[1].mask, next(second["test"].fixed())[1].mask)

    def masks(loaders: dict) -> list[Tensor]:
        return [loaders["train"].training(number)[0].mask for number in range(6)]

    assert same(masks(first), masks(same_again))
    for one, other in ((first, second), (second, third), (first, third)):
        assert not any(torch.equal(a, b) for a in masks(one) for b in masks(other))


class Killed(BaseException):
    """Ends a run at once, as a kill does."""


@pytest.mark.parametrize("iteration", [0, 3])
def test_a_grown_run_that_was_killed_ends_as_if_it_had_not_been(
    best: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iteration: int
):
    plain = gleam.trainer._Trainer.step

    def step(self, *arguments):
        if self.iteration >= iteration:
            raise Killed
        return plain(self, *arguments)

    origin = tmp_path / "origin.pt"
    origin.write_bytes(best.read_bytes())
    monkeypatch.setattr(gleam.trainer._Trainer, "step", step)
    with pytest.raises(Killed):
        gleam.grow(origin, 4, out=tmp_path / "run", quiet=True)
    monkeypatch.setattr(gleam.trainer._Trainer, "step", plain)
    if iteration:
        origin.unlink()  # by now its steps are in the new run's own checkpoints
    assert gleam.train(tmp_path / "run" / "config.yaml", resume=True, quiet=True).finished
    tiny.assert_same_run(tmp_path / "run", grown.parent)


def test_growing_again_into_the_same_folder_resumes_or_is_refused(best: Path, grown: Path):
    with pytest.raises(RunFolderError, match="already holds a run"):
        gleam.grow(best, 4, quiet=True)
    assert gleam.grow(best, 4, resume=True, quiet=True).last == grown


def peak(steps: int, frozen: int, lookahead: int, count: int) -> dict[str, int]:
    network = make_network("pgd", steps, features=8)
    settings = {"modules": (steps - frozen) // 2, "lookahead": lookahead, "frozen": frozen}
    strategy = Greedy(network, complex_l1, ADAM, **settings)
    batches = [make_batch(32, 32, seed=number) for number in range(count)]
    strategy.train_step(*batches)
    with PeakMemory("cpu", strategy, batches) as found:
        strategy.train_step(*batches)
    assert found.parts["parameters"] == 4 * sum(p.numel() for p in network.parameters())
    return found.parts


@pytest.mark.parametrize(("lookahead", "count"), [(0, 1), (1, 1), (0, 2)])
def test_activations_are_those_of_one_module_whatever_is_frozen(lookahead, count):
    plain, short, deep = (peak(frozen + 4, frozen, lookahead, count) for frozen in (0, 4, 12))
    assert short["activations"] == deep["activations"]
    state = count * 8 * 32 * 32  # the zero-filled images count as inputs, states do not
    assert short["activations"] == pytest.approx(plain["activations"] + state, rel=0.01)
    for part in ("gradients", "optimizer"):
        assert short[part] == deep[part]


def test_frozen_steps_run_as_in_a_reconstruction():
    """Without dropout; and what they learned before is no gradient's business."""
    network, batch = make_network(steps=3), make_batch(*SPACE)
    network.steps[0] = nn.ModuleList([network.steps[0], nn.Dropout(0.5)])
    network.steps[0].forward = lambda x, b: network.steps[0][1](network.steps[0][0](x, b).real) + 0j
    strategy = Greedy(network, complex_l1, ADAM, frozen=1, modules=2)
    network.train()
    with torch.no_grad():
        wanted = network.steps[0][0](batch.zero_filled, batch).real + 0j
    state = strategy.network.start(batch)
    assert torch.equal(state, wanted)
    assert not state.requires_grad
    assert [p.requires_grad for p in network.parameters()].count(True) == len(
        [*network.steps[1:].parameters()]
    )


@pytest.mark.parametrize("frozen", [-1, 3, 4])
def test_there_must_be_steps_left_to_train(frozen):
    with pytest.raises(ValueError, match=r"of 3 steps, 1 to 2 may be frozen .*got"):
        Greedy(make_network(steps=3), complex_l1, ADAM, frozen=frozen)


def test_frozen_steps_must_not_share_weights_with_others():
    with pytest.raises(ValueError, match="must not share weights with frozen"):
        Greedy(make_network(steps=3, shared=True), complex_l1, ADAM, frozen=1)


def test_parameters_outside_the_steps_are_frozen_too():
    """What they do at the start happens before the steps that stay as they are."""
    network, batch = make_network(steps=4), make_batch(*SPACE)
    network.gain = nn.Parameter(torch.tensor(1.5))
    start = network.start
    network.start = lambda batch: network.gain * start(batch)
    Greedy(network, complex_l1, ADAM, frozen=2, modules=2, lookahead=1).train_step(batch)
    assert network.gain.item() == 1.5


def with_strategy(path: Path, checkpoint: Path, **settings: Any) -> Path:
    """A copy of a checkpoint whose run had another strategy."""
    content = read_checkpoint(checkpoint)
    config = json.loads(content["config"])
    config["strategy"].update(settings)
    save_checkpoint(path, {**content, "config": json.dumps(config)})
    return path


def test_what_greedy_parallel_trained_grows_serially(best: Path, tmp_path: Path):
    path = with_strategy(tmp_path / "a.pt", best, name="greedy-parallel", workers=2, queue=3)
    config = grown_config(path, 4)
    assert config == grown_config(best, 4).model_copy(update={"grown_from": path})
    with pytest.raises(ConfigError, match="frozen is for greedy, but strategy is greedy-parallel"):
        grown_config(path, 4, strategy={"name": "greedy-parallel"})


def test_what_cannot_grow_is_refused(best: Path, tmp_path: Path):
    backprop = with_strategy(tmp_path / "a.pt", best, name="backprop", modules=None)
    cases: list[tuple[str, Path, int, dict[str, Any]]] = [
        ("trained with backprop, and only", backprop, 4, {}),
        ("modules of 2 steps.*add a multiple of 2", best, 3, {}),
        ("at least 1 step, got 0", best, 0, {}),
        ("must divide network.steps = 8 less strategy.frozen = 4", best, 4, {"modules": 3}),
        ("cannot share weights", best, 4, {"network": {"shared": True}}),
        ("did you mean 'iterations'", best, 4, {"training": {"iteration": 3}}),
    ]
    for message, path, steps, changes in cases:
        with pytest.raises(ConfigError, match=message):
            gleam.grow(path, steps, out=tmp_path / "run", quiet=True, **changes)
    for changes, message in (
        ({"network": {"hidden": 2}}, "network.hidden was 0, is now 2"),
        ({"network": {"padding": "reflect"}}, "network.padding was zeros, is now reflect"),
        ({"network": {"step_size": 0.5}}, "network.step_size was None, is now 0.5"),
        ({"data": {"map_sets": 2}}, "data.map_sets was 1, is now 2"),
    ):
        with pytest.raises(ConfigError, match=f"cannot go on in another network: {message}"):
            gleam.grow(best, 4, out=tmp_path / "run", quiet=True, **changes)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        gleam.grow(tmp_path / "none.pt", 4)


def test_settings_of_a_grown_run_must_fit_together(best: Path, tmp_path: Path):
    for changes, message in (
        ({"strategy": {"frozen": 4}}, "leaves nothing to train of network.steps = 4"),
        ({"strategy": {"frozen": 2, "modules": 1}}, "both are given or neither"),
        ({"grown_from": best}, "both are given or neither"),
        ({"strategy": {"name": "auto", "budget": "1GiB", "frozen": 2}}, "frozen is for greedy"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config({"network": {"steps": 4}}, **changes)
    changes = {"network": {"steps": 8}, "strategy": {"frozen": 6}, "grown_from": best}
    with pytest.raises(ConfigError, match=r"frozen = 6, but .*last.pt has 4 steps only"):
        tiny.train(tmp_path, **changes)
