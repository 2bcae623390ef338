"""The seam between a trainer and the ways of computing gradients."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import torch
from torch import Tensor

from gleam.allocator import keep_freed_memory
from gleam.batch import Batch
from gleam.stopwatch import Seconds, Stopwatch
from gleam.strategies.modules import (
    MakeOptimizer,
    MakeScheduler,
    Module,
    Network,
    own_parameters,
    refuse_batch_norm,
    split_steps,
)

if TYPE_CHECKING:
    from typing_extensions import NotRequired

Loss = Callable[[Tensor, Tensor], Tensor]


class Losses(TypedDict):
    """What one training step minimised, in the units of the loss."""

    loss: float
    module_losses: list[float]
    gradient_norms: list[float]


class StepResult(Losses, Seconds):
    """What one training step reports: its losses and how long its phases took."""


class Iteration(StepResult):
    """What an iteration of :meth:`Strategy.train` reports.

    Beside the training step: the learning rate that it used, and how long it waited for its
    batches and then took [s]. Of parallel training also, for every worker, how long it took [s],
    the share of the time that it had nothing to do, and how many batches waited in front of it.
    """

    learning_rate: float
    data_seconds: float
    step_seconds: float
    worker_seconds: NotRequired[list[float]]
    idle: NotRequired[list[float]]
    queues: NotRequired[list[int]]


Feed = Callable[[int, int], Iterator[Sequence[Batch]]]
"""The batches of the iterations from the first number up to the second, counted from zero."""


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite."""

    def __init__(self, module: int, what: str) -> None:
        super().__init__(f"the {what} of module {module} is not finite")
        self.module = module
        self.what = what


class OutOfReachError(RuntimeError):
    """The parameters after the last iteration are lost, or would take too long to get."""


