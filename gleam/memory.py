"""Peak memory of a block of code, measured the same way in every run and split into its parts.

On the CPU a dispatch mode counts the bytes of live tensor storages. It sees what the backward pass
allocates and what checkpointing recomputes, because both run in the calling thread. It does not see
scratch memory inside one kernel, storages that are resized (``out=``), memory that belongs to
numpy, other threads and other processes; and autograd adds two gradients out of place while such a
mode is on. Fake tensors (``FakeTensorMode`` entered outside) count as those they stand for.

On CUDA the caching allocator keeps the count, scratch memory included; blocks cannot be nested
there. The two are different quantities: the source travels with the number, and one plot shows one
source. The resident memory of the process stands beside both as a check.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gleam.batch import Batch
from gleam.storages import (
    ACTIVATIONS,
    GRADIENTS,
    INPUTS,
    KINDS,
    OPTIMIZER,
    PARAMETERS,
    LiveStorages,
)
from gleam.strategies.base import Strategy

CPU_SOURCE = "live CPU storages"
CUDA_SOURCE = "cuda max_memory_allocated"


@dataclass
class Peak:
    """A peak of memory in bytes; all zero until the block ends.

    Attributes:
        source: what was counted; numbers of different sources must not be compared.
        bytes: peak of newly allocated tensors: what existed before the block does not count, and
            freeing it is no credit (on CUDA it is).
        total: peak of new tensors together with those parameters, gradients, optimizer state and
            inputs of the start that are still held; on CUDA of all there is on the device.
        parts: ``total`` split into "parameters", "gradients", "optimizer" (its state, and what
            its step allocates), "inputs" and "activations" (everything else), at the instant of
            the peak; on CUDA, where that instant is not known, the largest sizes and the rest.
        rss: largest resident memory of the process until the end of the block.
    """

    source: str
    bytes: int = 0
    total: int = 0
    parts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    rss: int = 0


class PeakMemory:
    """Context manager that measures the peak of tensor memory.

    Usage: ``with PeakMemory(device, strategy, batches) as peak: strategy.train_step(*batches)``
    and then ``peak.bytes``, ``peak.total`` and ``peak.parts``. The hooks it puts on parameters and
    optimizers go when the block ends.

    Args:
        device: "cpu" or a CUDA device.
        strategy: whose parameters, gradients and optimizer state are told apart; without it all
            that is new counts as activations.
        batches: their measurements, targets and what was computed of them before count as inputs.

    Raises:
        ValueError: another kind of device.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        strategy: Strategy | None = None,
        batches: Sequence[Batch] = (),
    ) -> None:
        self._device = torch.device(device)
        if self._device.type not in ("cpu", "cuda"):
            raise ValueError(f"peak memory is measured on cpu or cuda, got {self._device}")
        self._parameters = list(strategy.network.parameters()) if strategy else []
        self._optimizers = [module.optimizer for module in strategy.modules] if strategy else []
        self._batches = batches

    def __enter__(self) -> Peak:
        """Start to measure; the returned object is filled when the block ends."""
        self._hooks = ExitStack()
        if self._device.type == "cuda":
            self._peak = Peak(CUDA_SOURCE)
            self._enter_cuda()
        else:
            self._peak = Peak(CPU_SOURCE)
            self._enter_cpu()
        return self._peak

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop and fill the result."""
        self._hooks.close()
        if self._device.type == "cuda":
            self._exit_cuda()
        else:
            self._live.__exit__(kind, error, traceback)
            self._peak.bytes = self._live.peak
            self._peak.total = self._live.total
            self._peak.parts = dict(zip(KINDS, self._live.parts, strict=True))
        self._peak.rss = process_peak_rss()

    def _enter_cpu(self) -> None:
        self._live = live = LiveStorages(self._known())

        def gradient_is_there(parameter: Tensor) -> None:
            if parameter.grad is not None:
                live.move(parameter.grad, GRADIENTS)

        def step_begins(*_: Any) -> None:
            live.kind = OPTIMIZER

        def step_ends(*_: Any) -> None:
            live.kind = ACTIVATIONS

        for parameter in self._parameters:
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(gradient_is_there)
                self._hooks.callback(handle.remove)
        for optimizer in self._optimizers:
            self._hooks.callback(optimizer.register_step_pre_hook(step_begins).remove)
            self._hooks.callback(optimizer.register_step_post_hook(step_ends).remove)
        live.__enter__()

    def _enter_cuda(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._start = torch.cuda.memory_allocated(self._device)
        self._sizes = {kind: self._size(tensors) for kind, tensors in self._known().items()}

        def step_begins(*_: Any) -> None:
            self._sizes[GRADIENTS] = max(
                self._sizes[GRADIENTS], self._size(gradients(self._parameters))
            )

        for optimizer in self._optimizers:
            self._hooks.callback(optimizer.register_step_pre_hook(step_begins).remove)

    def _exit_cuda(self) -> None:
        torch.cuda.synchronize(self._device)
        # The allocator knows when it peaked, not with what: sizes that are known, and the rest.
        # Gradients are the most there were before an update.
        total = torch.cuda.max_memory_allocated(self._device)
        self._sizes[OPTIMIZER] = self._size(states(self._optimizers))
        self._sizes[ACTIVATIONS] = total - sum(self._sizes.values())
        self._peak.bytes = total - self._start
        self._peak.total = total
        self._peak.parts = {KINDS[kind]: self._sizes[kind] for kind in range(len(KINDS))}

    def _known(self) -> dict[int, list[Tensor]]:
        """What there is now, by kind."""
        return {
            PARAMETERS: [parameter.detach() for parameter in self._parameters],
            GRADIENTS: list(gradients(self._parameters)),
            OPTIMIZER: list(states(self._optimizers)),
            INPUTS: [tensor for batch in self._batches for tensor in tensors_of(batch)],
        }

    def _size(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of the storages of tensors on the device, each once."""
        storages = [t.untyped_storage() for t in tensors if t.device.type == self._device.type]
        return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def gradients(parameters: Iterable[Tensor]) -> Iterator[Tensor]:
    """The gradients that parameters have now."""
    return (parameter.grad for parameter in parameters if parameter.grad is not None)


def states(optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """The tensors of optimizers' states."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """The tensors of a batch, and of its operator and zero-filled image if they exist by now."""
    values = [*vars(batch).values()]
    if "operator" in vars(batch):  # a cached property: there once it was asked for
        values += vars(batch.operator).values()
    return (value for value in values if isinstance(value, Tensor))


def process_peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes (Linux and macOS).

    Includes the interpreter and libraries and never falls: a check on the order of magnitude.
    """
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # on Linux; getrusage also counts the process that started this one
        peak = status.read_text(encoding="ascii", errors="replace").partition("VmHWM:")[2]
        if peak:
            return int(peak.split()[0]) * 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # macOS counts bytes, Linux KiB
