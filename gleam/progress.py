"""What a person sees while a network trains."""

from __future__ import annotations

import time
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gleam.memory import process_peak_rss
from gleam.strategies import Iteration

LINE_SECONDS = 10.0
SHOWN_LOSSES = 8  # of more modules the first and the last
SHOWN_WAIT = 0.1  # share of the time; workers or a cache would help


class Display:
    """A progress bar on a terminal, a line every ten seconds elsewhere, or nothing.

    Args:
        total: iterations of the run.
        first: iterations done before.
        device: whose peak memory is shown.
        quiet: show nothing.
    """

    def __init__(self, total: int, first: int, device: torch.device, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, soft_wrap=True, markup=False)
        self._total, self._first, self._device = total, first, device
        self._start = self._line = time.monotonic()
        self._psnr = float("nan")
        self._waited = 0.0
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
            speed_estimate_period=600,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, completed=first, facts="")

    def __enter__(self) -> Display:
        """Start."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        self._console.print(text, highlight=False)

    def validated(self, psnr: float) -> None:
        """Show a validation PSNR [dB] from now on."""
        self._psnr = psnr

    def advance(self, iteration: int, result: Iteration) -> None:
        """Show the result of an iteration, counted from one."""
        self._waited += result["data_seconds"]
        facts = self._facts(iteration, result)
        self._bar.update(self._task, completed=iteration, facts=facts)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._line >= LINE_SECONDS:
            self._line = now
            self.say(f"{iteration}/{self._total}  {facts}  {self._time_left(iteration, now)}")

    def _facts(self, iteration: int, result: Iteration) -> str:
        losses = [f"{loss:.3g}" for loss in result["module_losses"]]
        shown = losses if len(losses) <= SHOWN_LOSSES else [losses[0], "…", losses[-1]]
        passed = max(1e-9, time.monotonic() - self._start)
        facts = [
            f"loss {' '.join(shown)}",
            f"PSNR {self._psnr:.2f} dB",
            f"{(iteration - self._first) / passed:.2f} it/s",
            self._memory(),
        ]
        if self._waited > SHOWN_WAIT * passed:
            facts.append(f"{self._waited / passed:.0%} waiting for data")
        if "idle" in result:
            facts.append(_workers(result))
        return "  ".join(facts)

    def _memory(self) -> str:
        if self._device.type == "cuda":
            return f"GPU peak {torch.cuda.max_memory_allocated(self._device) / 1e9:.2f} GB"
        return f"process peak {process_peak_rss() / 1e9:.2f} GB"

    def _time_left(self, iteration: int, now: float) -> str:
        seconds = (now - self._start) / (iteration - self._first) * (self._total - iteration)
        return f"{seconds / 60:.1f} min left"


def _workers(result: Iteration) -> str:
    """Of every worker: iterations a second if it never waited, idle share, batches waiting."""
    shown = zip(result["worker_seconds"], result["idle"], result["queues"], strict=True)
    return "workers " + " | ".join(
        f"{1 / max(1e-9, seconds):.2f} it/s, idle {idle:.0%}, queue {queue}"
        for seconds, idle, queue in shown
    )
