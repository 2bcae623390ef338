"""What tests of parallel training share; workers import it too, so it needs no pytest."""

import copy
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from gleam.batch import Batch, collate, share
from gleam.losses import complex_l1
from gleam.strategies import Greedy, GreedyParallel, Strategy
from models.unrolled import UnrolledNetwork
from tests.helpers import make_batch, make_network

ROOT = Path(__file__).resolve().parents[2]
SPACE = (8, 7)
MODULES = 4
PARALLEL = {"name": "greedy-parallel", "workers": 2}
OF_WORKERS = ("worker_seconds", "idle", "queues")
"""What only parallel training writes into metrics.jsonl."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Processes of Ray that, when all others are gone, try for a minute to tell them so."""
STARTING = ("/ray/dashboard/agent.py", "/ray/_private/runtime_env/agent/main.py")
"""The same before they have given themselves these names."""


@dataclass(frozen=True)
class Batches:
    """A feed of batches that depend on the number of the iteration alone.

    Attributes:
        sizes: images of each batch of an iteration; iterations take these in turn.
        shard: see :meth:`gleam.data.Loader.training`.
    """

    sizes: Sequence[Sequence[int]] = ((1,),)
    shard: tuple[int, int] = (0, 1)

    def __call__(self, first: int, last: int) -> Iterator[list[Batch]]:
        for number in range(first, last):
            sizes = self.sizes[number % len(self.sizes)]
            images = [
                [make_batch(*SPACE, seed=1000 * number + 100 * b + 10 * i) for i in range(size)]
                for b, size in enumerate(sizes)
            ]
            yield [collate([*together]) for together in share(images, *self.shard)]

    def shared(self, number: int, count: int) -> "Batches":
        return replace(self, shard=(number, count))


@dataclass(frozen=True)
class HangsOnce(Batches):
    """Whoever asks first, as a file remembers, waits for ever."""

    asked: Path = Path()

    def __call__(self, first: int, last: int) -> Iterator[list[Batch]]:
        if not self.asked.exists():
            self.asked.touch()
            sleep_for_ever(torch.zeros(()))
        return super().__call__(first, last)


class Eventful(nn.Module):
    """A step that notes its calls in a file and, at one of them, has its output changed.

    Args:
        step: the step.
        calls: file that grows by a byte a call, whatever process makes it.
        at: number of that call, counted from one.
        event: what is done to its output.
        seconds: that every call takes longer.
    """

    def __init__(
        self,
        step: nn.Module,
        calls: Path,
        at: int = 0,
        event: Callable[[Tensor], Tensor] | None = None,
        seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self.plain = step
        self.calls, self.at, self.event, self.seconds = calls, at, event, seconds

    def forward(self, state: Tensor, batch: Batch) -> Tensor:
        with open(self.calls, "ab") as file:
            file.write(b".")
            number = file.tell()
        time.sleep(self.seconds)
        output = self.plain(state, batch)
        return self.event(output) if self.event and number == self.at else output


def sleep_for_ever(output: Tensor) -> Tensor:
    while True:
        time.sleep(1)


def end_process(output: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return output


def spoil(output: Tensor) -> Tensor:
    return output * float("nan")


def fail_on_purpose(output: Tensor) -> Tensor:
    raise ZeroDivisionError("a defect of the step")


def decay(count: int) -> float:
    return 0.97**count


SETTINGS: dict[str, Any] = {
    "optimizer": partial(Adam, lr=1e-2, weight_decay=1e-4, fused=True),
    "scheduler": partial(LambdaLR, lr_lambda=decay),
    "modules": MODULES,
    "clip": 0.2,
}


def mixed_network() -> UnrolledNetwork:
    """Proximal gradient and MoDL steps in turn."""
    network, other = make_network("pgd", MODULES), make_network("modl", MODULES)
    for index in range(1, MODULES, 2):
        network.steps[index] = other.steps[index]
    return network


def serial(network: nn.Module | None = None, **settings: Any) -> Greedy:
    return Greedy(network or mixed_network(), complex_l1, **{**SETTINGS, **settings})


def parallel(network: nn.Module | None = None, **settings: Any) -> GreedyParallel:
    """Of two workers unless told otherwise."""
    everything = {**SETTINGS, "workers": 2, "costs": [1.0] * MODULES, **settings}
    return GreedyParallel(network or mixed_network(), complex_l1, **everything)


def told(result: Any) -> dict[str, Any]:
    """What an iteration reports, without what a clock said."""
    names = ("loss", "module_losses", "gradient_norms", "learning_rate")
    return {name: result[name] for name in names if name in result}


def state_of(strategy: Strategy) -> Any:
    """A copy of all weights, optimizers and schedulers."""
    strategy.synchronise()
    return copy.deepcopy(([*strategy.network.parameters()], strategy.state_dict()))


def assert_same_run(one: Path, other: Path) -> None:
    """As :func:`tests.gleam.tiny.assert_same_run`, for runs under different strategies."""
    from tests.gleam import tiny  # workers do without what it imports

    for name in ("last.pt", "best.pt"):
        first, second = tiny.state(one / name), tiny.state(other / name)
        different = [key for key in first if not tiny.equal(first[key], second[key])]
        assert different == [], f"{name} differs in {different}"
    first, second = (
        [{k: v for k, v in r.items() if k not in OF_WORKERS} for r in tiny.records(run)]
        for run in (one, other)
    )
    assert first == second


def live() -> dict[int, tuple[int, str]]:
    """The number of every process that has not ended, that of its parent, and its command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        condition, parent = status.rpartition(")")[2].split()[:2]
        if condition != "Z":
            name = command.replace(b"\0", b" ").decode(errors="replace").strip()
            found[int(folder.name)] = int(parent), name
    return found


def processes_below(ancestor: int) -> dict[int, str]:
    """Numbers and commands of the processes that descend from one."""
    everything = live()
    found = {ancestor}
    while more := {pid for pid, (parent, _) in everything.items() if parent in found} - found:
        found |= more
    return {pid: everything[pid][1] for pid in found - {ancestor}}


def below(driver: int) -> dict[int, str]:
    """All processes of a Ray that a driver started: its descendants, and who names its session."""
    named = {pid: name for pid, (_, name) in live().items() if f"_{driver}/" in name}
    return named | processes_below(driver)


def assert_gone(processes: dict[int, str], driver: int, but: Sequence[str] = ()) -> None:
    """Processes of a driver that is no more end by themselves; some may take longer."""

    def left() -> dict[int, str]:
        alive = below(driver) | {p: name for p, (_, name) in live().items() if p in processes}
        return {p: name for p, name in alive.items() if not any(word in name for word in but)}

    assert wait_until(lambda: not left(), 20), left()


def abandoned_memory() -> set[str]:
    """Files of shared memory that no process has open or mapped; other programs use theirs."""
    names = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    for pid in live() if names else ():
        with suppress(OSError):  # it ended meanwhile
            maps = Path(f"/proc/{pid}/maps").read_text()
            names = {name for name in names if name not in maps}
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # it was closed meanwhile
                    names.discard(os.readlink(link))
    return names


def workers_alive() -> list[int]:
    """Processes below this one in which Ray runs something of ours."""
    named = processes_below(os.getpid()).items()
    own = ("ray::IDLE", *AGENTS)
    return sorted(p for p, name in named if name.startswith("ray::") and not name.startswith(own))


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition holds at some moment of so many seconds; returns at that moment."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True
