"""Invertible training: the gradients of plain autograd, without its memory."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from gleam.batch import Batch
from gleam.losses import complex_l1
from gleam.memory import PeakMemory
from gleam.strategies import (
    Backprop,
    Checkpoint,
    InvertibilityError,
    Invertible,
    NonFiniteError,
    Strategy,
)
from models.invertible import Coupling, InvertibleResidual
from models.unrolled import MoDLStep, ProximalGradientStep, UnrolledNetwork
from tests.helpers import make_batch, make_network, perturb, relative, same, seeded, weights_of

ADAM = partial(Adam, lr=1e-2)
SPACE = (8, 7)
REGULARIZERS = {"residual": InvertibleResidual, "coupling": Coupling}
STEPS: dict[str, Callable[..., nn.Module]] = {"pgd": ProximalGradientStep, "modl": MoDLStep}
kinds = pytest.mark.parametrize("kind", STEPS)
regularizers = pytest.mark.parametrize("regularizer", REGULARIZERS)


def make(
    kind: str = "pgd",
    regularizer: str = "coupling",
    steps: int = 4,
    hidden: int = 0,
    maps: int = 1,
    ndim: int = 2,
    features: int = 4,
    **settings: Any,
) -> UnrolledNetwork:
    """A tiny network whose last convolutions are not zero."""

    def make_step() -> nn.Module:
        return STEPS[kind](
            REGULARIZERS[regularizer](maps + hidden, features, ndim=ndim), **settings
        )

    with seeded():
        return perturb(UnrolledNetwork(make_step, steps, hidden=hidden), 1.0)


def train(network: nn.Module, **settings: Any) -> Invertible:
    return Invertible(network, complex_l1, ADAM, **settings)


def used_gradients(strategy: Strategy, *batches: Batch) -> list[Tensor]:
    """What the optimizer is given in a training step."""
    found: list[Tensor] = []
    hook = strategy.modules[0].optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in strategy.network.parameters())
    )
    strategy.train_step(*batches)
    hook.remove()
    return found


def true_gradients(network: nn.Module, *batches: Batch) -> list[Tensor]:
    """By plain autograd through the whole network."""
    parts = []
    for batch in batches:
        state = network.start(batch)
        for index in range(len(network.steps)):
            state = network.step(index, state, batch)
        parts.append(complex_l1(network.image(state, batch), batch.target))
    return list(torch.autograd.grad(sum(parts) / len(parts), list(network.parameters())))


def assert_gradients_agree(network: nn.Module, strategy: Strategy, *batches: Batch) -> None:
    wanted = true_gradients(network, *batches)
    got = used_gradients(strategy, *batches)
    idle = [ours for ours, theirs in zip(got, wanted, strict=True) if not theirs.any()]
    assert len(idle) <= 3  # nobody reads the hidden half that the last coupling makes
    assert not any(gradient.any() for gradient in idle)
    for ours, theirs in zip(got, wanted, strict=True):
        assert not theirs.any() or relative(ours, theirs) < 1e-4


@pytest.mark.slow
@kinds
@pytest.mark.parametrize(("regularizer", "hidden"), [("residual", 0), ("coupling", 1)])
def test_gradients_are_right_after_two_hundred_updates(kind, regularizer, hidden):
    network = make(kind, regularizer, hidden=hidden, steps=3)
    strategy, before = train(network), weights_of(network)
    data = [make_batch(*SPACE, seed=10 * number) for number in range(4)]
    losses = [strategy.train_step(data[i % 4])["loss"] for i in range(200)]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    moved = [relative(new, old) for new, old in zip(weights_of(network), before, strict=True)]
    # Nobody reads the hidden half that the last coupling makes.
    idle = 3 if (regularizer, hidden) == ("coupling", 1) else 0
    assert sorted(moved)[idle] > 0.1
    assert_gradients_agree(network, strategy, data[0])


@pytest.mark.slow
@kinds
@regularizers
def test_deep_networks_stay_invertible_with_what_is_kept_by_default(kind, regularizer):
    network = make(kind, regularizer, steps=12)
    strategy = train(network)
    data = [make_batch(*SPACE, seed=10 * number) for number in range(4)]
    for i in range(10):
        strategy.train_step(data[i % 4])
    assert_gradients_agree(network, strategy, data[0])


@kinds
@regularizers
@pytest.mark.parametrize(
    ("space", "maps", "hidden", "dynamic"),
    [((8, 7), 2, 0, False), ((4, 6, 5), 1, 1, False), ((3, 6, 5), 1, 0, True)],
)
def test_gradients_are_right_in_every_dimension(kind, regularizer, space, maps, hidden, dynamic):
    batch = make_batch(*space, batch=2, maps=maps, dynamic=dynamic)
    network = make(kind, regularizer, 3, hidden, maps, len(space))
    strategy = train(network)
    for _ in range(3):
        strategy.train_step(batch)
    assert_gradients_agree(network, strategy, batch)


@kinds
@pytest.mark.parametrize("every", [None, 1, 2, 3, 4, 9])
def test_kept_states_do_not_change_the_gradients(kind, every):
    network, batch = make(kind, steps=5), make_batch(*SPACE)
    strategy, undone = train(network, checkpoint_every=every), []
    undo = strategy.undo
    strategy.undo = lambda index, *rest: undone.append(index) or undo(index, *rest)
    assert_gradients_agree(network, strategy, batch)
    assert undone == [index for index in (4, 3, 2, 1) if index % (every or 4)]


@kinds
def test_gradients_of_several_batches_are_averaged(kind):
    network, data = make(kind), [make_batch(*SPACE, seed=seed) for seed in (0, 10, 20)]
    assert_gradients_agree(network, train(network), *data)


@kinds
@regularizers
def test_checkpoint_and_backprop_train_invertible_networks_alike(kind, regularizer):
    data = [make_batch(*SPACE, seed=seed) for seed in (0, 10, 20)]
    results = []
    for strategy in (Backprop, Checkpoint):
        network = make(kind, regularizer)
        trained = strategy(network, complex_l1, ADAM)
        for batch in data:
            trained.train_step(batch)
        results.append(weights_of(network))
    assert same(*results)
    assert not same(results[0], weights_of(make(kind, regularizer)))


def test_clipping_and_reports_are_those_of_backprop():
    data, reports, weights = make_batch(*SPACE), [], []
    for strategy in (Backprop, Invertible):
        network = make()
        trained = strategy(network, complex_l1, ADAM, clip=1e-3)
        reports.append(trained.train_step(data))
        weights.append(weights_of(network))
        assert all(p.grad is None for p in network.parameters())
    for key in ("loss", "module_losses", "gradient_norms"):
        assert reports[1][key] == pytest.approx(reports[0][key], rel=1e-5)
    assert all(relative(a, b) < 1e-5 for a, b in zip(*weights, strict=True))


class Other(nn.Module):
    """A network of another make: parameters all over, a state of parts, not all of them numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.brightness = nn.Parameter(torch.tensor(0.8))
        self.everywhere = nn.Parameter(torch.tensor(0.5))
        self.steps = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1).double() for _ in range(4))

    def start(self, batch: Batch) -> dict[str, Any]:
        image = self.gain * batch.zero_filled.to(torch.complex128)
        return {"a": image, "rest": (image.conj() * self.gain, "text", 3), "unused": image.real}

    def move(self, index: int, image: Tensor) -> Tensor:
        channels = torch.view_as_real(image[:, 0]).movedim(-1, 1)
        channels = self.steps[index](channels).movedim(1, -1).contiguous()
        return self.everywhere * torch.view_as_complex(channels)[:, None]

    def step(self, index: int, state: dict[str, Any], batch: Batch) -> dict[str, Any]:
        a, (b, *others) = state["a"], state["rest"]
        return {**state, "a": b, "rest": (a + self.move(index, b), *others)}

    def inverse(self, index: int, state: dict[str, Any], batch: Batch) -> dict[str, Any]:
        b, (a, *others) = state["a"], state["rest"]
        return {**state, "a": a - self.move(index, b), "rest": (b, *others)}

    def image(self, state: dict[str, Any], batch: Batch) -> Tensor:
        return (self.brightness * state["a"] + state["rest"][0]).to(torch.complex64)


