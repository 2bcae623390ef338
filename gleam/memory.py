"""Peak memory of a block of code, measured the same way in every run.

On the CPU a dispatch mode counts the bytes of live tensor storages. It sees what the backward pass
allocates and what checkpointing recomputes, because both run in the calling thread. It does not see
scratch memory inside one kernel, storages that are resized (``out=``), memory that belongs to
numpy, other threads and other processes. On CUDA the caching allocator keeps the count, scratch
memory included; blocks cannot be nested there. The two are different quantities: the source travels
with the number, and one plot shows one source.
"""

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU_SOURCE = "live CPU storages"
CUDA_SOURCE = "cuda max_memory_allocated"


@dataclass
class Peak:
    """A peak of newly allocated memory: ``bytes`` above the start (0 until the block ends)."""

    source: str
    bytes: int = 0


class PeakMemory:
    """Context manager that measures the peak of newly allocated tensor memory.

    What existed before the block (data, parameters) does not count; what is freed inside it is
    subtracted. Usage: ``with PeakMemory(device) as peak: ...`` and then ``peak.bytes``.

    Args:
        device: "cpu" or a CUDA device.

    Raises:
        ValueError: another kind of device.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        if self._device.type not in ("cpu", "cuda"):
            raise ValueError(f"peak memory is measured on cpu or cuda, got {self._device}")

    def __enter__(self) -> Peak:
        """Start to measure; the returned object is filled when the block ends."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
            self._peak = Peak(CUDA_SOURCE)
        else:
            self._mode = _LiveStorages()
            self._mode.__enter__()
            self._peak = Peak(CPU_SOURCE)
        return self._peak

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop and fill the result."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._peak.bytes = torch.cuda.max_memory_allocated(self._device) - self._start
        else:
            self._mode.__exit__(kind, error, traceback)
            self._peak.bytes = self._mode.peak


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of CPU storages that appear as the output of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        # Counted bytes of every storage alive, by address; 0 for those that were there before.
        self._counted: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation; inputs never seen before are old, outputs never seen are new."""
        kwargs = kwargs or {}
        # The one operation whose input is itself new: torch.tensor(...) hands its copy over so.
        if func is not torch.ops.aten.lift_fresh.default:
            for tensor in _cpu_tensors((args, kwargs)):
                self._note(tensor, new=False)
        result = func(*args, **kwargs)
        for tensor in _cpu_tensors(result):
            self._note(tensor, new=True)
        return result

    def _note(self, tensor: Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._counted:
            return
        # A storage that cannot be resized borrows its memory, from numpy for one.
        self._counted[address] = storage.nbytes() if new and storage.resizable() else 0
        self.live += self._counted[address]
        self.peak = max(self.peak, self.live)
        # Old storages too: once freed, their address may come back as a new one.
        weakref.finalize(storage, self._forget, address).atexit = False

    def _forget(self, address: int) -> None:
        self.live -= self._counted.pop(address)


def _cpu_tensors(tree: Any) -> list[Tensor]:
    return [
        leaf
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.layout is torch.strided
    ]


def process_peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes (Linux and macOS).

    Includes the interpreter and libraries and never falls: a check on the order of magnitude.
    """
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
