"""What every training strategy promises; the greedy algorithm is written out in full below."""

import copy
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from gleam.batch import Batch, collate
from gleam.losses import complex_l1
from gleam.memory import PeakMemory
from gleam.strategies import STRATEGIES, Backprop, Checkpoint, Greedy, NonFiniteError, Strategy
from gleam.strategies.greedy import detach
from gleam.strategies.modules import own_parameters, split_steps
from models.unrolled import UnrolledNetwork
from tests.helpers import make_batch, make_network, normal, relative, same, seeded, weights_of

ADAM = partial(Adam, lr=1e-2, weight_decay=1e-4)
HALVE = partial(LambdaLR, lr_lambda=lambda count: 0.5**count)  # forgets unless it is restored
SPACE = (8, 7)
# Networks that can be inverted and weights that live elsewhere have tests of their own.
every_strategy = pytest.mark.parametrize(
    "name", sorted({*STRATEGIES} - {"invertible", "greedy-parallel"})
)
both_kinds = pytest.mark.parametrize("kind", ["pgd", "modl"])


def batches(count: int, **settings) -> list[Batch]:
    return [make_batch(*SPACE, seed=10 * number, **settings) for number in range(count)]


def make(name: str, network: nn.Module, modules: int | None = None, **settings) -> Strategy:
    modules = modules or (2 if name == "greedy" else 1)
    settings = {"optimizer": ADAM, **settings}
    return STRATEGIES[name](network, complex_l1, modules=modules, **settings)


def train(strategy: Strategy, data: list[Batch]) -> list[Tensor]:
    for batch in data:
        strategy.train_step(batch)
    return weights_of(strategy.network)


def learnt(strategy: Strategy, batch: Batch) -> dict[str, object]:
    """What a training step reports, without what a clock said."""
    result = strategy.train_step(batch)
    return {key: value for key, value in result.items() if not key.endswith("_seconds")}


def greedy_by_hand(
    network: UnrolledNetwork, groups: list[list[int]], data: list[tuple[Batch, ...]]
) -> tuple[list[Tensor], list[list[float]]]:
    """Greedy training as published, with its gradients taken one module at a time."""
    parameters = [[p for i in group for p in network.steps[i].parameters()] for group in groups]
    optimizers = [ADAM(group) for group in parameters]
    history = []
    for together in data:
        inputs = [batch.operator.adjoint(batch.kspace) for batch in together]
        history.append([])
        for group, optimizer, own in zip(groups, optimizers, parameters, strict=True):
            losses, outputs, sums = [], [], None
            for batch, x in zip(together, inputs, strict=True):
                assert not x.requires_grad
                for index in group:
                    x = network.steps[index](x, batch)
                losses.append(complex_l1(x, batch.target) / len(together))
                gradients = torch.autograd.grad(losses[-1], own)
                sums = gradients if sums is None else map(torch.add, sums, gradients)
                outputs.append(x.detach())
            for parameter, gradient in zip(own, sums, strict=True):
                parameter.grad = gradient
            optimizer.step()
            inputs = outputs
            history[-1].append(sum(float(loss.detach()) for loss in losses))
    return weights_of(network), history


@both_kinds
@pytest.mark.parametrize("shared", [False, True])
def test_checkpoint_gives_the_same_weights_as_backprop(kind, shared):
    data = batches(4, batch=2)
    results = []
    for name in ("backprop", "checkpoint"):
        strategy = make(name, make_network(kind, shared=shared), scheduler=HALVE, clip=0.5)
        reports = [learnt(strategy, batch) for batch in data]
        results.append((weights_of(strategy.network), reports))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert not same(results[0][0], weights_of(make_network(kind, shared=shared)))


@pytest.mark.parametrize("name", ["backprop", "checkpoint"])
@both_kinds
def test_end_to_end_training_is_plain_autograd(name, kind):
    data, network = batches(3, batch=2), make_network(kind)
    reference = copy.deepcopy(network)
    optimizer = ADAM(reference.parameters())
    for batch in data:
        optimizer.zero_grad()
        complex_l1(reference(batch), batch.target).backward()
        optimizer.step()
    assert same(train(make(name, network), data), weights_of(reference))


@both_kinds
@pytest.mark.parametrize("shared", [False, True])
def test_greedy_with_one_module_equals_backprop(kind, shared):
    data = batches(3)
    ours = make("greedy", make_network(kind, shared=shared), modules=1)
    theirs = make("backprop", make_network(kind, shared=shared))
    for batch in data:
        assert learnt(ours, batch) == learnt(theirs, batch)
    assert same(weights_of(ours.network), weights_of(theirs.network))


