"""A MoDL network of every package: its physics and solver, the same CNNs, the same optimizer.

``x <- (A^H A + w)^-1 (A^H y + w R(x))`` from the zero-filled image, every step with a CNN R and a
w of its own, learned as its logarithm. A contender is an ``nn.Module`` that takes
nothing and returns an image in the layout of its package.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.peers.operators import MAKERS, Problem
from experiments.peers.reconstruction import textbook_cg
from models.complex import ComplexImages, to_channels, to_complex
from models.resnet import ConvNet
from models.unrolled import MoDLStep, UnrolledNetwork

STEPS = 5
WEIGHT = 0.05
CG_ITERATIONS = 10
LEARNING_RATE = 1e-4


def make_cnns(features: int) -> nn.ModuleList:
    """The CNNs of all steps, five layers each, with a last layer that is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cnns = [ConvNet(2, features) for _ in range(STEPS)]
        for cnn in cnns:
            nn.init.normal_(cnn.get_parameter("layers.8.weight"), std=0.01)
    return nn.ModuleList(cnns)


class PeerMoDL(nn.Module):
    """The loop that all peers share.

    Args:
        cnns: R of every step, on real channels.
        zero_filled: first image.
        solve: ``(w, R(x), x)`` to the next image.
        channels: image to what a CNN takes.
        image: inverse of ``channels``.
    """

    def __init__(
        self,
        cnns: nn.ModuleList,
        zero_filled: Tensor,
        solve: Callable[[Tensor, Tensor, Tensor], Tensor],
        channels: Callable[[Tensor], Tensor] = lambda image: image,
        image: Callable[[Tensor], Tensor] = lambda channels: channels,
    ) -> None:
        super().__init__()
        self.cnns = copy.deepcopy(cnns)
        first = torch.tensor(math.log(WEIGHT))
        self.log_weights = nn.ParameterList([nn.Parameter(first.clone()) for _ in cnns])
        self.zero_filled, self.solve = zero_filled, solve
        self.channels, self.image = channels, image

    def forward(self) -> Tensor:
        """The image after the last step."""
        x = self.zero_filled
        for cnn, log_weight in zip(self.cnns, self.log_weights, strict=True):
            x = self.solve(log_weight.exp(), self.image(cnn(self.channels(x))), x)
        return x


def straightforward(problem: Problem, cnns: nn.ModuleList, iterations: int) -> PeerMoDL:
    """Torch as the formulas read: autograd through every iteration of conjugate gradients."""
    encoding = MAKERS["torch, as the formula reads"](problem)
    assert encoding is not None
    zero_filled = encoding.adjoint(encoding.kspace)

    def solve(weight: Tensor, prior: Tensor, start: Tensor) -> Tensor:
        rhs = zero_filled + weight * prior
        missing = rhs - encoding.normal(start) - weight * start
        return start + textbook_cg(encoding.normal, missing, weight, iterations)

    return PeerMoDL(cnns, zero_filled, solve, _channels_first, to_complex)


def _channels_first(image: Tensor) -> Tensor:
    return to_channels(image).contiguous()


def with_mrpro(
    problem: Problem, cnns: nn.ModuleList, iterations: int, implicit: bool = True
) -> PeerMoDL:
    """mrpro's ``ConjugateGradientOp``.

    Where it differentiates implicitly it forgets the number of iterations and the tolerance that
    it was given, and iterates until it has converged by its own defaults.
    """
    from mrpro.operators import ConjugateGradientOp

    from experiments.peers.operators import mrpro_operator

    operator, image = mrpro_operator(problem)
    (kspace,) = operator(image)
    (zero_filled,) = operator.adjoint(kspace)
    gram = operator.gram
    solver = ConjugateGradientOp(
        lambda weight, prior: gram + weight,
        lambda weight, prior: (zero_filled + weight * prior,),
        implicit_backward=implicit,
        tolerance=0,
        max_iterations=iterations,
    )

    def solve(weight: Tensor, prior: Tensor, start: Tensor) -> Tensor:
        result: Tensor = solver(weight, prior, initial_value=(start.detach(),))[0]
        return result

    def channels(image: Tensor) -> Tensor:
        return _channels_first(image[:, :, 0])

    return PeerMoDL(cnns, zero_filled, solve, channels, lambda x: to_complex(x).unsqueeze(2))


def with_deepinv(problem: Problem, cnns: nn.ModuleList, iterations: int) -> PeerMoDL:
    """deepinv's ``prox_l2``, which differentiates implicitly and works on real channels."""
    from experiments.peers.operators import deepinv_physics

    physics, image = deepinv_physics(problem)
    kspace = physics.A(image)

    def solve(weight: Tensor, prior: Tensor, start: Tensor) -> Tensor:
        result: Tensor = physics.prox_l2(prior, kspace, 1 / weight, max_iter=iterations, tol=0)
        return result

    return PeerMoDL(cnns, physics.A_adjoint(kspace), solve)


def ours(problem: Problem, cnns: nn.ModuleList, iterations: int) -> UnrolledNetwork:
    """This library's network."""
    rest = iter(copy.deepcopy(cnns))
    return UnrolledNetwork(
        lambda: MoDLStep(ComplexImages(next(rest)), WEIGHT, iterations, 0), len(cnns)
    )


PEERS: dict[str, Callable[[Problem, nn.ModuleList, int], PeerMoDL]] = {
    "torch, as the formulas read": straightforward,
    "mrpro, implicit": with_mrpro,
    "mrpro, autograd": partial(with_mrpro, implicit=False),
    "deepinv": with_deepinv,
}


def training_step(network: PeerMoDL, target: Tensor) -> Callable[[], Any]:
    """Forward, squared error, backward and Adam, with a loop as anybody writes it.

    The error is summed: deepinv's implicit gradients vanish with the loss, for its conjugate
    gradients add 1e-8 to what they divide by.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        squared_error(network(), target).backward()
        optimizer.step()

    return step


def squared_error(image: Tensor, target: Tensor) -> Tensor:
    """Sum over all pixels, of complex images or real channels."""
    difference = image - target
    if difference.is_complex():
        difference = torch.view_as_real(difference)
    return difference.square().sum()
