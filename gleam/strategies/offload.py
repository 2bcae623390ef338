"""Backpropagation whose stored activations wait in host memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gleam.batch import Batch
from gleam.strategies.end_to_end import Backprop
from gleam.strategies.modules import Network

WINDOW = 2  # copies under way; the bus is the limit, so that more cost memory and gain nothing
SMALLEST = 2**20  # bytes; what is smaller takes longer to send for than to keep


class Offload(Backprop):
    """Backpropagation with the stored activations in host memory (vDNN, arXiv 1602.08124).

    On CUDA, what a forward pass stores is copied to pinned memory while it computes on, and copied
    back ahead of the backward pass. The device holds what the operation at work needs and the
    copies under way. Parameters, the batch and small tensors stay. The gradients are those of
    :class:`Backprop`, bit for bit. The host needs room for all activations, up to twice their
    size: torch rounds pinned memory up to powers of two.

    On a CPU activations are in host memory anyway, and this is :class:`Backprop`.
    """

    @cached_property
    def _lane(self) -> Lane:
        return Lane(self.modules[0].trainable[0].device)

    def storing(self, batch: Batch) -> AbstractContextManager[object]:
        """See :meth:`Backprop.storing`."""
        return nullcontext() if self._lane.device.type == "cpu" else self.offloading(batch)

    @contextmanager
    def offloading(
        self, batch: Batch, window: int = WINDOW, smallest: int = SMALLEST
    ) -> Iterator[None]:
        """Keep what the block stores on the host; see :class:`HostStore`."""
        store = HostStore(self._lane, lasting(self.network, batch), window, smallest)
        with saved_tensors_hooks(store.pack, store.unpack):
            try:
                yield
            finally:
                store.finish()


def lasting(network: Network, batch: Batch) -> Iterator[Tensor]:
    """Tensors that stay on the device whatever a strategy does: of the network and the batch."""
    yield from network.parameters()
    yield from (network if isinstance(network, nn.Module) else network.steps).buffers()
    yield batch.zero_filled
    for owner in (batch, batch.operator):
        yield from (value for value in vars(owner).values() if isinstance(value, Tensor))


def address(tensor: Tensor) -> int:
    """What tells a tensor's storage from all others alive."""
    return tensor.untyped_storage()._cdata


class Lane:
    """Copies between a device and pinned host memory, beside the computation on that device.

    All copies run one after the other in a stream of their own, so that what was sent is complete
    before it is fetched. On a CPU, where there is no other memory, a copy is made at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def room(self, size: int) -> Tensor:
        """So many bytes on the host."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._stream is not None)

    def copy(self, source: Tensor, target: Tensor) -> torch.cuda.Event | None:
        """Copy behind what the computation has to do so far; returns what to wait for.

        Whoever calls keeps source and target until then. The caching allocator gives memory of the
        computation's stream only to that stream, so that nothing else need be told.
        """
        if self._stream is None:
            target.copy_(source)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Let the computation, not the caller, wait for a copy."""
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)


@dataclass(eq=False)
class _Storage:
    """All bytes of a tensor's storage, on the host and for a time on the device as well."""

    number: int
    version: int
    host: Tensor
    device: Tensor | None
    copied: torch.cuda.Event | None = None


@dataclass(eq=False)
class _Saved:
    """A tensor that autograd stored.

    Attributes:
        tensor: it, or if its storage went to the host an empty one with the same version counter.
        version: the count of its changes in place when it was stored.
        storage: what went to the host.
        layout: offset, shape and strides within that.
    """

    tensor: Tensor
    version: int
    storage: _Storage | None = None
    layout: tuple[int, torch.Size, tuple[int, ...]] | None = None


