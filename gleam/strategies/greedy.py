"""Greedy training: every module has its own loss, and hands its detached output on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gleam.batch import Batch
from gleam.strategies.base import Losses, Strategy, report
from gleam.strategies.frozen import Continuation
from gleam.strategies.modules import Module, Network


@dataclass
class _Run:
    """The steps of one module on one batch, as far as they were taken.

    Attributes:
        first: the module's first step.
        next: the step to take next.
        entry: the state before the first step.
        state: the state after those taken.
    """

    first: int
    next: int
    entry: Any
    state: Any


class Greedy(Strategy):
    """Greedy, decoupled training of modules one after the other (arXiv 2207.08393).

    Each module runs forward from its detached input, is scored against the target, goes backward
    and is updated; the next one receives the output computed before that update. Holds the
    activations of one module and of ``lookahead`` steps.

    Args:
        network, loss, optimizer, scheduler, modules, clip: see :class:`Strategy`.
        lookahead: add to a module's loss that of the image after so many further steps, or of the
            last step if there are fewer; the parameters of these steps do not learn from it. 0 is
            the published algorithm. Each step of lookahead costs a backward pass through a step
            more, but no forward pass: later modules go on from what was computed. (With several
            batches a training step it is computed again, in the memory of one batch.)
        frozen: so many first steps are trained already and stay as they are, see
            :class:`Continuation`; the modules split those behind them.

    Raises:
        ValueError: if ``lookahead`` is negative, or with it parameters outside the network's steps
            learn, which would change while later modules need them; or if ``frozen`` is out of
            range.
    """

    def __init__(
        self,
        network: Network,
        *arguments: Any,
        lookahead: int = 0,
        frozen: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(
            Continuation(network, frozen) if frozen else network, *arguments, **settings
        )
        if lookahead < 0:
            raise ValueError(f"lookahead must be at least 0, got {lookahead}")
        steps = set(self.network.steps.parameters())
        if lookahead and not steps.issuperset(p for p in network.parameters() if p.requires_grad):
            raise ValueError(
                "lookahead needs a network all of whose parameters belong to its steps; "
                "train this one with lookahead 0"
            )
        self.lookahead = lookahead

    def optimise(self, *batches: Batch) -> Losses:
        """See :meth:`Strategy.train_step`."""
        losses, norms, _ = self.relay([self.network.start(batch) for batch in batches], batches)
        return report(losses, norms)

    def relay(
        self, states: Sequence[Any], batches: Sequence[Batch]
    ) -> tuple[list[list[Tensor]], list[Tensor], list[Any]]:
        """Train all modules once.

        Args:
            states: before the first step, one for each batch, without history.
            batches: see :meth:`Strategy.train_step`.

        Returns:
            Losses and gradient norms as :func:`report` takes them, and the states after the last
            step, computed before its update.
        """
        chains = [[_Run(0, 0, None, state)] for state in states]
        losses: list[list[Tensor]] = []
        norms = []
        for module in self.modules:
            last = min(module.steps[-1] + self.lookahead, len(self.network.steps) - 1)
            losses.append([])
            for runs, batch in zip(chains, batches, strict=True):
                self._advance(runs, last, batch)
                losses[-1].append(self._learn(module, runs, batch, len(batches)))
                done = runs.pop(0)
                if len(batches) > 1:
                    runs.clear()  # to be taken again: the activations of one batch at a time
                if not runs:
                    runs.append(_Run(done.next, done.next, None, detach(done.state)))
                del done
            norms.append(module.update())
        return losses, norms, [runs[0].state for runs in chains]

    def _advance(self, runs: list[_Run], last: int, batch: Batch) -> None:
        """Take all steps up to ``last``, cut off from one another where a module begins."""
        starts = [module.steps[0] for module in self.modules]
        run = runs[-1]
        while run.next <= last:
            if run.next in starts and run.next > run.first:
                entry = follow(run.state)
                run = _Run(run.next, run.next, entry, entry)
                runs.append(run)
            run.state = self.network.step(run.next, run.state, batch)
            run.next += 1

    def _learn(self, module: Module, runs: list[_Run], batch: Batch, count: int) -> Tensor:
        """Add to the gradient of a module, whose run comes first; returns its own loss."""
        own = self.score(runs[0].state, batch) / count
        outputs: list[Tensor] = []
        gradients: list[Tensor | None] = []
        if len(runs) > 1:
            outputs, gradients = [self.score(runs[-1].state, batch) / count], [None]
        for before, run in reversed([*pairwise(runs)]):
            entry = tensors(run.entry)
            with self.clock.phase("backward"):
                found = torch.autograd.grad(
                    outputs, entry, gradients, retain_graph=True, allow_unused=True
                )
            reached = [
                (tensor, gradient)
                for tensor, gradient in zip(tensors(before.state), found, strict=True)
                if tensor.requires_grad and gradient is not None
            ]
            outputs, gradients = [pair[0] for pair in reached], [pair[1] for pair in reached]
        # Parameters outside the steps may appear in every image: only their owner learns.
        self.backward([own, *outputs], module.trainable, [None, *gradients])
        return own.detach()


def detach(state: Any) -> Any:
    """Cut a state, a tensor or tensors in tuples, lists or dicts, off its history."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: detach(value) for key, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*map(detach, state))
    if isinstance(state, tuple | list):
        return type(state)(map(detach, state))
    if state is None or isinstance(state, int | float | str):
        return state
    raise TypeError(
        f"a state must be tensors, alone or in tuples, lists or dicts, got {type(state).__name__}"
    )


def follow(state: Any) -> Any:
    """The same state cut off its history, its tensors leaves that gradients can be taken of."""
    state = detach(state)
    for tensor in tensors(state):
        tensor.requires_grad_()
    return state


def tensors(state: Any) -> list[Tensor]:
    """The tensors of a state that can have a gradient, in a fixed order."""
    leaves = (leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
    return [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]
