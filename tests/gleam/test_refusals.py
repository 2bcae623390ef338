"""What a strategy cannot train is refused with the reason and the cure."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.utils.checkpoint import checkpoint

from gleam.losses import complex_l1
from gleam.strategies import STRATEGIES
from gleam.strategies.modules import refuse_batch_norm
from tests.helpers import make_batch, make_network, normal, same, seeded, weights_of

ADAM = partial(Adam, lr=1e-2)


def with_layer(layer: nn.Module, steps: int = 2) -> nn.Module:
    """A network whose last step's CNN ends with a layer."""
    network = make_network(steps=steps)
    images = network.steps[-1].regularizer
    images.network = nn.Sequential(images.network, layer)
    return network


def make(name: str, network: nn.Module):
    return STRATEGIES[name](network, complex_l1, ADAM)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2),
        nn.SyncBatchNorm(2),
        nn.LazyBatchNorm2d(),
        nn.InstanceNorm2d(2, track_running_stats=True),
    ],
)
def test_checkpointing_refuses_layers_that_track_running_statistics(layer):
    wanted = (
        f"checkpoint runs every step .* {type(layer).__name__} "
        r"steps\.1\.regularizer\.network\.1 .* twice; use GroupNorm.* greedy or backprop"
    )
    with pytest.raises(ValueError, match=wanted):
        make("checkpoint", with_layer(layer))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.BatchNorm2d(2).eval(),
        nn.InstanceNorm2d(2, affine=True),
        nn.GroupNorm(1, 2),
    ],
)
def test_layers_without_running_statistics_are_trained_exactly(layer):
    results = []
    for name in ("backprop", "checkpoint"):
        with seeded():
            network = with_layer(layer)
        before = [buffer.clone() for buffer in network.buffers()]
        strategy = make(name, network)
        initial = {key: value.clone() for key, value in layer.state_dict().items()}
        for seed in (0, 10):
            strategy.train_step(make_batch(8, 7, seed=seed, batch=2))
        results.append(weights_of(network))
        assert same([*network.buffers()], before)
        layer.load_state_dict(initial)
    assert same(*results)


@pytest.mark.parametrize("name", ["backprop", "greedy", "offload"])
def test_strategies_that_run_forward_once_take_batch_norm(name):
    layer = nn.BatchNorm2d(2)
    strategy = make(name, with_layer(layer))
    strategy.train_step(make_batch(8, 7, batch=2))
    assert layer.num_batches_tracked == 1


def test_recomputing_would_count_every_batch_twice():
    """The reason for the refusal, shown on torch alone."""
    layer = nn.BatchNorm2d(2)
    x = normal(2, 2, 4, 4, dtype=torch.float32).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert layer.num_batches_tracked == 2


def test_a_network_that_is_no_module_is_looked_through_by_its_steps():
    network = make_network()
    other = SimpleNamespace(steps=network.steps, parameters=network.parameters)
    refuse_batch_norm(other, "checkpoint")
    network.steps[3].regularizer = nn.Sequential(nn.Identity(), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match=r"BatchNorm1d steps\.3\.regularizer\.1 would"):
        refuse_batch_norm(other, "checkpoint")


def test_a_layer_outside_the_steps_is_found():
    network = make_network()
    network.readout = nn.BatchNorm3d(2)
    with pytest.raises(ValueError, match="BatchNorm3d readout would"):
        make("checkpoint", network)


@pytest.mark.parametrize("name", ["checkpoint", "offload"])
def test_dropout_draws_the_same_numbers_again(name):
    results = []
    for strategy in ("backprop", name):
        with seeded(3):
            network = with_layer(nn.Dropout(0.4))
            for seed in (0, 10, 20):
                make(strategy, network).train_step(make_batch(8, 7, seed=seed))
        results.append(weights_of(network))
    assert same(*results)
    with seeded(3):
        network = with_layer(nn.Dropout(0.0))
        for seed in (0, 10, 20):
            make("backprop", network).train_step(make_batch(8, 7, seed=seed))
    assert not same(weights_of(network), results[0])
