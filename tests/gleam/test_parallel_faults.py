"""Workers and drivers that die, hang or fail: the same weights in the end, and nothing left over.

Twenty processes are killed in all: fifteen workers under the strategy alone, three under the
trainer, and two drivers.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

import gleam.strategies.parallel
import gleam.trainer
from gleam.config import dump_config
from gleam.parallel.worker import WorkerError
from gleam.progress import Display
from gleam.strategies import GreedyParallel, NonFiniteError, OutOfReachError
from tests.gleam import tiny
from tests.gleam.ray_session import (
    AGENTS,
    PARALLEL,
    ROOT,
    STARTING,
    Batches,
    Eventful,
    HangsOnce,
    abandoned_memory,
    assert_gone,
    assert_same_run,
    below,
    end_process,
    fail_on_purpose,
    live,
    mixed_network,
    parallel,
    serial,
    spoil,
    state_of,
    told,
    wait_until,
    workers_alive,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

LOST = re.compile(r"a worker was lost \(.+\); all start again after iteration (\d+)", re.DOTALL)


@pytest.fixture(autouse=True)
def _nothing_is_left_over() -> Iterator[None]:
    """No worker, and no shared memory."""
    before = abandoned_memory()
    yield
    assert wait_until(lambda: not workers_alive(), 15), workers_alive()
    assert wait_until(lambda: abandoned_memory() <= before, 15), abandoned_memory()


def kill_workers(count: int, random: Random, ended: Container[int] = ()) -> int:
    """Kill so many at once, as soon as they are there, but none that ended; returns how many."""
    while len(alive := [pid for pid in workers_alive() if pid not in ended]) < count:
        time.sleep(0.05)
    for victim in random.sample(alive, count):
        os.kill(victim, signal.SIGKILL)
    return count


# Under the trainer. First, for what killed drivers leave behind takes a minute to go.

CHANGES: dict[str, Any] = {
    "network": {"step": "modl"},
    "data": {"mask": {"acceleration": [2, 2.5]}, "workers": 1},
    "training": {
        "iterations": 40,
        "schedule": "cosine",
        "batch_size": 2,
        "accumulate": 2,
        "clip": 0.5,
        "weight_decay": 1e-4,
        "validate_every": 9,
        "save_every": 4,
    },
}
# Slowed down, so that signals arrive somewhere in the middle.
SCRIPT = """
import json, sys, time
import torch
torch.set_num_threads(1)
import gleam, gleam.trainer
step = gleam.trainer._Trainer.step
def slow_step(self, *arguments):
    time.sleep(0.02)
    return step(self, *arguments)
gleam.trainer._Trainer.step = slow_step
result = gleam.train(json.loads(sys.argv[1]), resume=True)
print("finished", result.finished, flush=True)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The serial run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("serial") / "run"
    return tiny.train(folder, **CHANGES, strategy="greedy").folder


def start(folder: Path) -> subprocess.Popen[str]:
    """A parallel run in a process group of its own, as a shell starts it."""
    config = json.dumps(dump_config(tiny.settings(folder, **CHANGES, strategy=PARALLEL)))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(folder: Path, iterations: int, process: subprocess.Popen[str]) -> None:
    """Return once so many lines are in the metrics."""
    metrics = folder / "metrics.jsonl"
    wait_until(
        lambda: (
            process.poll() is not None
            or (metrics.exists() and len(metrics.read_text().splitlines()) >= iterations)
        ),
        120,
    )
    if process.poll() is not None:
        pytest.fail(f"the run ended before: {process.communicate()[0]}")


@pytest.fixture(scope="module")
def killed() -> Iterator[dict[int, str]]:
    """Processes of drivers that were killed; none is there when all tests are done."""
    processes: dict[int, str] = {}
    yield processes
    assert wait_until(lambda: not processes.keys() & live().keys(), 75)


def finish(folder: Path, whole: Path, strategy: Any) -> None:
    result = tiny.train(folder, **CHANGES, strategy=strategy, resume=True)
    assert result.finished
    assert_same_run(folder, whole)
    assert not list(folder.glob("**/*.partial"))


def test_a_driver_may_be_killed_at_any_moment(
    ray_session, killed: dict[int, str], tmp_path: Path, whole: Path
):
    random = Random(3)
    for lines, longest in ((0, 8.0), (14, 0.2)):  # 0: while Ray and workers start
        process = start(tmp_path)
        wait_for(tmp_path, lines, process)
        time.sleep(random.uniform(0, longest))
        processes = below(process.pid)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert_gone(processes, process.pid, but=AGENTS + STARTING)
        killed |= processes
    finish(tmp_path, whole, PARALLEL)


