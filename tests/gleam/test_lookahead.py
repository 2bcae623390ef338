"""Greedy training whose modules look ahead, and hand hidden channels on."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from gleam.batch import Batch
from gleam.losses import complex_l1
from gleam.memory import PeakMemory
from gleam.strategies import Backprop, Greedy
from models.unrolled import UnrolledNetwork
from tests.helpers import make_batch, make_network, relative, same, weights_of

PLAIN = partial(SGD, lr=1.0)
STEPS = 6
SPACE = (8, 7)
both_kinds = pytest.mark.parametrize("kind", ["pgd", "modl"])


def batches(count: int) -> list[Batch]:
    return [make_batch(*SPACE, seed=10 * number) for number in range(count)]


def learned(network: UnrolledNetwork, modules: int, lookahead: int, data: list[Batch]) -> Tensor:
    """The gradient of all parameters, from a step of plain gradient descent."""
    before = weights_of(network)
    Greedy(network, complex_l1, PLAIN, modules=modules, lookahead=lookahead).train_step(*data)
    steps = [a - b for a, b in zip(before, weights_of(network), strict=True)]
    return torch.cat([step.flatten() for step in steps])


def by_definition(
    network: UnrolledNetwork, modules: int, lookahead: int, data: list[Batch]
) -> Tensor:
    """Each module's own loss plus that after further steps, for its parameters alone."""
    length, found = STEPS // modules, []
    for first in range(0, STEPS, length):
        loss = torch.tensor(0.0)
        for batch in data:
            state = network.start(batch)
            with torch.no_grad():
                for index in range(first):
                    state = network.step(index, state, batch)
            for index in range(first, first + length):
                state = network.step(index, state, batch)
            loss = loss + complex_l1(network.image(state, batch), batch.target) / len(data)
            end = min(STEPS, first + length + lookahead)
            for index in range(first + length, end):
                state = network.step(index, state, batch)
            if end > first + length:
                loss = loss + complex_l1(network.image(state, batch), batch.target) / len(data)
        own = network.steps[first : first + length].parameters()
        found += torch.autograd.grad(loss, [*own])
    return torch.cat([gradient.flatten() for gradient in found])


@both_kinds
@pytest.mark.parametrize("modules", [1, 2, 3, 6])
@pytest.mark.parametrize("lookahead", [1, 2, 3, 9])
@pytest.mark.parametrize("count", [1, 2])
def test_a_module_learns_from_its_own_loss_and_from_that_further_on(
    kind, modules, lookahead, count
):
    network, data = make_network(kind, STEPS), batches(count)
    wanted = by_definition(copy.deepcopy(network), modules, lookahead, data)
    assert relative(learned(network, modules, lookahead, data), wanted) < 3e-5


def test_lookahead_changes_the_gradient_of_all_modules_but_the_last():
    def gradients(lookahead: int) -> list[Tensor]:
        network = make_network(steps=STEPS)
        learned(network, STEPS, lookahead, batches(1))
        return [torch.cat([p.flatten() for p in step.parameters()]) for step in network.steps]

    plain, ahead = gradients(0), gradients(1)
    different = [not torch.equal(a, b) for a, b in zip(plain, ahead, strict=True)]
    assert different == [True] * (STEPS - 1) + [False]


def test_no_parameter_learns_from_the_lookahead_of_another_module():
    """Several updates: what was computed for a lookahead is used again, never learned twice."""
    data = batches(4)
    ours, network = make_network(steps=STEPS), make_network(steps=STEPS)
    strategy = Greedy(ours, complex_l1, partial(SGD, lr=0.1), modules=3, lookahead=2)
    for batch in data:
        strategy.train_step(batch)
        gradient = by_definition(network, 3, 2, [batch])
        with torch.no_grad():
            for parameter in network.parameters():
                own, gradient = gradient[: parameter.numel()], gradient[parameter.numel() :]
                parameter -= 0.1 * own.reshape(parameter.shape)
    for a, b in zip(weights_of(ours), weights_of(network), strict=True):
        assert relative(a, b) < 1e-5


def test_losses_that_are_reported_are_the_modules_own():
    reports = [
        Greedy(
            make_network(steps=STEPS), complex_l1, PLAIN, modules=3, lookahead=lookahead
        ).train_step(*batches(2))["module_losses"]
        for lookahead in (0, 2)
    ]
    assert reports[0] == pytest.approx(reports[1], rel=1e-6)


