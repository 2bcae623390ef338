"""What was used last, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar


class Sized(Protocol):
    """Something that knows its size in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


Value = TypeVar("Value", bound=Sized)


class Cache:
    """Least recently used values go first; a value larger than the limit is not kept.

    Args:
        limit: bytes that all values together may take.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._values: OrderedDict[Hashable, Sized] = OrderedDict()

    def __reduce__(self) -> tuple[type[Cache], tuple[int]]:
        """Sent to another process, it is empty."""
        return Cache, (self.limit,)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value kept under a key, or a new one."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]  # type: ignore[return-value]  # a key has one type
        value = make()
        size = value.nbytes
        if size <= self.limit:
            self.nbytes += size
            while self.nbytes > self.limit:
                self.nbytes -= self._values.popitem(last=False)[1].nbytes
            self._values[key] = value
        return value
