"""A training step of MoDL and its inference, in time and memory, beside other packages'."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.peers.modl import (
    CG_ITERATIONS,
    LEARNING_RATE,
    PEERS,
    STEPS,
    PeerMoDL,
    make_cnns,
    ours,
    squared_error,
    training_step,
)
from experiments.peers.operators import Problem, make_problem
from experiments.peers.operators import ours as our_operator
from experiments.peers.packages import imports
from experiments.peers.timing import OURS, Contender, as_rows, head, relative, time_in_turn
from gleam.batch import Batch
from gleam.memory import PeakMemory
from gleam.strategies import STRATEGIES, Strategy
from models.complex import to_complex

FEATURES = (32, 64)
CHECKED_AT = 30
"""Iterations after which conjugate gradients have converged, whatever they start from."""


def compare(rounds: int, threads: int) -> list[str]:
    """Rows of Markdown, a problem for every width of the CNNs."""
    problem = make_problem("2D", "1D")
    batch = Batch(our_operator(problem).kspace, problem.mask, problem.maps, problem.image)
    text = f"MoDL, {STEPS} steps, {CG_ITERATIONS} iterations of CG, five convolutions a step"
    lines = [f"\n## {text}, 320 x 320, 8 coils\n", *head("difference; peak [MB]")]
    for features in FEATURES:
        cnns = make_cnns(features)
        notes = check(problem, batch, cnns)
        peers = {name: make(problem, cnns, CG_ITERATIONS) for name, make in _makers().items()}
        training = {
            name: Contender(training_step(network, target_of(problem, network)))
            for name, network in peers.items()
        }
        lasting = _our_training(problem, batch, cnns)
        training = {**lasting, **training}
        for name, contender in training.items():
            contender.run()
            with PeakMemory() as peak:
                contender.run()
            notes[name] = "; ".join([*filter(None, [notes.get(name)]), f"{peak.bytes / 1e6:.0f}"])
        seconds = time_in_turn(training, min(rounds, 3))
        lines += as_rows(f"training step, {features} features", seconds, notes)
        network = ours(problem, cnns, CG_ITERATIONS)
        inference = {OURS: Contender(partial(_infer, network, batch))}
        inference |= {name: Contender(partial(_infer, peer)) for name, peer in peers.items()}
        seconds = time_in_turn(inference, min(rounds, 3))
        lines += as_rows(f"inference, {features} features", seconds, {})
    return lines


def _makers() -> dict[str, Any]:
    return {
        name: make
        for name, make in PEERS.items()
        if name.startswith("torch") or imports(name.partition(",")[0])
    }


def _our_training(problem: Problem, batch: Batch, cnns: nn.ModuleList) -> dict[str, Contender]:
    def strategy(name: str, modules: int) -> Strategy:
        network = ours(problem, cnns, CG_ITERATIONS)
        return STRATEGIES[name](
            network, squared_error, partial(torch.optim.Adam, lr=LEARNING_RATE), modules=modules
        )

    kinds = {
        OURS: strategy("backprop", 1),
        f"{OURS}, checkpoint": strategy("checkpoint", 1),
        f"{OURS}, greedy": strategy("greedy", STEPS),
    }
    return {name: Contender(partial(kind.train_step, batch)) for name, kind in kinds.items()}


@torch.no_grad()
def _infer(network: nn.Module, *batch: Batch) -> Tensor:
    image: Tensor = network(*batch)
    return image


def target_of(problem: Problem, network: PeerMoDL) -> Tensor:
    """The image in the layout of a peer's network."""
    layout = network.zero_filled
    if layout.is_complex():
        return problem.image.reshape(layout.shape)
    return torch.view_as_real(problem.image[:, 0]).movedim(-1, 1)


def check(problem: Problem, batch: Batch, cnns: nn.ModuleList) -> dict[str, str]:
    """How far images, and gradients of the first CNN, are from this library's.

    After more iterations of conjugate gradients than are timed: peers start them elsewhere.
    """
    network = ours(problem, cnns, CHECKED_AT)
    image = network(batch)
    squared_error(image, problem.image).backward()
    gradient = network.get_parameter("steps.0.regularizer.network.layers.0.weight").grad
    assert gradient is not None
    notes = {}
    for name, make in _makers().items():
        peer = make(problem, cnns, CHECKED_AT)
        found = peer()
        squared_error(found, target_of(problem, peer)).backward()
        theirs = peer.get_parameter("cnns.0.layers.0.weight").grad
        image_of = found if found.is_complex() else to_complex(found)
        notes[name] = (
            f"image {relative(image_of.reshape(image.shape), image):.0e}, "
            f"gradient {relative(theirs, gradient):.0e}"
        )
    return notes