def test_every_step_runs_forward_once_whatever_the_lookahead():
    network, calls = make_network(steps=STEPS), []
    for index, step in enumerate(network.steps):
        step.register_forward_hook(lambda *_, index=index: calls.append(index))
    Greedy(network, complex_l1, PLAIN, modules=6, lookahead=3).train_step(*batches(1))
    assert calls == [*range(STEPS)]


@both_kinds
def test_memory_is_that_of_a_module_and_its_lookahead_whatever_the_depth(kind):
    def peak(steps: int, lookahead: int, count: int = 1) -> int:
        network = make_network(kind, steps, features=8)
        strategy = Greedy(network, complex_l1, PLAIN, modules=steps, lookahead=lookahead)
        data = [make_batch(32, 32)] * count
        strategy.train_step(*data)
        with PeakMemory() as result:
            strategy.train_step(*data)
        return result.bytes

    def whole(steps: int) -> int:
        strategy = Backprop(make_network(kind, steps, features=8), complex_l1, PLAIN)
        batch = make_batch(32, 32)
        with PeakMemory() as result:
            strategy.train_step(batch)
        return result.bytes

    assert peak(16, 1) == pytest.approx(peak(8, 1), rel=0.02)
    assert peak(8, 0) < peak(8, 1) < peak(8, 2)
    assert peak(8, 1) == pytest.approx(whole(2), rel=0.2)
    assert peak(8, 1, count=4) < 1.2 * peak(8, 1)  # four states, the activations of one


@pytest.mark.parametrize("layout", [dict, tuple])
def test_states_of_several_tensors_look_ahead(layout):
    class Pair(nn.Module):
        """Image and data in one state, beside what is no tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = make_network(steps=STEPS)
            self.steps = self.inner.steps

        def start(self, batch: Batch):
            return self.pack(batch.zero_filled, torch.zeros_like(batch.zero_filled))

        def step(self, index: int, state, batch: Batch):
            image, before = (state["now"], state["before"]) if layout is dict else state[:2]
            return self.pack(self.inner.step(index, image, batch) + 0.1 * before, image)

        def image(self, state, batch: Batch) -> Tensor:
            return state["now"] if layout is dict else state[0]

        def pack(self, now: Tensor, before: Tensor):
            both = {"now": now, "before": before, "note": "text"}
            return both if layout is dict else (now, before, 3)

    network, data = Pair(), batches(1)
    wanted = by_definition(copy.deepcopy(network), 3, 3, data)
    assert relative(learned(network, 3, 3, data), wanted) < 3e-5


def test_a_negative_lookahead_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Greedy(make_network(), complex_l1, PLAIN, modules=2, lookahead=-1)


def test_lookahead_is_refused_where_parameters_lie_outside_the_steps():
    network = make_network()
    network.register_parameter("gain", nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ValueError, match="belong to its steps"):
        Greedy(network, complex_l1, PLAIN, modules=2, lookahead=1)
    Greedy(network, complex_l1, PLAIN, modules=2)


@both_kinds
def test_hidden_channels_learn_only_with_lookahead(kind):
    """What a step writes into them reaches no loss before another step has read it."""
    for lookahead, learns in ((0, False), (1, True)):
        network, data = make_network(kind, STEPS, hidden=2), batches(1)
        assert network.start(data[0]).shape == (1, 3, *SPACE)
        last = [[*step.parameters()][-1] for step in network.steps]  # weights of 2 + 4 channels
        before = [weights.detach().clone() for weights in last]
        learned(network, STEPS, lookahead, data)
        moved = [not torch.equal(a[2:], b.detach()[2:]) for a, b in zip(before, last, strict=True)]
        assert moved == [learns] * (STEPS - 1) + [False]


def test_greedy_with_one_module_equals_backprop_with_hidden_channels():
    weights = []
    for strategy in (Backprop, Greedy):
        network = make_network("modl", STEPS, hidden=1)
        trained = strategy(network, complex_l1, PLAIN, modules=1)
        for batch in batches(2):
            trained.train_step(batch)
        weights.append(weights_of(network))
    assert same(*weights)
