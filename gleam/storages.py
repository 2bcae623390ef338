"""Live tensor storages on the CPU, counted by kind, with the instant at which they peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from functools import cache
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ("parameters", "gradients", "optimizer", "inputs", "activations")

PARAMETERS, GRADIENTS, OPTIMIZER, INPUTS, ACTIVATIONS = range(len(KINDS))

CPU = torch.device("cpu")  # comparing with it is quicker than asking for the type


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of CPU storages that operations make, from their making to their freeing.

    A dispatch mode sees every operation below autograd, so that backward passes and recomputation
    count too. Fake tensors, which have a size but no memory, count as the tensors they stand for.
    An operation that returns its argument or a view of it makes nothing; its schema says so.

    Args:
        known: tensors that exist before, by their kind (an index of :data:`KINDS`); they count
            in ``total``, once each, under the first kind they appear in.

    Attributes:
        kind: what new storages count as.
        peak: largest sum of new storages.
        total: largest sum of new and known storages.
        parts: bytes of each of :data:`KINDS` when ``total`` was reached; their sum is ``total``.
    """

    def __init__(self, known: Mapping[int, Iterable[Tensor]] | None = None) -> None:
        super().__init__()
        self.kind = ACTIVATIONS
        self.peak = 0
        self.total = 0
        self.parts = [0] * len(KINDS)
        self._live = [0] * len(KINDS)
        self._now = 0
        self._new = 0
        # By address; an address may come back, but only after the storage there is forgotten.
        self._held: dict[int, _Held] = {}
        for kind, tensors in (known or {}).items():
            for tensor in tensors:
                self._note(tensor, kind, new=False)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; torch's guard against it would cost as much as the counting.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **kwargs) if kwargs else func(*args)
        if _makes_storages(func):
            self._note_all(result)
        return result

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop to count; storages that live on are not watched any more."""
        super().__exit__(kind, error, traceback)
        self._held.clear()

    def move(self, tensor: Tensor, kind: int) -> None:
        """Count a tensor's storage as another kind from now on, if it is counted at all."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        if held is not None:
            self._live[held.kind] -= held.size
            self._live[kind] += held.size
            held.kind = kind

    def _note_all(self, result: Any) -> None:
        if isinstance(result, Tensor):
            self._note(result, self.kind, new=True)
        elif isinstance(result, tuple | list):
            for part in result:
                self._note_all(part)

    def _note(self, tensor: Tensor, kind: int, new: bool) -> None:
        if tensor.device != CPU or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._held:
            return
        # A storage that cannot be resized borrows its memory, from numpy for one.
        size = storage.nbytes() if storage.resizable() or not new else 0
        held = _Held(storage, self._forget)
        held.address, held.size, held.kind, held.new = address, size, kind, new
        self._held[address] = held
        self._live[kind] += size
        self._now += size
        if new:
            self._new += size
            if self._new > self.peak:
                self.peak = self._new
        if self._now > self.total:
            self.total = self._now
            self.parts = self._live.copy()

    def _forget(self, held: _Held) -> None:
        del self._held[held.address]
        self._live[held.kind] -= held.size
        self._now -= held.size
        if held.new:
            self._new -= held.size


class _Held(weakref.ref[torch.UntypedStorage]):
    """A storage that is alive, and how it was counted."""

    __slots__ = ("address", "kind", "new", "size")
    address: int
    size: int
    kind: int
    new: bool


@cache
def _makes_storages(func: Any) -> bool:
    """Whether the results of an operation are new: no view of an argument, and no argument."""
    if func is torch.ops.aten.lift_fresh.default:
        return True  # torch.tensor(...) hands its copy over so: a view of what nobody saw yet
    if func is torch.ops.aten._unsafe_view.default:
        return False  # a view that its schema does not tell of
    return any(returned.alias_info is None for returned in func._schema.returns)
