"""fastMRI's VarNet with 12 cascades: time and memory of a training step under every strategy.

    python -m experiments.peers.varnet [--size 320] [--coils 8] [--rounds 5] [--device cpu]

The network is fastMRI's own, with its own defaults (18 channels, 4 pools; 8 channels for the coil
maps). Wrapped and not, it gives the same image bit for bit, which is checked first. Activations are
what is neither parameter, gradient, optimizer state (Adam) nor input, at the peak. "One coil at a
time" is the adapter's coils_at_a_time=1, for the network that estimates coil maps. Times are of the
processor, medians over rounds, and medians of the ratio within a round.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import gleam
from experiments.peers.costs import arguments, load, measure, report
from experiments.step_cost import make_batch
from gleam.batch import Batch
from gleam.losses import ssim_loss
from gleam.strategies import STRATEGIES, Strategy

CASCADES = 12
ONE = {"coils_at_a_time": 1}
VARIANTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "backprop": ("backprop", 1, {}),
    "checkpoint": ("checkpoint", 1, {}),
    "checkpoint, one coil at a time": ("checkpoint", 1, ONE),
    "greedy, 12 modules of 1": ("greedy", 12, {}),
    "greedy, 12 modules of 1, one coil at a time": ("greedy", 12, ONE),
    "greedy, 4 modules of 3, one coil at a time": ("greedy", 4, ONE),
}


def maker(network: Any, strategy: str, modules: int, options: dict[str, Any]) -> Strategy:
    """A strategy on a copy of the network."""
    wrapped = gleam.wrap(copy.deepcopy(network), **options)
    adam = partial(torch.optim.Adam, lr=3e-4)
    return STRATEGIES[strategy](wrapped, ssim_loss, adam, modules=modules)


@torch.no_grad()
def check(network: Any, batch: Batch) -> None:
    """Refuse to go on unless the wrapped network computes what it did before.

    Raises:
        RuntimeError: if it does not.
    """
    before = network(torch.view_as_real(batch.kspace * batch.mask), batch.mask.bool()[..., None])
    wrapped: Any = gleam.wrap(network)
    if not torch.equal(wrapped(batch)[:, 0], before):
        raise RuntimeError("the wrapped network gives another image")


def main() -> None:
    """Measure, print and write ``results/peers_varnet.md``."""
    chosen = arguments(__doc__, 320, 8)
    varnet = load("fastmri.models.varnet").VarNet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = varnet(num_cascades=CASCADES).to(chosen.device)
    batch = make_batch((chosen.size, chosen.size), chosen.coils, chosen.device)
    check(network, batch)
    makers: dict[str, Callable[[], Strategy]] = {
        name: partial(maker, network, *variant) for name, variant in VARIANTS.items()
    }
    text = (__doc__ or "").partition("[--device cpu]\n\n")[2]
    measured = measure(makers, batch, chosen.rounds)
    report("peers_varnet", "VarNet of fastMRI, 12 cascades", text, chosen, measured)


if __name__ == "__main__":
    main()