class HostStore:
    """Hooks for autograd that keep stored tensors on the host.

    Goes by whole storages, so that views, strides and data types come back as they were and a
    storage of which several tensors are stored in a row is copied once. The number of copies on
    the way out is limited: the computation waits for the oldest. Fetching a storage also fetches
    those sent just before it, which the backward pass needs next.

    Autograd does not look after what its hooks return, so changes in place are checked here.

    Args:
        lane: makes the copies.
        lasting: tensors whose storages stay where they are.
        window: copies under way, in either direction.
        smallest: storages with fewer bytes stay.
    """

    def __init__(
        self,
        lane: Lane,
        lasting: Iterable[Tensor],
        window: int,
        smallest: int,
    ) -> None:
        self._lane = lane
        self._lasting = {address(tensor) for tensor in lasting}
        self._window = window
        self._smallest = smallest
        self._sent: list[weakref.ref[_Storage]] = []  # autograd decides how long they live
        self._under_way: list[_Storage] = []  # copies the computation has not waited for

    def pack(self, tensor: Tensor) -> _Saved:
        """Take over a tensor that autograd stores."""
        # Detached: with its history, an operation's output would keep that operation alive.
        saved = _Saved(tensor.detach(), tensor._version)
        if self._stays(tensor):
            return saved
        saved.storage = self._find(tensor) or self._send(tensor)
        saved.layout = (int(tensor.storage_offset()), tensor.shape, tensor.stride())
        saved.tensor.data = saved.tensor.new_empty(0)
        return saved

    def unpack(self, saved: _Saved) -> Tensor:
        """Give a tensor back.

        Raises:
            RuntimeError: if it was changed in place since, as autograd would itself.
        """
        if saved.tensor._version != saved.version:
            raise RuntimeError(
                "a tensor needed for the backward pass was changed by an operation in place after "
                f"it was stored: it is at version {saved.tensor._version}, expected "
                f"{saved.version}; use the operation that returns a new tensor"
            )
        if saved.storage is None or saved.layout is None:
            return saved.tensor
        data = self._fetch(saved.storage)
        offset, shape, strides = saved.layout
        return saved.tensor.new_empty(0).set_(data.untyped_storage(), offset, shape, strides)

    def finish(self) -> None:
        """Let the computation wait for all copies, after which their memory is free."""
        for storage in self._under_way:
            self._lane.wait(storage.copied)
        self._under_way.clear()

    def _stays(self, tensor: Tensor) -> bool:
        if tensor.device != self._lane.device or tensor.layout is not torch.strided:
            return True
        lazy = tensor.is_conj() or tensor.is_neg()  # a view that its bytes do not tell all about
        small = tensor.untyped_storage().nbytes() < self._smallest
        return lazy or small or address(tensor) in self._lasting

    def _find(self, tensor: Tensor) -> _Storage | None:
        """The copy of a tensor's storage if it is still under way.

        Later its address may belong to another tensor.
        """
        for storage in self._under_way:
            same = storage.device is not None and address(storage.device) == address(tensor)
            if same and storage.version == tensor._version:
                return storage
        return None

    def _send(self, tensor: Tensor) -> _Storage:
        source = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        source.set_(tensor.untyped_storage())
        storage = _Storage(
            len(self._sent), tensor._version, self._lane.room(source.numel()), source
        )
        storage.copied = self._lane.copy(source, storage.host)
        self._sent.append(weakref.ref(storage))
        self._under_way.append(storage)
        if len(self._under_way) > self._window:
            oldest = self._under_way.pop(0)
            self._lane.wait(oldest.copied)
            oldest.device = None
        return storage

    def _fetch(self, storage: _Storage) -> Tensor:
        data = self._bring(storage)
        first = max(0, storage.number - self._window)
        for reference in reversed(self._sent[first : storage.number]):
            if (earlier := reference()) is not None:
                self._bring(earlier)
        if storage in self._under_way:
            self._under_way.remove(storage)
            self._lane.wait(storage.copied)
        return data

    def _bring(self, storage: _Storage) -> Tensor:
        if storage.device is None:
            storage.device = torch.empty_like(storage.host, device=self._lane.device)
            storage.copied = self._lane.copy(storage.host, storage.device)
            self._under_way.append(storage)
        return storage.device