@both_kinds
@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 3])
def test_greedy_is_the_published_algorithm(kind, modules, count):
    """Bit for bit; with several batches a step their gradients add up before the update."""
    pool = batches(3 * count)
    data = [tuple(pool[i : i + count]) for i in range(0, len(pool), count)]
    network = make_network(kind)
    length = 4 // modules
    groups = [list(range(i, i + length)) for i in range(0, 4, length)]
    wanted, losses = greedy_by_hand(copy.deepcopy(network), groups, data)
    strategy = make("greedy", network, modules)
    for together, expected in zip(data, losses, strict=True):
        report = strategy.train_step(*together)
        assert report["module_losses"] == pytest.approx(expected, rel=1e-6)
        assert report["loss"] == report["module_losses"][-1]
    assert same(weights_of(network), wanted)


def test_a_modules_loss_reaches_no_other_modules_parameters():
    network = make_network(steps=4)
    strategy = make("greedy", network)
    owners = [
        [p for i in steps for p in network.steps[i].parameters()] for steps in ((0, 1), (2, 3))
    ]
    seen = []

    def spy(number: int) -> None:
        own, other = owners[number], owners[1 - number]
        assert all(p.grad is not None and p.grad.norm() > 0 for p in own)
        assert all(p.grad is None for p in other)
        seen.append(number)

    for number, module in enumerate(strategy.modules):
        module.optimizer.register_step_pre_hook(lambda *_, number=number: spy(number))
    train(strategy, batches(2))
    assert seen == [0, 1, 0, 1]


@every_strategy
def test_gradients_are_freed_after_a_step(name):
    network = make_network()
    train(make(name, network), batches(1))
    assert all(p.grad is None for p in network.parameters())


@every_strategy
@both_kinds
def test_two_batches_of_one_teach_what_one_batch_of_two_does(name, kind):
    data = batches(4)
    apart, together = (make(name, make_network(kind), optimizer=partial(SGD, lr=0.5)) for _ in "12")
    before = weights_of(apart.network)
    for first, second in ((0, 1), (2, 3)):
        one = apart.train_step(data[first], data[second])
        two = together.train_step(collate([data[first], data[second]]))
        for key in ("module_losses", "gradient_norms"):
            assert one[key] == pytest.approx(two[key], rel=1e-4)
    for a, b, start in zip(
        weights_of(apart.network), weights_of(together.network), before, strict=True
    ):
        assert (a - b).norm() <= 1e-4 * (b - start).norm() + 1e-7


def norm_of(optimizer: torch.optim.Optimizer) -> float:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return torch.cat([g.flatten() for g in gradients]).norm().item()


@every_strategy
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_clipping_limits_the_norm_of_each_module_and_reports_it_as_it_was(name, clip):
    strategy, used = make(name, make_network(), clip=clip), []
    for module in strategy.modules:
        module.optimizer.register_step_pre_hook(
            lambda optimizer, *_: used.append(norm_of(optimizer))
        )
    reported = strategy.train_step(batches(1)[0])["gradient_norms"]
    raw = make(name, make_network()).train_step(batches(1)[0])["gradient_norms"]
    assert reported == raw
    assert min(raw) > 0.01
    assert used == pytest.approx([clip or norm for norm in raw], rel=2e-3)


@every_strategy
def test_a_gradient_below_the_limit_is_not_clipped(name):
    data = batches(2)
    free, limited = (train(make(name, make_network(), clip=clip), data) for clip in (None, 1e6))
    assert same(free, limited)


@every_strategy
def test_each_modules_schedule_advances_once_a_step(name):
    strategy = make(name, make_network(), scheduler=HALVE)
    for count in range(1, 4):
        strategy.train_step(*batches(2))
        rates = [module.optimizer.param_groups[0]["lr"] for module in strategy.modules]
        assert rates == [pytest.approx(1e-2 * 0.5**count)] * len(strategy.modules)


@pytest.mark.parametrize("modules", [0, -1, 5, 8, 24])
def test_modules_that_do_not_divide_the_steps_are_refused_with_those_that_do(modules):
    with pytest.raises(ValueError, match=r"12 steps.*choose modules from \[1, 2, 3, 4, 6, 12\]"):
        split_steps(12, modules)
    with pytest.raises(ValueError, match=r"choose modules from \[1, 2, 4\]"):
        Greedy(make_network(), complex_l1, ADAM, modules=3)


def test_steps_are_split_into_consecutive_modules():
    assert split_steps(6, 2) == [range(3), range(3, 6)]
    assert split_steps(3, 1) == [range(3)]


