"""Other packages' networks compute what they did before, and every strategy trains them."""

from dataclasses import replace

import torch

import gleam
from gleam.strategies import STRATEGIES
from tests.gleam.adapted import ADAM, CASES, batch_of, every_network, make, train, wrapped
from tests.helpers import same, weights_of


@every_network
def test_a_wrapped_network_computes_what_it_did_before_bit_for_bit(name, package):
    case, batch = CASES[name], batch_of()
    network = case.make(package)
    adapter = gleam.wrap(network, **case.options(package))
    before = case.call(network, batch, package)
    assert torch.equal(adapter(batch), before)
    train(STRATEGIES["greedy"](adapter, case.loss, ADAM, modules=2))
    after = case.call(network, batch, package)
    assert torch.equal(adapter(batch), after)
    assert not torch.equal(after, before)


@every_network
def test_the_networks_own_state_dict_holds_what_was_learnt_and_every_weight_once(name, package):
    network = CASES[name].make(package)
    names = [*network.state_dict()]
    adapter = gleam.wrap(network, **CASES[name].options(package))
    train(STRATEGIES["greedy"](adapter, CASES[name].loss, ADAM, modules=4))
    assert [*network.state_dict()] == names
    assert [*adapter.state_dict()] == [f"network.{name}" for name in names]
    again = CASES[name].make(package)
    again.load_state_dict(network.state_dict())
    batch = batch_of()
    assert torch.equal(CASES[name].call(again, batch, package), adapter(batch))


@every_network
def test_checkpoint_and_one_greedy_module_equal_backprop_bit_for_bit(name, package):
    wanted = train(make("backprop", name, package))
    assert same(train(make("checkpoint", name, package)), wanted)
    assert same(train(make("greedy", name, package)), wanted)
    assert not same(wanted, weights_of(wrapped(name, package)))


@every_network
def test_a_modules_loss_reaches_no_other_modules_parameters(name, package):
    strategy = make("greedy", name, package, modules=2)
    steps = strategy.network.steps
    outside = {
        p
        for key, p in strategy.network.network.named_parameters()
        if key.startswith(CASES[name].outside)
    }
    owners = [outside | {*steps[:2].parameters()}, {*steps[2:].parameters()}]
    assert {*strategy.network.parameters()} == owners[0] | owners[1]
    seen = []

    def spy(number: int) -> None:
        assert any(p.grad is not None and p.grad.norm() > 0 for p in owners[number])
        assert all(p.grad is None for p in owners[1 - number])
        assert number or all(p.grad.norm() > 0 for p in outside)
        seen.append(number)

    for number, module in enumerate(strategy.modules):
        module.optimizer.register_step_pre_hook(lambda *_, number=number: spy(number))
    train(strategy)
    assert seen == [0, 1] * 3


@every_network
def test_what_is_not_measured_does_not_matter(name, package):
    batch = batch_of()
    elsewhere = batch.kspace + (1 - batch.mask) * 7
    adapter = wrapped(name, package)
    assert torch.equal(adapter(batch), adapter(replace(batch, kspace=elsewhere)))