class Strategy(ABC):
    """A way of training an unrolled network.

    Args:
        network: see :class:`Network`.
        loss: (image, target) to a scalar.
        optimizer: makes an optimizer of parameters; called once for each module.
        scheduler: makes a scheduler of an optimizer, advanced once a training step; or None.
        modules: number of modules of equal length that the steps are split into.
        clip: largest norm of a module's gradient, or None.

    Attributes:
        recomputes: whether steps run forward again in the backward pass.
        clock: what times the phases of a training step.
        notice: is told what a user should know, such as that a worker died.

    Raises:
        ValueError: if the steps cannot be split so, modules share a parameter, one has none to
            train, or the strategy recomputes and a layer's running statistics forbid it.
    """

    recomputes: ClassVar[bool] = False

    def __init__(
        self,
        network: Network,
        loss: Loss,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        modules: int = 1,
        clip: float | None = None,
    ) -> None:
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be positive, got {clip}")
        if self.recomputes:
            refuse_batch_norm(network, type(self).__name__.lower())
        keep_freed_memory()
        self.network = network
        self.loss = loss
        self.clock = Stopwatch()
        self.notice: Callable[[str], None] = lambda text: None
        splits = split_steps(len(network.steps), modules)
        owned = own_parameters(network, splits)
        self.modules = [
            Module(steps, parameters, optimizer, scheduler, clip, self.clock)
            for steps, parameters in zip(splits, owned, strict=True)
        ]

    def train_step(self, *batches: Batch) -> StepResult:
        """One update of all parameters.

        Args:
            batches: one batch with a target, or several over which the gradient is averaged
                (gradient accumulation: the memory of one, the gradient of all).

        Returns:
            The loss of the last module, the losses and gradient norms of all, and the time of
            each phase: "backward" includes what it recomputes, "update" is clipping and the
            optimizer, and "forward" all else up to the last update.

        Raises:
            NonFiniteError: if a loss or gradient is not finite; names the module. The parameters
                are spoilt by then: go back to a checkpoint.
        """
        self.clock.start(self.device)
        losses = self.optimise(*batches)  # its report waits for the device, as the clock must
        return {**losses, **self.clock.seconds()}

    @abstractmethod
    def optimise(self, *batches: Batch) -> Losses:
        """What :meth:`train_step` times; returns a :func:`report`."""

    def train(
        self, feed: Feed, first: int, last: int, keeps: Callable[[int], bool]
    ) -> Iterator[Iteration]:
        """Train for the iterations from ``first`` up to ``last``, counted from zero.

        Args:
            feed: of batches, on any device.
            first: number of iterations done before.
            last: number of iterations done in the end.
            keeps: of a number of iterations done, whether :meth:`synchronise` may be called then.

        Yields:
            What each iteration reports, in their order.

        Raises:
            NonFiniteError: as :meth:`train_step`.
        """
        stream = feed(first, last)
        for _ in range(first, last):
            started = time.perf_counter()
            batches = next(stream)
            loaded = time.perf_counter()
            rate = self.learning_rate
            result = self.train_step(*(batch.to(self.device) for batch in batches))
            yield {
                **result,
                "learning_rate": rate,
                "data_seconds": round(loaded - started, 6),
                "step_seconds": round(time.perf_counter() - loaded, 6),
            }

    def stop(self) -> Iterator[Iteration]:
        """End :meth:`train` before its last iteration; yields what was under way."""
        yield from ()

    @property
    def device(self) -> torch.device:
        """Where the network is trained."""
        return self.modules[0].trainable[0].device

    @property
    def learning_rate(self) -> float:
        """Of the first module."""
        return float(self.modules[0].optimizer.param_groups[0]["lr"])

    def score(self, state: Any, batch: Batch) -> Tensor:
        """The loss of a state's image against the target of its batch."""
        if batch.target is None:
            raise ValueError("training needs a target image in every batch, got None")
        return self.loss(self.network.image(state, batch), batch.target)

    def backward(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
        gradients: Sequence[Tensor | None] | None = None,
    ) -> None:
        """Add the gradients of ``inputs``, or of all parameters, by backpropagation.

        Args:
            outputs: parts of the loss, or tensors whose ``gradients`` are given.
            inputs: what learns; everything that the outputs depend on if none.
            gradients: of the outputs; None for those that are scalars.
        """
        with self.clock.phase("backward"):
            torch.autograd.backward(outputs, gradients, inputs=inputs)

    def synchronise(self) -> None:  # noqa: B027 (most strategies have nothing to do)
        """Bring the parameters of ``network`` and the optimizers up to the iteration yielded last.

        Raises:
            OutOfReachError: if they live elsewhere and cannot be had.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the network's parameters."""
        return {"modules": [module.state_dict() for module in self.modules]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if len(state["modules"]) != len(self.modules):
            raise ValueError(
                f"the checkpoint was trained with {len(state['modules'])} modules, "
                f"this run has {len(self.modules)}; use the same number to resume"
            )
        for module, saved in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(saved)

    def close(self) -> None:  # noqa: B027 (most strategies have nothing to do)
        """Free what the strategy holds outside this process."""


def report(losses: Sequence[Sequence[Tensor]], norms: Sequence[Tensor]) -> Losses:
    """Check and convert each module's losses and gradient norm, with one transfer.

    Args:
        losses: for each module the parts, one for each batch, that add up to its loss.
        norms: for each module the norm of its gradient.

    Raises:
        NonFiniteError: naming the first module whose loss or gradient is not finite.
    """
    sums = [torch.stack([*parts]).sum() for parts in losses]
    values = torch.stack([torch.stack(sums), torch.stack([*norms])]).tolist()
    for module, pair in enumerate(zip(*values, strict=True)):
        for what, value in zip(("loss", "gradient"), pair, strict=True):
            if not abs(value) < float("inf"):
                raise NonFiniteError(module, what)
    return {"loss": values[0][-1], "module_losses": values[0], "gradient_norms": values[1]}
