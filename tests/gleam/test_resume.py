"""A run that was stopped, in whatever way, ends as if it had not been: bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import gleam.trainer
from gleam.config import dump_config
from tests.gleam import tiny

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {
    "strategy": "greedy",
    "network": {"step": "modl"},
    "data": {"mask": {"acceleration": [2, 2.5]}},
    "training": {
        "iterations": 40,
        "schedule": "cosine",
        "batch_size": 2,
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
    """The run that nobody interrupted."""
    return tiny.train(tmp_path_factory.mktemp("runs") / "whole", **CHANGES).folder


def start(folder: Path) -> subprocess.Popen[str]:
    config = json.dumps(dump_config(tiny.settings(folder, **CHANGES)))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder: Path, iterations: int, process: subprocess.Popen[str]) -> None:
    """Return once so many lines are in the metrics."""
    metrics = folder / "metrics.jsonl"
    for _ in range(24000):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= iterations:
            return
        if process.poll() is not None:
            break
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"the run ended or hung before: {process.communicate()[0]}")


def resume(folder: Path) -> None:
    assert tiny.train(folder, resume=True, **CHANGES).finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_iteration_with_a_message_and_a_checkpoint(
    tmp_path: Path, whole: Path, number: signal.Signals
):
    process = start(tmp_path)
    wait_for(tmp_path, 5, process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    stopped = tiny.state(tmp_path / "last.pt")["iteration"]
    assert 5 <= stopped < 40
    assert f"stopped after iteration {stopped}; go on with --resume" in output
    assert "finished False" in output
    assert tiny.records(tmp_path)[-1]["iteration"] == stopped
    resume(tmp_path)
    tiny.assert_same_run(tmp_path, whole)


def test_a_run_killed_twice_at_any_moment_ends_as_if_nothing_had_happened(
    tmp_path: Path, whole: Path
):
    moments = random.Random(int(time.time()))
    for earliest in (3, 14):
        process = start(tmp_path)
        wait_for(tmp_path, earliest, process)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "curves.png").exists()  # it did not reach the end
    resume(tmp_path)
    tiny.assert_same_run(tmp_path, whole)


class Killed(BaseException):
    """Ends a run at once, as a kill does: nothing is saved on the way out."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Kill the run when it starts the iteration after so many, any number of times."""
    plain = gleam.trainer._Trainer.step
    limit = {"iteration": 10**9}

    def step(self, *arguments):
        if self.iteration >= limit["iteration"]:
            raise Killed
        return plain(self, *arguments)

    def train(folder: Path, iteration: int, changes: Mapping = CHANGES) -> None:
        limit["iteration"] = iteration
        with pytest.raises(Killed):
            tiny.train(folder, resume=True, **changes)
        limit["iteration"] = 10**9

    monkeypatch.setattr(gleam.trainer._Trainer, "step", step)
    return train


@pytest.mark.parametrize("iteration", [0, 4, 9, 10, 39])
def test_it_does_not_matter_where_a_run_is_killed(
    tmp_path: Path, whole: Path, kill_after, iteration: int
):
    kill_after(tmp_path, iteration)
    resume(tmp_path)
    tiny.assert_same_run(tmp_path, whole)


def test_a_run_may_be_killed_again_and_again(tmp_path: Path, whole: Path, kill_after):
    for iteration in (2, 6, 7, 19, 30):
        kill_after(tmp_path, iteration)
    resume(tmp_path)
    tiny.assert_same_run(tmp_path, whole)


def test_a_kill_while_saving_leaves_a_partial_file_that_does_no_harm(
    tmp_path: Path, whole: Path, kill_after
):
    kill_after(tmp_path, 11)
    half = (tmp_path / "last.pt").read_bytes()[:5000]
    for name in ("last.pt", "best.pt", "metrics.jsonl", "config.yaml"):
        (tmp_path / f"{name}.partial").write_bytes(half)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 12, "loss": 0.0')
    resume(tmp_path)
    tiny.assert_same_run(tmp_path, whole)
    assert not list(tmp_path.glob("*.pt.partial"))


@pytest.mark.parametrize("strategy", ["backprop", "checkpoint"])
@pytest.mark.parametrize("step", ["pgd", "modl"])
def test_other_strategies_and_networks_resume_exactly_too(
    tmp_path: Path, kill_after, strategy: str, step: str
):
    changes = {"strategy": strategy, "network": {"step": step}, "training": {"accumulate": 2}}
    kill_after(tmp_path / "killed", 3, changes)
    tiny.train(tmp_path / "killed", resume=True, **changes)
    tiny.train(tmp_path / "whole", **changes)
    tiny.assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path):
    first = tiny.train(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix in (".pt", ".jsonl")}
    again = tiny.train(tmp_path, resume=True)
    assert again == first
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_resume_starts_a_run_if_there_is_none(tmp_path: Path):
    tiny.train(tmp_path / "resumed", resume=True)
    tiny.train(tmp_path / "started")
    tiny.assert_same_run(tmp_path / "resumed", tmp_path / "started")


def test_more_iterations_continue_a_constant_schedule_exactly(tmp_path: Path):
    tiny.train(tmp_path / "parts", **{"training.iterations": 4})
    tiny.train(tmp_path / "parts", resume=True, **{"training.iterations": 8})
    tiny.train(tmp_path / "whole", **{"training.iterations": 8})
    tiny.assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_network_that_draws_random_numbers_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_after
):
    plain = gleam.trainer.build_network

    def with_dropout(config, data):
        network = plain(config, data)
        for step in network.steps:
            step.regularizer.network = nn.Sequential(step.regularizer.network, nn.Dropout(0.3))
        return network

    monkeypatch.setattr(gleam.trainer, "build_network", with_dropout)
    tiny.train(tmp_path / "whole")
    kill_after(tmp_path / "killed", 3, {})
    # What happens in between must not matter.
    before = torch.get_rng_state()
    torch.rand(100)
    tiny.train(tmp_path / "killed", resume=True)
    torch.set_rng_state(before)
    tiny.assert_same_run(tmp_path / "killed", tmp_path / "whole")
    monkeypatch.setattr(gleam.trainer, "build_network", plain)
    untouched = tiny.state(tiny.train(tmp_path / "plain").last)["random"]["cpu"]
    assert not torch.equal(tiny.state(tmp_path / "whole" / "last.pt")["random"]["cpu"], untouched)