def test_modules_that_share_weights_are_refused():
    with pytest.raises(ValueError, match="must not share weights"):
        Greedy(make_network(shared=True), complex_l1, ADAM, modules=2)
    assert len(own_parameters(make_network(shared=True), split_steps(4, 1))) == 1


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_clip_that_is_not_positive_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be positive"):
        Backprop(make_network(), complex_l1, ADAM, clip=clip)


@every_strategy
def test_training_without_a_target_is_refused(name):
    batch = batches(1)[0]
    object.__setattr__(batch, "target", None)
    with pytest.raises(ValueError, match="target"):
        make(name, make_network()).train_step(batch)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_loss_that_is_not_finite_names_its_module(value, broken):
    network = make_network()
    strategy = make("greedy", network, modules=4)
    network.steps[broken].step_size.data.fill_(value)
    with pytest.raises(NonFiniteError, match=f"loss of module {broken}") as error:
        strategy.train_step(batches(1)[0])
    assert error.value.module == broken


@every_strategy
def test_a_gradient_that_is_not_finite_names_its_module(name):
    network = make_network()
    strategy = make(name, network)
    last = len(strategy.modules) - 1
    network.steps[-1].step_size.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=f"gradient of module {last}") as error:
        strategy.train_step(batches(1)[0])
    assert error.value.module == last


@every_strategy
@both_kinds
def test_a_resumed_run_goes_on_bit_for_bit(name, kind):
    data = batches(5)
    whole = train(make(name, make_network(kind), scheduler=HALVE), data)
    first = make(name, make_network(kind), scheduler=HALVE)
    train(first, data[:2])
    saved = copy.deepcopy((first.network.state_dict(), first.state_dict()))
    second = make(name, make_network(kind, seed=1), scheduler=HALVE)
    second.network.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    assert same(train(second, data[2:]), whole)
    third = make(name, make_network(kind, seed=1), scheduler=HALVE)
    third.network.load_state_dict(saved[0])
    assert not same(train(third, data[2:]), whole)


def test_resuming_with_another_number_of_modules_is_refused():
    state = make("greedy", make_network(), modules=4).state_dict()
    with pytest.raises(ValueError, match="with 4 modules, this run has 2"):
        make("greedy", make_network(), modules=2).load_state_dict(state)


def peak(name: str, kind: str, steps: int, modules: int) -> int:
    strategy = make(name, make_network(kind, steps, features=8), modules)
    batch = make_batch(32, 32)
    strategy.train_step(batch)
    with PeakMemory() as result:
        strategy.train_step(batch)
    return result.bytes


@both_kinds
def test_greedy_memory_does_not_grow_with_depth_and_backprops_does(kind):
    greedy = [peak("greedy", kind, steps, steps) for steps in (8, 16)]
    checkpoint = [peak("checkpoint", kind, steps, 1) for steps in (8, 16)]
    backprop = [peak("backprop", kind, steps, 1) for steps in (8, 16)]
    assert greedy[1] == pytest.approx(greedy[0], rel=0.05)
    assert backprop[1] > 1.8 * backprop[0]
    assert checkpoint[0] < checkpoint[1] < 0.5 * backprop[1]
    assert greedy[1] < 0.2 * backprop[1]
    assert peak("greedy", kind, 16, 2) == pytest.approx(backprop[0], rel=0.1)


@every_strategy
@both_kinds
@pytest.mark.parametrize(
    ("space", "maps", "dynamic"),
    [((4, 6, 5), 1, False), ((3, 6, 5), 1, True), ((3, 6, 5), 2, True)],
)
def test_volumes_and_dynamic_images_are_learned(name, kind, space, maps, dynamic):
    batch = make_batch(*space, batch=2, maps=maps, dynamic=dynamic)
    strategy = make(name, make_network(kind, ndim=3, maps=maps))
    losses = [strategy.train_step(batch)["loss"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert losses[2] < losses[1] < losses[0]


class Carrier(nn.Module):
    """A network of another make: its state is k-space and its estimate, its prior an outsider."""

    def __init__(self, steps: int = 4, layout: type = dict) -> None:
        super().__init__()
        self.layout = layout
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.steps = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(steps))

    def start(self, batch: Batch):
        return self.pack(self.gain * batch.zero_filled, batch.operator.forward(batch.zero_filled))

    def step(self, index: int, state, batch: Batch):
        image, kspace = self.unpack(state)
        correction = torch.view_as_real(batch.operator.adjoint(kspace)[:, 0]).movedim(-1, 1)
        correction = self.steps[index](correction).movedim(1, -1).contiguous()
        image = image - torch.view_as_complex(correction)[:, None]
        return self.pack(image, batch.operator.forward(image) - batch.mask * batch.kspace)

    def image(self, state, batch: Batch) -> Tensor:
        return self.unpack(state)[0]

    def pack(self, image: Tensor, kspace: Tensor):
        if self.layout is dict:
            return {"image": image, "data": [kspace], "note": "text"}
        return (image, (kspace, 3))

    def unpack(self, state) -> tuple[Tensor, Tensor]:
        if self.layout is dict:
            return state["image"], state["data"][0]
        return state[0], state[1][0]


def carrier(**settings) -> Carrier:
    with seeded():
        return Carrier(**settings)


@every_strategy
@pytest.mark.parametrize("layout", [dict, tuple])
def test_a_network_of_another_make_learns_with_all_its_parameters(name, layout):
    network, data = carrier(layout=layout), batches(1) * 5
    before = weights_of(network)
    strategy = make(name, network)
    losses = [strategy.train_step(batch)["loss"] for batch in data]
    assert losses[-1] < losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, weights_of(network), strict=True))


