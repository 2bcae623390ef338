"""Forward, backward and update are timed apart, and waiting for data is shown."""

import io
import json
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.optim import SGD

import gleam.progress
import gleam.stopwatch
from gleam.losses import complex_l1
from gleam.progress import Display
from gleam.stopwatch import Stopwatch
from gleam.strategies import STRATEGIES, NonFiniteError, Strategy
from tests.gleam import tiny
from tests.helpers import make_batch, make_network

CPU = torch.device("cpu")
PHASES = ("forward", "backward", "update")


class Clock:
    """Stands still unless something takes time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def take(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gleam.stopwatch, "time", clock)
    return clock


def seconds(result) -> tuple[float, ...]:
    return tuple(result[f"{phase}_seconds"] for phase in PHASES)


def test_phases_add_up_and_what_is_left_is_forward(clock):
    watch = Stopwatch()
    watch.start(CPU)
    clock.take(1)
    for _ in range(2):
        with watch.phase("backward"):
            clock.take(10)
        clock.take(2)
        with watch.phase("update"):
            clock.take(100)
    clock.take(5000)  # behind the last block
    assert seconds(watch.seconds()) == (5, 20, 200)


def test_a_block_within_a_block_interrupts_it(clock):
    watch = Stopwatch()
    watch.start(CPU)
    with watch.phase("backward"):
        clock.take(1)
        with watch.phase("update"):
            clock.take(10)
        clock.take(2)
    assert seconds(watch.seconds()) == (0, 3, 10)


def test_a_new_start_forgets_a_step_that_failed(clock):
    watch = Stopwatch()
    watch.start(CPU)
    with pytest.raises(ZeroDivisionError), watch.phase("backward"):
        clock.take(10 / 0)
    watch.start(CPU)
    clock.take(1)
    with watch.phase("update"):
        clock.take(2)
    assert seconds(watch.seconds()) == (1, 0, 2)


def timed(name: str, clock: Clock, modules: int = 1, steps: int = 4) -> Strategy:
    """A step takes 1 s forward and 10 s backward, a loss 0.1 s, an update 100 s."""
    network = make_network(steps=steps)
    plain = network.step

    def step(*arguments):
        clock.take(1)
        return plain(*arguments)

    def loss(*arguments):
        clock.take(0.1)
        return complex_l1(*arguments)

    network.step = step
    for layer in network.steps:
        layer.step_size.register_hook(lambda _: clock.take(10))
    strategy = STRATEGIES[name](network, loss, partial(SGD, lr=0.1), modules=modules)
    for module in strategy.modules:
        module.optimizer.register_step_pre_hook(lambda *_: clock.take(100))
    return strategy


@pytest.mark.parametrize(
    ("name", "modules", "wanted"),
    [
        ("backprop", 1, (4.1, 40, 100)),
        ("offload", 1, (4.1, 40, 100)),
        ("checkpoint", 1, (4.1, 44, 100)),  # every step runs forward once more
        ("greedy", 1, (4.1, 40, 100)),
        ("greedy", 2, (4.2, 40, 200)),
        ("greedy", 4, (4.4, 40, 400)),
    ],
)
def test_every_strategy_times_its_phases(name, modules, wanted, clock):
    strategy = timed(name, clock, modules)
    for _ in range(2):
        clock.take(7)  # between the steps
        result = strategy.train_step(make_batch(6, 5))
        assert seconds(result) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["backprop", "greedy"])
def test_accumulated_batches_add_up(name, clock):
    strategy = timed(name, clock)
    result = strategy.train_step(*(make_batch(6, 5, seed=seed) for seed in (0, 10, 20)))
    assert seconds(result) == pytest.approx((12.3, 120, 100))


def test_a_step_after_one_that_was_not_finite_is_timed_afresh(clock):
    strategy = timed("backprop", clock)
    weight = strategy.network.steps[0].step_size.data
    weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        strategy.train_step(make_batch(6, 5))
    for parameter in strategy.network.parameters():
        nn.init.constant_(parameter, 0.1)
    assert seconds(strategy.train_step(make_batch(6, 5))) == pytest.approx((4.1, 40, 100))


@pytest.mark.parametrize("name", ["backprop", "checkpoint", "greedy"])
def test_the_phases_make_up_the_step_on_a_true_clock(name):
    network = make_network(features=16)
    strategy = STRATEGIES[name](network, complex_l1, partial(SGD, lr=0.1))
    batch = make_batch(48, 48)
    strategy.train_step(batch)
    start = time.perf_counter()
    result = strategy.train_step(batch)
    whole = time.perf_counter() - start
    assert all(value > 0 for value in seconds(result))
    assert 0.5 * whole < sum(seconds(result)) <= whole + 2e-6


class Event:
    """Of a device on which one millisecond passes between two events."""

    count = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: str) -> None:
        assert stream == "the stream of cuda:0"
        Event.count += 1
        self.at = Event.count

    def elapsed_time(self, other: "Event") -> float:
        return float(other.at - self.at)


def test_on_cuda_events_are_read_and_nothing_is_synchronised(monkeypatch, clock):
    def never(*_):
        raise AssertionError("the clock waited for the device")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", never)
    watch = Stopwatch()
    watch.start(torch.device("cuda", 0))
    for _ in range(3):
        with watch.phase("backward"):
            clock.take(10)
    with watch.phase("update"):
        clock.take(10)
    # Events: the start, three times both ends of backward, both ends of update.
    assert seconds(watch.seconds()) == pytest.approx((0.004, 0.003, 0.001))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_phases_make_up_the_step_on_cuda():
    strategy = STRATEGIES["greedy"](
        make_network(features=32).cuda(), complex_l1, partial(SGD, lr=0.1), modules=2
    )
    batch = make_batch(256, 256).to("cuda")
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = strategy.train_step(batch)
        whole = time.perf_counter() - start
    assert all(value > 0 for value in seconds(result))
    assert 0.5 * whole < sum(seconds(result)) < 1.05 * whole


def test_a_run_writes_its_times(tmp_path: Path):
    tiny.train(tmp_path, **{"training.iterations": 2})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, second = (line for line in lines if "loss" in line)
    for line in (first, second):
        assert set(tiny.TIMES) <= line.keys()
        assert all(line[name] > 0 for name in tiny.TIMES)
        assert sum(seconds(line)) <= line["step_seconds"] + 3e-6


@pytest.mark.parametrize(("waited", "shown"), [(0.9, None), (1.1, "11%"), (4.0, "40%")])
def test_waiting_for_data_is_shown_if_it_takes_more_than_a_tenth(monkeypatch, waited, shown):
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(gleam.progress.time, "monotonic", lambda: now[0])
    console = partial(Console, file=stream, force_terminal=False, width=160)
    monkeypatch.setattr(gleam.progress, "Console", console)
    losses = {"loss": 0.1, "module_losses": [0.1], "gradient_norms": [1.0]}
    with Display(100, 0, CPU) as display:
        for iteration in (1, 2):
            now[0] += 10
            display.advance(iteration, {**losses, "data_seconds": waited})
    last = stream.getvalue().splitlines()[-1]
    assert ("waiting for data" in last) == (shown is not None)
    if shown:
        assert f"GB  {shown} waiting for data  " in last