@pytest.mark.parametrize("every", [None, 2])
def test_a_network_of_another_make_learns_with_all_its_parameters(every):
    with seeded():
        network = Other()
    strategy, batch = train(network, checkpoint_every=every), make_batch(*SPACE, batch=2)
    assert_gradients_agree(network, strategy, batch)
    strategy.train_step(batch)
    assert_gradients_agree(network, strategy, batch, make_batch(*SPACE, seed=5))


@regularizers
def test_a_run_that_cannot_be_undone_stops_before_it_changes_anything(regularizer):
    network = make("modl", regularizer, weight=1e-4, iterations=2)
    strategy, before = train(network), weights_of(network)
    with pytest.raises(InvertibilityError, match=r"undoing steps 3 to 1.*1e-06.*error is") as error:
        strategy.train_step(make_batch(*SPACE))
    for cure in ("checkpoint_every to 2 or less", "cg_iterations", "lambda"):
        assert cure in str(error.value)
    assert same(weights_of(network), before)
    assert all(p.grad is None for p in network.parameters())
    strategy.modules[0].optimizer.register_step_pre_hook(lambda *_: pytest.fail("updated"))
    with pytest.raises(InvertibilityError):
        strategy.train_step(make_batch(*SPACE))


def test_with_every_state_kept_nothing_needs_to_be_undone():
    network = make("modl", weight=1e-4, iterations=2)
    assert_gradients_agree(network, train(network, checkpoint_every=1), make_batch(*SPACE))


@pytest.mark.parametrize(
    ("wrong", "row"), [(7, "7 to 5"), (5, "7 to 5"), (3, "3 to 1"), (1, "3 to 1")]
)
@pytest.mark.parametrize("value", [1e-3, float("nan")])
def test_the_row_of_steps_that_is_off_is_named(wrong, row, value):
    strategy = train(make(steps=8), checkpoint_every=4)
    undo = strategy.undo
    strategy.undo = lambda index, *rest: undo(index, *rest) * (1 + (index == wrong and value))
    with pytest.raises(InvertibilityError, match=f"undoing steps {row}"):
        strategy.train_step(make_batch(*SPACE))


