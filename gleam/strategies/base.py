"""The seam between a trainer and the ways of computing gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gleam.allocator import keep_freed_memory
from gleam.batch import Batch
from gleam.stopwatch import Seconds, Stopwatch

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


class Network(Protocol):
    """An unrolled network; the state is a tensor, or tensors in tuples, lists or dicts."""

    steps: nn.ModuleList

    def start(self, batch: Any) -> Any:
        """The state before the first step."""

    def step(self, index: int, state: Any, batch: Any) -> Any:
        """Advance the state by one unrolled iteration."""

    def image(self, state: Any, batch: Any) -> Tensor:
        """The reconstruction ``(batch, maps, *space)`` that a state stands for."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """All parameters, each once."""


class Losses(TypedDict):
    """What one training step minimised, in the units of the loss."""

    loss: float
    module_losses: list[float]
    gradient_norms: list[float]


class StepResult(Losses, Seconds):
    """What one training step reports: its losses and how long its phases took."""


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite."""

    def __init__(self, module: int, what: str) -> None:
        super().__init__(f"the {what} of module {module} is not finite")
        self.module = module


class Module:
    """Consecutive steps trained together: their parameters, optimizer and scheduler."""

    def __init__(
        self,
        steps: range,
        parameters: Sequence[nn.Parameter],
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None,
        clip: float | None,
        clock: Stopwatch,
    ) -> None:
        self.steps = steps
        self.parameters = parameters
        self.trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.trainable:
            raise ValueError(f"steps {[*steps]} form a module without a trainable parameter")
        self.optimizer = optimizer(parameters)
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.clip = clip
        self._clock = clock

    def update(self) -> Tensor:
        """Clip, step the optimizer and scheduler, free the gradients; returns their norm."""
        with self._clock.phase("update"):
            return self._update()

    def _update(self) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """State of optimizer and scheduler."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if (self.scheduler is None) != (state["scheduler"] is None):
            raise ValueError("the checkpoint and this run must both have a scheduler, or neither")
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])


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
        self.clock.start(self.modules[0].trainable[0].device)
        losses = self.optimise(*batches)  # its report waits for the device, as the clock must
        return {**losses, **self.clock.seconds()}

    @abstractmethod
    def optimise(self, *batches: Batch) -> Losses:
        """What :meth:`train_step` times; returns a :func:`report`."""

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
        """Bring the parameters of ``network`` up to date, if they live elsewhere."""

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


def split_steps(steps: int, modules: int) -> list[range]:
    """Split steps into modules of equal length.

    Raises:
        ValueError: unless ``modules`` divides ``steps``; lists what does.
    """
    if modules < 1 or steps % modules:
        fitting = [count for count in range(1, steps + 1) if steps % count == 0]
        raise ValueError(
            f"{steps} steps cannot be split into {modules} modules of equal length; "
            f"choose modules from {fitting}"
        )
    length = steps // modules
    return [range(first, first + length) for first in range(0, steps, length)]


def own_parameters(network: Network, splits: Sequence[range]) -> list[list[nn.Parameter]]:
    """The parameters of each module; those outside the steps belong to the first.

    Raises:
        ValueError: if two modules share a parameter.
    """
    owned = [
        list(nn.ModuleList(network.steps[index] for index in steps).parameters())
        for steps in splits
    ]
    seen = {parameter for parameters in owned for parameter in parameters}
    if len(seen) < sum(map(len, owned)):
        raise ValueError(
            "modules must not share weights: each would undo the update of the one before. "
            "Use separate weights (shared: false) or a single module"
        )
    outside = [parameter for parameter in network.parameters() if parameter not in seen]
    return [outside + owned[0], *owned[1:]]


def refuse_batch_norm(network: Network, strategy: str) -> None:
    """Refuse layers that would count every batch twice, were their step run forward twice.

    Raises:
        ValueError: naming the strategy and the first batch or instance norm, in the network or,
            if that is no nn.Module, in its steps, that tracks running statistics.
    """
    whole = network if isinstance(network, nn.Module) else nn.ModuleDict({"steps": network.steps})
    for name, layer in whole.named_modules():
        if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats:
            raise ValueError(
                f"strategy {strategy} runs every step forward a second time, and "
                f"{type(layer).__name__} {name} would update its running statistics twice; use "
                "GroupNorm, or InstanceNorm without running statistics, in its place, or train "
                "with strategy greedy or backprop"
            )


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
