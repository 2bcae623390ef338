"""What a strategy trains: a network's steps, grouped into modules with an optimizer each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gleam.stopwatch import Stopwatch

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


class Module:
    """Consecutive steps trained together: their parameters, optimizer and scheduler.

    Attributes:
        average: is given the gradients before they are used, to average them with those of other
            processes in place.
    """

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
        self.average: Callable[[list[Tensor]], None] = lambda gradients: None
        self._clock = clock

    def update(self) -> Tensor:
        """Clip, step the optimizer and scheduler, free the gradients; returns their norm."""
        with self._clock.phase("update"):
            return self._update()

    def _update(self) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.average(gradients)
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


def split_steps(steps: int, modules: int) -> list[range]:
    """Split steps into modules of equal length.

    Raises:
        ValueError: unless ``modules`` divides ``steps``; lists what does.

    Example:
        >>> split_steps(8, 2)
        [range(0, 4), range(4, 8)]
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
    """The parameters of each module; those outside the steps that learn belong to the first.

    Raises:
        ValueError: if two modules share a parameter that learns.
    """
    owned = [
        list(nn.ModuleList(network.steps[index] for index in steps).parameters())
        for steps in splits
    ]
    seen = {parameter for parameters in owned for parameter in parameters}
    owners = Counter(p for parameters in owned for p in parameters if p.requires_grad)
    if shared := {parameter for parameter, count in owners.items() if count > 1}:
        whole = network if isinstance(network, nn.Module) else network.steps
        name = next(name for name, parameter in whole.named_parameters() if parameter in shared)
        cure = getattr(network, "unshare", "use separate weights (shared: false)")
        raise ValueError(
            f"modules must not share weights ({len(shared)} here, first {name}): each would undo "
            f"the update of the one before. Train a single module, or {cure}"
        )
    outside = [p for p in network.parameters() if p not in seen and p.requires_grad]
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
