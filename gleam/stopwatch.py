"""Wall time of the phases of a training step, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, TypedDict

import torch

Phase = Literal["forward", "backward", "update"]


class Seconds(TypedDict):
    """Wall time of one training step [s], by phase."""

    forward_seconds: float
    backward_seconds: float
    update_seconds: float


class Stopwatch:
    """Adds up how long every phase of a training step takes.

    A step is always in one phase: "forward" unless another one was entered. On a CPU the clock is
    read where a phase changes. On CUDA, where kernels run after the call that starts them, events
    go into the current stream there and are read by :meth:`seconds`.
    """

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._phase: Phase = "forward"
        self._marks: list[tuple[Phase, float, torch.cuda.Event | None]] = []

    def start(self, device: torch.device) -> None:
        """Begin a step on a device, in the phase "forward"."""
        self._device = device
        self._marks.clear()
        self._enter("forward")

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """The block belongs to a phase; what follows to the one that it interrupted."""
        interrupted = self._phase
        self._enter(name)
        yield
        self._enter(interrupted)

    def seconds(self) -> Seconds:
        """Time of every phase between the start and the end of the last block.

        On CUDA the stream must have been synchronised since, as by a loss brought to the host.
        """
        total: dict[Phase, float] = {"forward": 0.0, "backward": 0.0, "update": 0.0}
        for (phase, begin, first), (_, end, second) in pairwise(self._marks):
            if first is None or second is None:
                total[phase] += end - begin
            else:
                total[phase] += first.elapsed_time(second) / 1000
        return {
            "forward_seconds": round(total["forward"], 6),
            "backward_seconds": round(total["backward"], 6),
            "update_seconds": round(total["update"], 6),
        }

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        event = None
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
        self._marks.append((phase, time.perf_counter(), event))
