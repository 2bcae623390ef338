"""deepinv's MoDL, 6 iterations: time and memory of a training step under every strategy.

    python -m experiments.peers.unfolded [--size 96] [--coils 8] [--rounds 5] [--device cpu]

Half-quadratic splitting with denoisers DnCNN (5 layers, 32 features). MoDL has one denoiser for all
iterations, which trains end to end; greedy modules need one for each, so that there is the same
network twice, as deepinv's MoDL and as its HQS with a list of denoisers. Wrapped and not, both give
the same image bit for bit, which is checked first. Activations are what is neither parameter,
gradient, optimizer state (Adam) nor input, at the peak. Times are of the processor, medians over
rounds, and medians of the ratio within a round; they follow the weights too, for deepinv's
conjugate gradients stop at a tolerance.
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
from gleam.losses import complex_l1
from gleam.strategies import STRATEGIES, Strategy

ITERATIONS = 6
VARIANTS = {
    "one denoiser, backprop": ("MoDL", "backprop", 1),
    "one denoiser, checkpoint": ("MoDL", "checkpoint", 1),
    "own denoisers, backprop": ("HQS", "backprop", 1),
    "own denoisers, checkpoint": ("HQS", "checkpoint", 1),
    "own denoisers, greedy, 6 modules of 1": ("HQS", "greedy", 6),
    "own denoisers, greedy, 3 modules of 2": ("HQS", "greedy", 3),
}


def networks(deepinv: Any) -> dict[str, Any]:
    """Both networks, with weights that depend on nothing."""

    def denoiser() -> Any:
        return deepinv.models.DnCNN(2, 2, depth=5, nf=32, pretrained=None)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared = deepinv.models.MoDL(denoiser(), num_iter=ITERATIONS)
        own = deepinv.optim.HQS(
            data_fidelity=deepinv.optim.L2(),
            prior=[deepinv.optim.PnP(denoiser()) for _ in range(ITERATIONS)],
            stepsize=[1.0] * ITERATIONS,
            lambda_reg=[1.0] * ITERATIONS,
            sigma_denoiser=[0.01] * ITERATIONS,
            trainable_params=["stepsize", "lambda", "g_param"],
            max_iter=ITERATIONS,
            unfold=True,
        )
    return {"MoDL": shared, "HQS": own}


def maker(network: Any, strategy: str, modules: int) -> Strategy:
    """A strategy on a copy of the network."""
    adam = partial(torch.optim.Adam, lr=1e-3)
    return STRATEGIES[strategy](
        gleam.wrap(copy.deepcopy(network)), complex_l1, adam, modules=modules
    )


@torch.no_grad()
def check(deepinv: Any, network: Any, batch: Batch) -> None:
    """Refuse to go on unless the wrapped network computes what it did before.

    Raises:
        RuntimeError: if it does not.
    """
    mask = batch.mask.expand(-1, -1, *batch.kspace.shape[2:])
    physics = deepinv.physics.MultiCoilMRI(
        mask=mask, coil_maps=batch.maps[:, 0], device=mask.device
    )
    y = torch.view_as_real(batch.kspace * batch.mask).movedim(-1, 1)
    before = torch.view_as_complex(network(y, physics).movedim(1, -1).contiguous())
    wrapped: Any = gleam.wrap(network)
    if not torch.equal(wrapped(batch)[:, 0], before):
        raise RuntimeError("the wrapped network gives another image")


def main() -> None:
    """Measure, print and write ``results/peers_unfolded.md``."""
    chosen = arguments(__doc__, 96, 8)
    deepinv = load("deepinv")
    batch = make_batch((chosen.size, chosen.size), chosen.coils, chosen.device)
    made = {name: network.to(chosen.device) for name, network in networks(deepinv).items()}
    for network in made.values():
        check(deepinv, network, batch)
    makers: dict[str, Callable[[], Strategy]] = {
        name: partial(maker, made[kind], strategy, modules)
        for name, (kind, strategy, modules) in VARIANTS.items()
    }
    text = (__doc__ or "").partition("[--device cpu]\n\n")[2]
    measured = measure(makers, batch, chosen.rounds)
    report("peers_unfolded", "MoDL of deepinv, 6 iterations", text, chosen, measured)


if __name__ == "__main__":
    main()
