"""One training step on tensors without memory: what it would allocate and how much it computes.

The only file that uses torch's fake tensors (``torch._subclasses``, private to torch): tensors with
shape, type and device but no values. The real ``train_step`` runs on them under the same counter of
live storages that measures real runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gleam.batch import Batch
from gleam.build import build_network, build_strategy
from gleam.config import Config
from gleam.cost import Work
from gleam.memory import PeakMemory
from gleam.plan_shapes import BatchShape
from gleam.strategies import Offload, Strategy
from gleam.strategies.offload import Lane
from models import unrolled
from models.invertible import InvertibleResidual
from physics import operators
from physics.solvers import Operator, conjugate_gradient

FIXED_POINT = 10
"""Iterations assumed for the inverse of a residual regularizer, which stops at a tolerance."""

aten = torch.ops.aten
FOURIER = (aten._fft_c2c.default, aten._fft_r2c.default, aten._fft_c2r.default)


@dataclass
class Trace:
    """What one training step takes, after the first has made the optimizer's state.

    Attributes:
        parts: bytes at the peak, by what holds them.
        work: what it computes, with two iterations of every conjugate-gradient solve, or as many
            as it is allowed.
        iteration: what each further iteration of all these solves adds.
    """

    parts: dict[str, int]
    work: Work
    iteration: Work


def trace(config: Config, shape: BatchShape, device: str) -> Trace:
    """Run one training step of a configuration without data, and without computing anything.

    Args:
        config: of the run, with a concrete strategy.
        shape: of each of its batches.
        device: "cpu" or "cuda": operators handle coils in larger groups there.
    """
    with FakeTensorMode() as fake, _as_on(device), _short_solves():
        network = build_network(config.network, config.data)
        for module in network.modules():
            if isinstance(module, InvertibleResidual):
                module.iterations = FIXED_POINT
        strategy = build_strategy(config, network)
        lane = _OverTheBus(torch.device("cpu"))
        if device == "cuda" and isinstance(strategy, Offload):
            vars(strategy).update(_lane=lane, storing=strategy.offloading)
        batches = [_batch(shape) for _ in range(config.training.accumulate)]
        with _Answers(fake):
            _make_optimizer_state(strategy)
        with _Answers(fake) as answers, PeakMemory("cpu", strategy, batches) as peak:
            strategy.train_step(*map(replace, batches))
    work = replace(answers.work, transferred=lane.transferred)
    return Trace(peak.parts, work, answers.iteration)


class _Answers(TorchDispatchMode):
    """Answers questions about values, which fake tensors have not, and adds up the work."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake
        self.work = Work()
        self.iteration = Work()
        self._last: Any = None
        self._first: Work | None = None  # what was done before the first iteration of a solve

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard against it takes time

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation on fake tensors, or make up the value that it asks for."""
        if func is aten._local_scalar_dense.default:
            return self._answer(args[0].dtype)
        if func is aten.equal.default:
            return True  # in one step weights stay what they are
        kwargs = kwargs or {}
        if func._overloadpacket is aten.set_:
            # The fake tensors' cache would hold on to the storage among the arguments.
            with patch.object(self._fake, "cache_enabled", False):
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._last = func
        if not func.is_view:
            self._add(func, args, kwargs, result)
        return result

    def _answer(self, dtype: torch.dtype) -> float | bool:
        """One, which is finite, and yes: iterations go on to their limit, and checks succeed."""
        if dtype is not torch.bool:
            return 1.0 if dtype.is_floating_point else 0  # an index
        if self._last is aten.any.default:
            self._solver_goes_on()
        return True

    def _solver_goes_on(self) -> None:
        """Every second time it is the second iteration: the first one lies between."""
        if self._first is None:
            self._first = replace(self.work)
        else:
            self.iteration += self.work - self._first
            self._first = None

    def _add(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.work.operations += 1
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.work.convolutions += count(*args, **kwargs, out_val=result)
        elif func in FOURIER:
            points = math.prod(args[0].shape[axis] for axis in args[1])
            self.work.transforms += 5 * args[0].numel() * math.log2(points)
        else:
            self.work.moved += sum(map(_bytes, (*args, *kwargs.values(), result)))


class _OverTheBus(Lane):
    """To and from a host whose memory does not count, and that holds nothing."""

    transferred = 0

    def room(self, size: int) -> Tensor:
        """So many bytes elsewhere."""
        return torch.empty(size, dtype=torch.uint8, device="meta")

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Count the bytes, and copy nothing."""
        self.transferred += source.numel()


def _bytes(value: Any) -> int:
    """Of a tensor, or of those in a tuple or list."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, tuple | list) else 0


def _make_optimizer_state(strategy: Strategy) -> None:
    """The state that the first update makes, without a first training step."""
    for module in strategy.modules:
        for parameter in module.trainable:
            parameter.grad = torch.zeros_like(parameter)
        module.update()


def _batch(shape: BatchShape) -> Batch:
    def empty(*sizes: int) -> Tensor:
        return torch.empty(shape.images, *sizes, dtype=torch.complex64)

    return Batch(
        kspace=empty(shape.coils, *shape.space),
        mask=torch.empty(shape.images, 1, *shape.mask_space),
        maps=empty(shape.maps, shape.coils, *shape.maps_space),
        target=empty(shape.maps, *shape.space),
        scale=torch.empty(shape.images),
        axes=shape.axes,
    )


@contextmanager
def _as_on(device: str) -> Iterator[None]:
    """Let the CPU's tensors be treated as those of a device: torch fakes none that is not there."""
    size = operators.GPU_GROUP_BYTES if device == "cuda" else operators.CPU_GROUP_BYTES
    with patch.object(operators, "CPU_GROUP_BYTES", size):
        yield


@contextmanager
def _short_solves() -> Iterator[None]:
    """Let steps' conjugate gradients take two iterations: from the second on all are the same."""
    with patch.object(unrolled, "conjugate_gradient", _solve):
        yield


def _solve(operator: Operator, rhs: Tensor, *, iterations: int, **settings: Any) -> Tensor:
    return conjugate_gradient(operator, rhs, iterations=min(iterations, 2), **settings)
