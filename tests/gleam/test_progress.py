"""What a person sees while a network trains, on a terminal and elsewhere."""

import io
import re
import time

import pytest
import torch
from rich.console import Console

import gleam.progress
from gleam.progress import Display


def result(*losses: float) -> dict:
    norms = [1.0] * len(losses)
    losses_of = {"loss": losses[-1], "module_losses": list(losses), "gradient_norms": norms}
    return {**losses_of, "data_seconds": 0.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed, in a list to be changed."""
    now = [100.0]
    monkeypatch.setattr(gleam.progress.time, "monotonic", lambda: now[0])
    return now


def display(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, first: int = 0, quiet: bool = False
) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()

    def console(**settings) -> Console:
        return Console(file=stream, force_terminal=terminal, width=160, **settings)

    monkeypatch.setattr(gleam.progress, "Console", console)
    return Display(1000, first, torch.device("cpu"), quiet), stream


def test_elsewhere_a_line_shows_losses_quality_speed_memory_and_time_left(monkeypatch, clock):
    shown, stream = display(monkeypatch, terminal=False)
    with shown:
        shown.validated(31.256)
        clock[0] += 20
        shown.advance(100, result(0.123456, 0.0456))
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("100/1000  loss 0.123 0.0456  PSNR 31.26 dB  5.00 it/s  process peak ")
    assert re.search(r"process peak \d+\.\d\d GB  3\.0 min left$", line)


def test_elsewhere_a_line_comes_every_ten_seconds(monkeypatch, clock):
    shown, stream = display(monkeypatch, terminal=False)
    with shown:
        for iteration in range(1, 101):
            clock[0] += 0.5
            shown.advance(iteration, result(0.1))
    iterations = [int(line.partition("/")[0]) for line in stream.getvalue().splitlines()]
    assert iterations == [20, 40, 60, 80, 100]


def test_a_resumed_run_measures_its_own_speed(monkeypatch, clock):
    shown, stream = display(monkeypatch, terminal=False, first=900)
    with shown:
        clock[0] += 10
        shown.advance(910, result(0.1))
    assert "910/1000" in stream.getvalue()
    assert "1.00 it/s" in stream.getvalue()
    assert "1.5 min left" in stream.getvalue()


def test_many_modules_are_shown_by_the_first_and_the_last(monkeypatch, clock):
    shown, stream = display(monkeypatch, terminal=False)
    with shown:
        clock[0] += 10
        shown.advance(1, result(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1))
    assert "loss 0.9 … 0.1  PSNR" in stream.getvalue()


def test_every_worker_is_shown_with_its_speed_idle_share_and_queue(monkeypatch, clock):
    shown, stream = display(monkeypatch, terminal=False)
    workers = {"worker_seconds": [0.5, 0.25], "idle": [0.0, 0.5], "queues": [2, 1]}
    with shown:
        clock[0] += 10
        shown.advance(1, {**result(0.9), **workers})
    line = "workers 2.00 it/s, idle 0%, queue 2 | 4.00 it/s, idle 50%, queue 1"
    assert line in stream.getvalue().replace("\n", "")


def test_on_a_terminal_a_bar_shows_the_same(monkeypatch):
    shown, stream = display(monkeypatch, terminal=True)
    with shown:
        shown.validated(31.256)
        for iteration in (50, 150, 250):
            time.sleep(0.01)
            shown.advance(iteration, result(0.123456, 0.0456))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for part in ("training", "250/1000", "loss 0.123 0.0456", "PSNR 31.26 dB", "it/s", "GB"):
        assert part in text
    assert re.search(r"\d:\d\d:\d\d", text)  # time left


def test_messages_are_printed_as_they_are(monkeypatch):
    for terminal in (True, False):
        shown, stream = display(monkeypatch, terminal=terminal)
        with shown:
            shown.say("stopped after iteration 5; see runs/[old]/last.pt")
        assert "see runs/[old]/last.pt" in stream.getvalue()


def test_quiet_shows_nothing(monkeypatch, clock):
    for terminal in (True, False):
        shown, stream = display(monkeypatch, terminal=terminal, quiet=True)
        with shown:
            shown.say("stopped")
            clock[0] += 100
            shown.advance(1, result(0.5))
        assert stream.getvalue() == ""
