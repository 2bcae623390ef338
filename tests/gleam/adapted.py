"""Networks of other packages, wrapped: how each is made, called and trained."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

import gleam
from gleam.adapters import Adapter
from gleam.batch import Batch
from gleam.losses import complex_l1, magnitude_l1
from gleam.strategies import STRATEGIES, Strategy
from tests.gleam import peers
from tests.helpers import make_batch, seeded, weights_of

ADAM = partial(Adam, lr=1e-2)
SIZE = 16


def batch_of(number: int = 0, batch: int = 2, size: int = SIZE, coils: int = 3) -> Batch:
    """Columns measured in the centre and every third outside."""
    mask = torch.zeros(1, 1, 1, size)
    mask[..., ::3] = 1
    mask[..., size // 2 - 2 : size // 2 + 2] = 1
    return replace(make_batch(size, size, batch=batch, coils=coils, seed=10 * number), mask=mask)


@dataclass(frozen=True)
class Case:
    """A network, its adapter's options, and how its own forward is called."""

    make: Callable[[str], nn.Module]
    options: Callable[[str], dict[str, Any]]
    call: Callable[[nn.Module, Batch, str], Tensor]
    loss: Any = complex_l1
    outside: str = "nothing"  # name of what is no step and learns


def call_varnet(network: nn.Module, batch: Batch, package: str) -> Tensor:
    kspace = torch.view_as_real(batch.kspace * batch.mask)
    return network(kspace, batch.mask.bool()[..., None])[:, None]


def call_deepinv(network: nn.Module, batch: Batch, package: str) -> Tensor:
    mask = batch.mask.expand(1, 1, SIZE, SIZE)
    physics = peers.physics_of(package)(mask=mask, coil_maps=batch.maps[:, 0])
    y = torch.view_as_real(batch.kspace * batch.mask).movedim(-1, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "sensitivity_model provided")  # whatever its mode is
        return torch.view_as_complex(network(y, physics).movedim(1, -1).contiguous())[:, None]


def call_sequence(network: nn.Module, batch: Batch, package: str) -> Tensor:
    channels = torch.view_as_real(batch.zero_filled[:, 0]).movedim(-1, 1)
    return torch.view_as_complex(network(channels).movedim(1, -1).contiguous())[:, None]


def sequence(package: str) -> nn.Module:
    with seeded():
        return nn.Sequential(*(peers.convolutions() for _ in range(4)))


def start_sequence(batch: Batch) -> Tensor:
    return torch.view_as_real(batch.zero_filled[:, 0]).movedim(-1, 1)


def read_sequence(state: Tensor, batch: Batch) -> Tensor:
    return torch.view_as_complex(state.movedim(1, -1).contiguous())[:, None]


def with_physics(package: str) -> dict[str, Any]:
    return {} if package == "real" else {"physics": peers.MultiCoilMRI}


def deepinv_case(make: Callable[..., nn.Module], **settings: Any) -> Case:
    outside = "sensitivity_model" if settings.get("maps") else "nothing"
    return Case(partial(make, **settings), with_physics, call_deepinv, outside=outside)


CASES = {
    "varnet": Case(peers.varnet, lambda _: {}, call_varnet, magnitude_l1, "sens_net"),
    "unfolded": deepinv_case(peers.unfolded),
    "deepinv": deepinv_case(peers.deepinv_varnet),
    "deepinv maps": deepinv_case(peers.deepinv_varnet, maps=True),
    "deepinv e2e": deepinv_case(peers.deepinv_varnet, mode="e2e-varnet", maps=True),
    "sequence": Case(
        sequence, lambda _: {"start": start_sequence, "image": read_sequence}, call_sequence
    ),
}
PACKAGES = ("stand-in", "real")
every_network = pytest.mark.parametrize(
    ("name", "package"),
    [
        (name, package)
        for name in CASES
        for package in PACKAGES
        if (name, package) != ("sequence", "real")
    ],
)
both = pytest.mark.parametrize("package", PACKAGES)


def wrapped(name: str, package: str) -> Adapter:
    case = CASES[name]
    return gleam.wrap(case.make(package), **case.options(package))


def make(strategy: str, name: str, package: str, modules: int = 1) -> Strategy:
    network = wrapped(name, package)
    return STRATEGIES[strategy](network, CASES[name].loss, ADAM, modules=modules)


def train(strategy: Strategy) -> list[Tensor]:
    for number in range(3):
        strategy.train_step(batch_of(number))
    return weights_of(strategy.network)