def test_checkpoint_equals_backprop_for_a_network_of_another_make():
    weights = [train(make(name, carrier()), batches(3)) for name in ("backprop", "checkpoint")]
    assert same(*weights)


class Readout(Carrier):
    """A parameter outside the steps that every module's image depends on."""

    def image(self, state, batch: Batch) -> Tensor:
        return self.gain * super().image(state, batch)


def test_a_parameter_of_the_readout_learns_from_its_owners_loss_only():
    """What later modules' losses say about it must not lie in wait for the next update."""
    with seeded():
        network = Readout()
    strategy = make("greedy", network, modules=4)
    first, second = batches(2)
    strategy.train_step(first)
    assert network.gain.grad is None
    alone = copy.deepcopy(network)
    state = alone.step(0, alone.start(second), second)
    complex_l1(alone.image(state, second), second.target).backward()
    gradients = []
    strategy.modules[0].optimizer.register_step_pre_hook(
        lambda *_: gradients.append(network.gain.grad.clone())
    )
    strategy.train_step(second)
    assert relative(gradients[0], alone.gain.grad) < 1e-6


@every_strategy
def test_frozen_parameters_stay_as_they_are(name):
    network = make_network()
    for step in network.steps:
        step.step_size.requires_grad_(False)
    before = weights_of(network)
    train(make(name, network), batches(2))
    assert not same(before, weights_of(network))
    assert all(step.step_size.item() == 1 for step in network.steps)


def test_the_state_handed_on_is_the_output_before_the_update():
    network = make_network(steps=2)
    batch = batches(1)[0]
    with torch.no_grad():
        wanted = network.steps[0](batch.zero_filled, batch)
    seen = []
    network.steps[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    Greedy(network, complex_l1, ADAM, modules=2).train_step(batch)
    assert relative(seen[0], wanted) < 1e-6
    assert not seen[0].requires_grad
    with torch.no_grad():
        assert relative(network.steps[0](batch.zero_filled, batch), wanted) > 1e-4


def test_greedy_training_of_a_first_module_needs_no_gradient_of_the_physics():
    network, batch = make_network(steps=2), batches(1)[0]
    plain, seen = batch.operator.normal, []
    batch.operator.normal = lambda image: seen.append(image.requires_grad) or plain(image)
    Greedy(network, complex_l1, ADAM, modules=2).train_step(batch)
    Checkpoint(network, complex_l1, ADAM).train_step(batch)
    assert seen[:2] == [False, False]
    assert True in seen[2:]


class Pair(NamedTuple):
    """A state with names."""

    image: Tensor
    count: int


def test_a_state_is_cut_off_its_history_whatever_holds_its_tensors():
    x = normal(2).requires_grad_() * 2
    cut = detach({"a": [x, (x, 3)], "b": ("text", None)})
    assert cut["b"] == ("text", None)
    assert cut["a"][1][1] == 3
    for tensor in (cut["a"][0], cut["a"][1][0]):
        assert torch.equal(tensor, x)
        assert not tensor.requires_grad


def test_a_state_may_be_a_named_tuple():
    cut = detach(Pair(normal(2).requires_grad_() * 2, 3))
    assert isinstance(cut, Pair)
    assert cut.count == 3
    assert not cut.image.requires_grad


def test_a_module_without_trainable_parameters_is_refused():
    network = make_network("pgd", steps=2)
    network.steps[1].requires_grad_(False)
    with pytest.raises(ValueError, match=r"steps \[1\] form a module without"):
        make("greedy", network, modules=2)
