"""Invertible training: inputs of steps are recomputed from their outputs instead of stored."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from gleam.batch import Batch
from gleam.strategies.base import Loss, Losses, Strategy, report
from gleam.strategies.greedy import detach, follow, tensors
from gleam.strategies.modules import MakeOptimizer, MakeScheduler, Network

KEEP_EVERY = 4
"""Steps between states that are kept. MoDL multiplies errors by ``1 + 1 / lambda`` a step."""


class InvertibleNetwork(Network, Protocol):
    """A network whose steps can be undone."""

    def inverse(self, index: int, state: Any, batch: Any) -> Any:
        """The state that :meth:`step` took to this one."""


class InvertibilityError(RuntimeError):
    """Recomputed states are too far from the true ones for their gradients to be right."""


class Invertible(Strategy):
    """End-to-end training that stores few states and no activations (1707.04585, 2003.05551).

    The backward pass goes back step by step: it recomputes the step's input, runs the step from
    there with autograd, and takes the gradient through it. Wherever it comes to a state that is
    known, the first one or one that was kept, it sees how far off the recomputed ones are.

    Args:
        network: as for every strategy, with a method ``inverse(index, state, batch)`` beside
            ``step``.
        loss: as for every strategy, as are ``optimizer``, ``scheduler``, ``modules`` and ``clip``.
        checkpoint_every: keep the state after every so many steps, of which errors grow no
            further; :data:`KEEP_EVERY` if None. As many as there are steps keep the last only.
        tolerance: largest relative error of a recomputed state. Gradients are off by up to a
            hundred times as much.

    Raises:
        ValueError: if ``checkpoint_every`` is below one or the network cannot be undone: it has no
            ``inverse``, a regularizer has none, or a layer acts differently when run again.
    """

    recomputes: ClassVar[bool] = True

    def __init__(
        self,
        network: InvertibleNetwork,
        loss: Loss,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        modules: int = 1,
        clip: float | None = None,
        *,
        checkpoint_every: int | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
        check_invertible(network)
        super().__init__(network, loss, optimizer, scheduler, modules, clip)
        self.undo = network.inverse
        self.checkpoint_every = checkpoint_every or KEEP_EVERY
        self.tolerance = tolerance

    def optimise(self, *batches: Batch) -> Losses:
        """See :meth:`Strategy.train_step`.

        Raises:
            InvertibilityError: if a recomputed state is off by more than ``tolerance``; the
                parameters are as they were.
        """
        parts: list[Tensor] = []
        drifts: list[tuple[range, Tensor]] = []
        for batch in batches:
            part, found = self._learn(batch, len(batches))
            parts.append(part)
            drifts += found
        self._check(torch.stack(parts), drifts)
        return report([parts], [self.modules[0].update()])

    @torch.no_grad()
    def _forward(self, batch: Batch) -> tuple[Any, dict[int, Any]]:
        """The last state, and the inputs of the steps for which they are kept."""
        kept = {}
        state = self.network.start(batch)
        for index in self.modules[0].steps:
            if index and index % self.checkpoint_every == 0:
                kept[index] = state
            state = self.network.step(index, state, batch)
        return state, kept

    def _learn(self, batch: Batch, count: int) -> tuple[Tensor, list[tuple[range, Tensor]]]:
        """Add a batch's share to the gradients, from the last state back to the first.

        Returns:
            The loss, and for every row of steps whose inputs were recomputed the relative error of
            the last of them, which has come the longest way: the first step of a row follows a
            known state, and so the true one is its predecessor's output.
        """
        state, kept = self._forward(batch)
        state = follow(state)
        part = self.score(state, batch) / count
        self.backward([part])
        drifts = []
        end = len(self.modules[0].steps)  # of the row
        with self.clock.phase("backward"):
            for index in reversed(self.modules[0].steps):
                known = index == 0 or index in kept
                if index == 0:
                    before = start = self.network.start(batch)
                elif known:
                    before = kept.pop(index)
                else:
                    with torch.no_grad():
                        before = self.undo(index, detach(state), batch)
                before = follow(before)
                output = self.network.step(index, before, batch)
                if known and index + 1 < end:
                    drifts.append((range(index + 1, end), relative_error(state, output)))
                self._pull(output, state)
                del output
                state, end = before, index if known else end
            self._pull(start, state)
        return part.detach(), drifts

    def _pull(self, output: Any, followed: Any) -> None:
        """Take the gradient of a followed state through the computation of that state."""
        pairs = [
            (computed, leaf.grad)
            for computed, leaf in zip(tensors(output), tensors(followed), strict=True)
            if computed.requires_grad and leaf.grad is not None
        ]
        if pairs:
            self.backward([pair[0] for pair in pairs], gradients=[pair[1] for pair in pairs])

    def _check(self, parts: Tensor, drifts: list[tuple[range, Tensor]]) -> None:
        if not drifts or not parts.isfinite().all():  # the report says which module's loss it is
            return
        errors = torch.stack([error for _, error in drifts])
        worst = int(errors.argmax())
        if errors[worst] <= self.tolerance:
            return
        self.modules[0].optimizer.zero_grad(set_to_none=True)
        steps = drifts[worst][0]
        raise InvertibilityError(
            f"undoing steps {steps[-1]} to {steps[0]}, counted from 0, must lead back to the state "
            f"before them within a relative error of {self.tolerance:g}, but the error is "
            f"{float(errors[worst]):.3g}: the gradients would be wrong, and no parameter was "
            f"changed. Set strategy.checkpoint_every to {(len(steps) + 1) // 2} or less, or make "
            "the steps easier to undo: network.regularizer coupling, a smaller network.step_size, "
            "a larger network.weight (lambda) or more network.cg_iterations"
        )


def check_invertible(network: InvertibleNetwork) -> None:
    """Refuse a network that cannot be undone, or whose steps act differently when run again.

    Raises:
        ValueError: naming the layer.
    """
    if not hasattr(network, "inverse"):
        raise ValueError(
            f"invertible training needs a network with inverse(index, state, batch), and "
            f"{type(network).__name__} has none"
        )
    for index, step in enumerate(network.steps):
        if not getattr(step, "invertible", True):
            regularizer = getattr(step.regularizer, "network", step.regularizer)
            raise ValueError(
                f"the regularizer of step {index}, {type(regularizer).__name__}, has no inverse; "
                "InvertibleResidual (network.regularizer: residual) and Coupling "
                "(network.regularizer: coupling) have one"
            )
        for name, layer in step.named_modules():
            if isinstance(layer, _DropoutNd) and layer.p > 0:
                raise ValueError(
                    f"step {index} has dropout ({name}), which draws other numbers when a step is "
                    "run again and cannot be undone; set its probability to 0"
                )


@torch.no_grad()
def relative_error(state: Any, truth: Any) -> Tensor:
    """Norm of the difference as a fraction of the norm of the truth, over all tensors."""
    pairs = [*zip(tensors(state), tensors(truth), strict=True)]
    missed = torch.stack([(ours - theirs).norm().double() for ours, theirs in pairs]).norm()
    return missed / torch.stack([theirs.norm().double() for _, theirs in pairs]).norm()
