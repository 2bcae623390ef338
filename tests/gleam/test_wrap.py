"""What is particular to an adapter, and what gleam.wrap says of networks that do not fit."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gleam
from gleam.batch import Batch, collate
from gleam.losses import complex_l1, magnitude_l1, ssim_loss
from gleam.memory import PeakMemory
from gleam.strategies import STRATEGIES
from tests.gleam import peers
from tests.gleam.adapted import (
    ADAM,
    SIZE,
    batch_of,
    both,
    call_deepinv,
    make,
    read_sequence,
    sequence,
    start_sequence,
    train,
    with_physics,
    wrapped,
)
from tests.helpers import make_batch, make_network, relative, same, seeded, weights_of


@both
def test_greedy_training_of_a_varnet_written_out(package):
    """The sensitivity network learns from the first loss only; later modules take its maps."""
    network = peers.varnet(package)
    reference = copy.deepcopy(network)
    batch = batch_of()
    kspace = torch.view_as_real(batch.kspace * batch.mask)
    mask = batch.mask.bool()[..., None]
    state, maps = kspace, reference.sens_net(kspace, mask)
    first = [*reference.sens_net.parameters(), *reference.cascades[:2].parameters()]
    for parameters, cascades in (
        (first, reference.cascades[:2]),
        ([*reference.cascades[2:].parameters()], reference.cascades[2:]),
    ):
        optimizer = ADAM(parameters)
        for cascade in cascades:
            state = cascade(state, kspace, mask, maps)
        coils = torch.view_as_real(peers.ifft(torch.view_as_complex(state)))
        image = coils.square().sum(-1).sqrt().square().sum(1).sqrt()
        (image - batch.target[:, 0].abs()).abs().mean().backward()
        optimizer.step()
        state, maps = state.detach(), maps.detach()
    STRATEGIES["greedy"](gleam.wrap(network), magnitude_l1, ADAM, modules=2).train_step(batch)
    assert same(weights_of(network), weights_of(reference))


@both
def test_what_fastmris_loaders_give_makes_a_batch_of_a_varnet(package):
    ours, network = batch_of(), peers.varnet(package)
    masked_kspace = torch.view_as_real(ours.kspace * ours.mask)
    mask, target = ours.mask.bool()[..., None], ours.target[:, 0].abs()
    kspace = torch.view_as_complex(masked_kspace)
    maps = torch.ones_like(kspace)[:, None]
    batch = Batch(kspace, mask[..., 0].float(), maps, target[:, None])
    adapter = gleam.wrap(network)
    assert torch.equal(adapter(batch)[:, 0], network(masked_kspace, mask))
    strategy = STRATEGIES["greedy"](adapter, ssim_loss, ADAM, modules=4)
    losses = [strategy.train_step(batch)["loss"] for _ in range(6)]
    assert losses[-1] < losses[0]


def varnet_gradients(package: str, **options: Any) -> tuple[dict[str, Tensor], int]:
    network, batch = peers.varnet(package, cascades=2), batch_of(size=32, coils=12)
    adapter = gleam.wrap(network, **options)
    with PeakMemory() as peak:
        magnitude_l1(adapter(batch), batch.target).backward()
    return {name: p.grad for name, p in network.named_parameters()}, peak.bytes


@both
def test_maps_a_few_coils_at_a_time_have_the_same_gradients_in_less_memory(package):
    wanted, whole = varnet_gradients(package)
    found, parts = varnet_gradients(package, coils_at_a_time=1)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name
    assert parts < 0.7 * whole


@both
def test_a_varnet_asks_for_the_calibration_of_masks_that_are_not_columns(package):
    batch = replace(batch_of(), mask=torch.ones(1, 1, SIZE, SIZE))
    network = peers.varnet(package)
    with pytest.raises(ValueError, match=r"calibration region.*\(1, 1, 16, 16\).*num_low_freq"):
        gleam.wrap(network)(batch)
    kspace, mask = torch.view_as_real(batch.kspace), torch.ones(1, 1, SIZE, SIZE, 1).bool()
    known = gleam.wrap(network, num_low_frequencies=6)(batch)
    assert torch.equal(known[:, 0], network(kspace, mask, 6))


@pytest.mark.parametrize("name", ["varnet", "unfolded", "deepinv"])
def test_volumes_are_refused(name):
    with pytest.raises(ValueError, match=r"2D images.*got shape \(1, 3, 2, 8, 8\)"):
        wrapped(name, "stand-in")(make_batch(2, 8, 8))


def test_several_sets_of_coil_maps_are_refused_for_deepinv():
    with pytest.raises(ValueError, match="one set of coil maps, got 2"):
        wrapped("unfolded", "stand-in")(make_batch(SIZE, SIZE, maps=2))


@both
@pytest.mark.parametrize("count", [{"priors": 1}, {"sizes": 1}])
def test_what_iterations_share_trains_end_to_end_only(package, count):
    network = peers.unfolded(package, **count)
    adapter = gleam.wrap(network, **with_physics(package))
    with pytest.raises(ValueError, match=r"share weights.*network\.(prior|params).*prior=\[PnP"):
        STRATEGIES["greedy"](adapter, complex_l1, ADAM, modules=2)
    before = weights_of(network)
    train(STRATEGIES["checkpoint"](adapter, complex_l1, ADAM))
    assert not any(map(torch.equal, before, weights_of(network)))


def test_a_shared_prior_that_does_not_learn_is_no_obstacle():
    network = peers.unfolded("stand-in", priors=1)
    network.prior.requires_grad_(False)
    adapter = gleam.wrap(network, physics=peers.MultiCoilMRI)
    train(STRATEGIES["greedy"](adapter, complex_l1, ADAM, modules=4))
    assert all(size.item() != pytest.approx(0.8) for size in network.params_algo["stepsize"])


def test_deepinvs_modl_trains_end_to_end():
    deepinv = peers.real("deepinv")
    with seeded():
        network = deepinv.models.MoDL(peers.denoiser(deepinv), num_iter=3)
    batch = batch_of()
    adapter = gleam.wrap(network)
    assert torch.equal(adapter(batch), call_deepinv(network, batch, "real"))
    strategy = STRATEGIES["backprop"](adapter, complex_l1, ADAM)
    losses = [strategy.train_step(batch)["loss"] for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("name", ["early_stop", "backtracking", "DEQ"])
def test_iterations_that_depend_on_more_than_the_one_before_are_refused(name):
    network = peers.unfolded("stand-in")
    setattr(network, name, True)
    with pytest.raises(ValueError, match=name):
        gleam.wrap(network, physics=peers.MultiCoilMRI)


def test_an_algorithm_that_is_not_unfolded_is_refused():
    network = peers.unfolded("stand-in")
    del network.prior
    network.prior = [nn.Identity()]  # as deepinv has it then: no part of the network
    with pytest.raises(ValueError, match="unfold=True"):
        gleam.wrap(network, physics=peers.MultiCoilMRI)


def test_a_loss_of_complex_images_refuses_magnitudes():
    network = wrapped("varnet", "stand-in")
    strategy = STRATEGIES["backprop"](network, complex_l1, ADAM)
    with pytest.raises(ValueError, match=r"both be complex or both real.*magnitude_l1"):
        strategy.train_step(batch_of())


def test_steps_of_a_sequence_may_ask_for_the_batch():
    with seeded():
        network = nn.ModuleList(make_network(steps=4).steps)
    adapter = gleam.wrap(
        network,
        start=lambda batch: batch.zero_filled,
        step=lambda member, state, batch: member(state, batch),
        image=lambda state, batch: state,
    )
    batch = make_batch(8, 8)
    assert torch.equal(adapter(batch), make_network(steps=4)(batch))


def test_a_module_that_makes_the_start_of_a_sequence_learns_with_the_first_step():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.0))

        def forward(self, batch: Batch) -> Tensor:
            return self.gain * start_sequence(batch)

    start = Scaled()
    adapter = gleam.wrap(sequence("stand-in"), start=start, image=read_sequence)
    strategy = STRATEGIES["greedy"](adapter, complex_l1, ADAM, modules=4)
    assert any(p is start.gain for p in strategy.modules[0].parameters)
    strategy.train_step(batch_of())
    assert start.gain.item() != 1


def test_a_sequence_without_functions_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"Sequential says nothing.*start=lambda batch"):
        gleam.wrap(nn.Sequential(nn.Identity()))
    with pytest.raises(ValueError, match="no step"):
        gleam.wrap(nn.Sequential(), start=start_sequence, image=read_sequence)


def test_a_network_that_fits_is_returned_as_it_is():
    network = make_network()
    assert gleam.wrap(network) is network


def test_an_unknown_network_is_told_what_is_known_and_what_it_lacks():
    with pytest.raises(TypeError) as error:
        gleam.wrap(nn.Identity())
    for words in (
        "Identity",
        "fastMRI",
        "deepinv",
        "nn.Sequential",
        "lacks steps, start, step, im",
    ):
        assert words in str(error.value)


@both
def test_sums_of_gradients_over_batches_are_those_of_one_large_batch(package):
    """Gradient accumulation holds several starts with their history."""
    data = [batch_of(number, batch=1) for number in range(2)]
    gradients = []
    for together in (data, [collate(data)]):
        strategy = make("greedy", "varnet", package, modules=2)
        found = {}
        for module in strategy.modules:
            module.optimizer.register_step_pre_hook(
                lambda *_, module=module, found=found: found.update(
                    {p: p.grad.clone() for p in module.parameters}
                )
            )
        strategy.train_step(*together)
        gradients.append([found[p] for p in strategy.network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one.norm() == pytest.approx(other.norm().item(), rel=1e-3, abs=1e-6)
        assert other.norm() < 1e-6 or relative(one, other) < 1e-3