def test_ctrl_c_ends_a_run_with_a_message_and_a_checkpoint(
    ray_session, tmp_path: Path, whole: Path
):
    process = start(tmp_path)
    wait_for(tmp_path, 10, process)
    processes = below(process.pid)
    assert any("ray::Worker" in name for name in processes.values())
    pressed = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # all in the foreground hear it
    output = process.communicate(timeout=60)[0]
    print(f"ended {time.monotonic() - pressed:.1f} s after Ctrl-C")
    assert process.returncode == 0, output
    assert time.monotonic() - pressed < 30  # 5 on a machine that does nothing else
    stopped = tiny.state(tmp_path / "last.pt")["iteration"]
    assert 9 <= stopped < 40
    assert f"stopped after iteration {stopped}; go on with --resume" in output
    assert "finished False" in output
    assert "Traceback" not in output
    assert tiny.records(tmp_path)[-1]["iteration"] == stopped
    assert_gone(processes, process.pid)
    finish(tmp_path, whole, "greedy")


def test_a_run_of_the_trainer_survives_its_workers(
    ray_session, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    step, counts, random = gleam.trainer._Trainer.step, {7: 1, 23: 2}, Random(4)
    losses: list[tuple[int, int]] = []

    def step_and_kill(self, *arguments):
        if count := counts.pop(self.iteration, 0):
            kill_workers(count, random)
        return step(self, *arguments)

    def hear(self, text: str) -> None:
        if found := LOST.fullmatch(text):
            done = sum("loss" in record for record in tiny.records(tmp_path))
            losses.append((done, int(found[1])))

    monkeypatch.setattr(gleam.trainer._Trainer, "step", step_and_kill)
    monkeypatch.setattr(Display, "say", hear)
    finish(tmp_path, whole, {**PARALLEL, "timeline": True})
    assert json.loads((tmp_path / "timeline.json").read_text())
    assert not counts
    assert len(losses) == 2
    for done, back in losses:
        assert back == max(done - done % 4, done - done % 9)  # saved and validated


# The strategy alone

ITERATIONS = 40
KEEP = 4


def keeps(iteration: int) -> bool:
    return iteration % KEEP == 0


@pytest.fixture(scope="module")
def expected() -> tuple[list[Any], Any]:
    """What serial training reports, and its state in the end."""
    strategy = serial()
    reports = [told(result) for result in strategy.train(Batches(), 0, ITERATIONS, keeps)]
    return reports, state_of(strategy)


class Watched:
    """Parallel training that notes every loss of a worker, and how many iterations it came after.

    Args:
        strategy: to be closed by the caller.
    """

    def __init__(self, strategy: GreedyParallel) -> None:
        self.strategy = strategy
        self.reports: list[Any] = []
        self.losses: list[tuple[int, int]] = []  # iterations done, iteration gone back to
        self.lost: Callable[[], None] = lambda: None
        strategy.notice = self._hear

    def _hear(self, text: str) -> None:
        if found := LOST.fullmatch(text):
            self.losses.append((len(self.reports), int(found[1])))
            self.lost()

    def train(self, feed: Batches | None = None) -> Iterator[int]:
        """Yields how many iterations are done."""
        for result in self.strategy.train(feed or Batches(), 0, ITERATIONS, keeps):
            self.reports.append(told(result))
            yield len(self.reports)

    def check(self, expected: tuple[list[Any], Any]) -> None:
        """It went back as little as possible, and ended as serial training does."""
        assert self.losses
        for done, back in self.losses:
            assert back == done - done % KEEP
        assert self.reports == expected[0]
        assert tiny.equal(state_of(self.strategy), expected[1])


class Killer:
    """Kills workers, one attack after the other, each once the one before was noticed.

    Half the attacks come at any moment of some iteration; the others while workers start again
    after the one before, or soon after that.

    Args:
        seed: of the moments and victims.
        counts: of the workers killed at once, for every attack.
    """

    LAST = 30  # iteration that attacks begin in, so that the last one is noticed too

    def __init__(self, seed: int, counts: Sequence[int]) -> None:
        self.killed = 0
        self._ended: set[int] = set()
        self._random = Random(seed)
        self._counts = counts
        moments = sorted(self._random.sample(range(1, self.LAST), len(counts)))
        self._moments = [None if n % 2 else m for n, m in enumerate(moments)]
        self._thread = ThreadPoolExecutor(1)
        self._attacks: list[Future[None]] = []

    def watch(self, done: int, noticed: int) -> None:
        """Is told how many iterations are done, and attacks noticed."""
        number = len(self._attacks)
        if number == noticed < len(self._counts) and done >= (self._moments[number] or ITERATIONS):
            self._begin(self._random.uniform(0, 0.05))
        if done == self.LAST + 2 and self._attacks:
            self._attacks[-1].result()

    def lost(self) -> None:
        """Workers start again, when the others of the crew have been told to end."""
        self._ended.update(workers_alive())
        number = len(self._attacks)
        if number < len(self._counts) and self._moments[number] is None:
            self._begin(self._random.uniform(0, 4))

    def close(self) -> None:
        self._thread.shutdown()

    def _begin(self, delay: float) -> None:
        count = self._counts[len(self._attacks)]
        self._attacks.append(self._thread.submit(self._attack, count, delay))

    def _attack(self, count: int, delay: float) -> None:
        time.sleep(delay)
        self.killed += kill_workers(count, self._random, self._ended)


def test_workers_may_be_killed_at_any_moment(ray_session, expected, tmp_path: Path):
    counts = (1, 2, 2, 2, 2, 2, 2, 2)
    network = mixed_network()
    # Slow, so that there is something to be in the middle of.
    network.steps[1] = Eventful(network.steps[1], tmp_path / "calls", seconds=0.01)
    watched = Watched(parallel(network))
    with closing(Killer(1, counts)) as killer, closing(watched.strategy):
        watched.lost = killer.lost
        for done in watched.train():
            killer.watch(done, len(watched.losses))
        watched.check(expected)
    assert len(watched.losses) == len(counts)
    assert killer.killed == sum(counts)


def test_a_worker_that_hangs_is_replaced(ray_session, expected):
    watched = Watched(parallel(timeout=3))
    with closing(watched.strategy):
        for done in watched.train():
            if done == 10 and not watched.losses:
                os.kill(workers_alive()[0], signal.SIGSTOP)
        watched.check(expected)
    assert len(watched.losses) == 1


def test_data_that_hang_while_modules_are_timed_are_survived(ray_session, expected, tmp_path: Path):
    watched = Watched(parallel(costs=None, timeout=8))  # in which modules can be timed elsewhere
    with closing(watched.strategy):
        for _ in watched.train(HangsOnce(asked=tmp_path / "asked")):
            pass
        watched.check(expected)
    assert watched.losses == [(0, 0)]


def test_workers_that_always_die_end_the_run_with_the_reason(
    ray_session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gleam.strategies.parallel, "ATTEMPTS", 1)
    network = mixed_network()
    for at in (3, 5):  # both times in the third iteration
        network.steps[0] = Eventful(network.steps[0], tmp_path / f"calls{at}", at, end_process)
    watched = Watched(parallel(network, workers=1))
    with (
        closing(watched.strategy),
        pytest.raises(
            OutOfReachError, match="2 times without getting beyond iteration 2, the last"
        ),
    ):
        for _ in watched.train():
            pass
    assert watched.losses == [(2, 0)]


def test_an_error_in_a_worker_comes_with_module_iteration_and_traceback(
    ray_session, expected, tmp_path: Path
):
    network = mixed_network()
    network.steps[2] = Eventful(network.steps[2], tmp_path / "calls", 5, fail_on_purpose)
    watched = Watched(parallel(network))
    with closing(watched.strategy), pytest.raises(WorkerError) as caught:
        for _ in watched.train():
            pass
    message = str(caught.value)
    assert message.startswith("module 2, iteration 5, failed:")
    assert "ZeroDivisionError: a defect of the step" in message
    assert "in fail_on_purpose" in message  # the traceback
    assert watched.reports == expected[0][:4]
    assert watched.losses == []


def test_an_error_while_modules_are_timed_reaches_the_user(ray_session, tmp_path: Path):
    network = mixed_network()
    network.steps[2] = Eventful(network.steps[2], tmp_path / "calls", 1, fail_on_purpose)
    with closing(parallel(network, costs=None)) as strategy, pytest.raises(WorkerError) as caught:
        next(strategy.train(Batches(), 0, ITERATIONS, keeps))
    assert "module 2" in str(caught.value)
    assert "ZeroDivisionError: a defect of the step" in str(caught.value)


def test_nan_names_its_module(ray_session, expected, tmp_path: Path):
    found = []
    for make in (serial, parallel):
        network = mixed_network()
        calls = tmp_path / make.__name__
        network.steps[2] = Eventful(network.steps[2], calls, 5, spoil)
        with closing(make(network)) as strategy:
            results = strategy.train(Batches(), 0, ITERATIONS, keeps)
            assert [told(next(results)) for _ in range(4)] == expected[0][:4]
            with pytest.raises(NonFiniteError) as caught:
                next(results)
        found.append((caught.value.module, caught.value.what, str(caught.value)))
    assert found[0] == found[1] == (2, "loss", "the loss of module 2 is not finite")