def test_the_tolerance_is_that_of_the_recomputed_states():
    for tolerance, stops in ((1e-2, False), (1e-4, True)):
        strategy = train(make(steps=2), tolerance=tolerance)
        undo = strategy.undo
        strategy.undo = lambda index, *rest, undo=undo: undo(index, *rest) * (1 + 1e-3)
        if stops:
            with pytest.raises(InvertibilityError, match=r"error is 0\.001"):
                strategy.train_step(make_batch(*SPACE))
        else:
            strategy.train_step(make_batch(*SPACE))


def test_one_batch_of_several_that_is_off_stops_the_step():
    strategy, good, bad = train(make()), make_batch(*SPACE), make_batch(*SPACE, seed=9)
    undo = strategy.undo
    strategy.undo = lambda index, state, batch: undo(index, state, batch) * (1 + (batch is bad))
    strategy.train_step(good)
    before = weights_of(strategy.network)
    for data in ((bad, good), (good, bad)):
        with pytest.raises(InvertibilityError):
            strategy.train_step(*data)
    assert same(weights_of(strategy.network), before)


def test_a_loss_that_is_not_finite_is_reported_as_such():
    network = make()
    network.steps[1].step_logit.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="loss of module 0"):
        train(network).train_step(make_batch(*SPACE))


@pytest.mark.parametrize("strategy", [Backprop, Invertible])
def test_weights_that_are_not_finite_are_reported_as_such(strategy):
    network = make(regularizer="residual")
    trained = strategy(network, complex_l1, ADAM)
    trained.train_step(make_batch(*SPACE))
    network.steps[1].regularizer.residual[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="loss of module 0"):
        trained.train_step(make_batch(*SPACE))


def test_the_states_where_the_backward_pass_has_been_are_let_go():
    strategy, alive = train(make(steps=4), checkpoint_every=4), []
    undo, seen = strategy.undo, []

    def watch(index: int, state: Tensor, batch: Batch) -> Tensor:
        alive.append(sum(reference() is not None for reference in seen))
        before = undo(index, state, batch)
        seen.append(weakref.ref(before.untyped_storage()))
        return before

    strategy.undo = watch
    strategy.train_step(make_batch(*SPACE))
    assert alive == [0, 1, 1]  # the last one is what the next is computed from


def peak(kind: str, regularizer: str, strategy: type[Strategy], steps: int, **settings: Any) -> int:
    if strategy is Invertible:
        settings["tolerance"] = float("inf")  # memory is what is looked at here
    trained = strategy(make(kind, regularizer, steps, features=3), complex_l1, ADAM, **settings)
    batch = make_batch(24, 24)
    trained.train_step(batch)
    with PeakMemory() as result:
        trained.train_step(batch)
    return result.bytes


@kinds
@regularizers
def test_memory_does_not_grow_with_depth_but_by_the_states_that_are_kept(kind, regularizer):
    def parameters(steps: int) -> int:
        network = make(kind, regularizer, steps, features=3)
        return 4 * sum(p.numel() for p in network.parameters())

    state = 24 * 24 * 16
    ours = [peak(kind, regularizer, Invertible, steps, checkpoint_every=steps) for steps in (4, 8)]
    theirs = [peak(kind, regularizer, Backprop, steps) for steps in (4, 8)]
    gradients = parameters(8) - parameters(4)
    assert 0 <= ours[1] - ours[0] <= 3 * gradients < 2 * state  # the optimizer copies them
    assert theirs[1] > 1.7 * theirs[0]
    kept = peak(kind, regularizer, Invertible, 8, checkpoint_every=2) - ours[1]
    assert state <= kept <= 3 * state


class Random(Coupling):
    def __init__(self, probability: float) -> None:
        super().__init__(1, 4)
        self.first.append(nn.Dropout2d(probability))


def test_what_cannot_be_undone_is_refused_with_the_reason():
    for kind, name in (("pgd", "ResNet"), ("modl", "ConvNet")):
        with pytest.raises(ValueError, match=f"step 0, {name}, has no inverse; Inv.*Coupling"):
            train(make_network(kind))
    with pytest.raises(ValueError, match=r"needs a network with inverse.*Sequential has none"):
        train(nn.Sequential())
    with seeded():
        dropout = UnrolledNetwork(lambda: ProximalGradientStep(Random(0.5)), 2)
        harmless = UnrolledNetwork(lambda: ProximalGradientStep(Random(0.0)), 2)
    with pytest.raises(ValueError, match=r"step 0 has dropout \(regularizer.first.5\)"):
        train(dropout)
    train(harmless)
    normalised = make()
    normalised.steps[1].regularizer.second.append(nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match="BatchNorm2d"):
        train(normalised)


@pytest.mark.parametrize("every", [0, -1])
def test_keeping_states_more_often_than_every_step_is_refused(every):
    with pytest.raises(ValueError, match=f"at least 1, got {every}"):
        train(make(), checkpoint_every=every)
