"""Starting a run again when it was killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence


def supervise(
    command: Sequence[str], again: Sequence[str], restarts: int, say: Callable[[str], None]
) -> int:
    """Run a command and, when a signal kills it, another one; returns the last exit status.

    Ctrl-C and SIGTERM are the commands' business: they end the supervision.

    Args:
        command: the program and its arguments.
        again: what to run instead of it from the second time on.
        restarts: how often at most.
        say: is told of every restart.
    """
    for left in range(restarts, -1, -1):
        status, asked = _run(command)
        if status >= 0 or asked or not left:
            return status
        name = signal.Signals(-status).name
        say(f"the run was ended by {name}; it goes on from its last checkpoint")
        command = again
    return status


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Exit status, negative for a signal, and whether the user asked for the end."""
    asked = False
    process = subprocess.Popen(command)

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        if number == signal.SIGTERM:  # Ctrl-C reaches the whole group by itself
            process.terminate()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, pass_on) for number in signals]
    try:
        return process.wait(), asked
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
