"""What one worker does: train its modules on every batch, and hand the state on."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gleam.batch import Batch
from gleam.data import DataError
from gleam.parallel.transport import to_arrays, to_tensors, unpack
from gleam.stopwatch import Seconds
from gleam.strategies.base import Feed, Loss, NonFiniteError, report
from gleam.strategies.greedy import Greedy
from gleam.strategies.modules import MakeOptimizer, MakeScheduler, Network, split_steps


@dataclass(frozen=True)
class Task:
    """What all workers have in common.

    Attributes:
        network: on the CPU.
        loss, optimizer, scheduler, clip: see :class:`gleam.strategies.Strategy`.
        modules: how many the steps are split into.
        feed: of the batches, on any device.
        device: "cpu" or "cuda": the one that Ray gives the worker.
        threads: of each worker on a CPU.
    """

    network: Network
    loss: Loss
    optimizer: MakeOptimizer
    scheduler: MakeScheduler | None
    clip: float | None
    modules: int
    feed: Feed
    device: str
    threads: int

    def steps(self, modules: range) -> range:
        """Numbers of the steps of consecutive modules."""
        splits = split_steps(len(self.network.steps), self.modules)
        return range(splits[modules[0]][0], splits[modules[-1]][-1] + 1)


@dataclass(frozen=True)
class Report:
    """What a worker tells of one iteration.

    Attributes:
        iteration: its number, counted from zero.
        losses: of its modules.
        norms: of their gradients.
        bad: the module, counted in the whole network, and what of it is not finite; or None.
        phases: seconds by phase.
        rate: learning rate.
        began, loaded, ended: clock time at which it took the state up, had its batches, was done.
        skipped: why examples were left out so far.
    """

    iteration: int
    losses: list[float]
    norms: list[float]
    bad: tuple[int, str] | None
    phases: Seconds
    rate: float
    began: float
    loaded: float
    ended: float
    skipped: frozenset[str]


class Part:
    """Some consecutive steps of a network, as a network of its own."""

    def __init__(self, network: Network, steps: range) -> None:
        self.network = network
        self.first = steps[0]
        self.taken = steps[0]  # the step taken last, to name the module of an error
        self.steps = nn.ModuleList(network.steps[index] for index in steps)
        for index in range(len(network.steps)):  # the others' memory is not needed here
            if index not in steps:
                network.steps[index] = nn.Identity()

    def start(self, batch: Batch) -> Any:
        """The state before the first step of the whole network."""
        return self.network.start(batch)

    def step(self, index: int, state: Any, batch: Batch) -> Any:
        """Advance the state by a step of this part."""
        self.taken = self.first + index
        return self.network.step(self.taken, state, batch)

    def image(self, state: Any, batch: Batch) -> Tensor:
        """The reconstruction that a state stands for."""
        return self.network.image(state, batch)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the steps."""
        return self.steps.parameters()


class WorkerError(RuntimeError):
    """An error inside a worker; names module and iteration and quotes the traceback."""


class Worker:
    """Trains consecutive modules; made into a Ray actor by :class:`gleam.parallel.crew.Crew`.

    Args:
        task: what all workers have in common.
        modules: numbers of its own.
        replica: number among the workers with the same modules, and how many these are.
    """

    def __init__(self, task: Task, modules: range, replica: tuple[int, int] = (0, 1)) -> None:
        import ray

        if task.device == "cpu":
            torch.set_num_threads(task.threads)
        self.host = ray.util.get_node_ip_address()
        if self.host == "127.0.0.1":  # else they listen where the name of this machine points
            loopback = "lo" if sys.platform == "linux" else "lo0"
            os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback)
        self.task = task
        self.modules = modules
        self.device = torch.device(task.device)
        self.part = Part(task.network, task.steps(modules))
        self.part.steps.to(self.device)
        self.greedy = Greedy(
            self.part, task.loss, task.optimizer, task.scheduler, len(modules), task.clip
        )
        self.replica = replica
        self._meeting: socket.socket | None = None
        self.iteration = 0
        self._after: Any = None  # states after the last iteration
        self._stream: Iterator[Sequence[Batch]] = iter(())

    def pid(self) -> int:
        """Number of its process."""
        return os.getpid()

    def address(self) -> str:
        """Of this node, with a port on which the replicas can meet, open to this node's address."""
        self._meeting = socket.create_server((self.host, 0))  # torch's own listens to everybody
        return f"{self.host}:{self._meeting.getsockname()[1]}"

    def join(self, address: str) -> None:
        """Average gradients with the other replicas from now on, who meet at this address."""
        number, count = self.replica
        host, port = address.rsplit(":", 1)
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host,
            int(port),
            count,
            is_master=number == 0,
            wait_for_workers=False,
            master_listen_fd=self._meeting.detach() if self._meeting else None,
        )
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=number, world_size=count)
        for module in self.greedy.modules:
            module.average = _average

    def restore(self, snapshot: dict[str, Any], iteration: int, last: int) -> None:
        """Go on from what :meth:`snapshot` returned, after so many iterations, up to the last."""
        weights, modules = to_tensors((snapshot["weights"], snapshot["modules"]))
        self.part.steps.load_state_dict(weights)
        for module, state in zip(self.greedy.modules, modules, strict=True):
            module.load_state_dict(_copied(state))  # the arrays' memory is not ours to write to
        self.iteration = iteration
        feed = self.task.feed
        if self.replica[1] > 1:
            feed = feed.shared(*self.replica)  # type: ignore[attr-defined]
        self._stream = feed(iteration, last)

    def close(self) -> None:
        """End the processes that load data; killed at a bad moment they leave shared memory."""
        if isinstance(self._stream, Generator):
            self._stream.close()

    def snapshot(self) -> tuple[int, dict[str, Any]]:
        """Iterations done, and the state of its steps and modules."""
        modules = [module.state_dict() for module in self.greedy.modules]
        weights = self.part.steps.state_dict()
        return self.iteration, to_arrays(_copied({"weights": weights, "modules": modules}))

    def train(self, iteration: int, states: Any = None, batches: Any = None) -> Report:
        """One iteration.

        Args:
            iteration: its number, counted from zero.
            states: as the worker before handed them over; None for the first worker.
            batches: packed; those of the feed if None.
        """
        began = time.time()
        if iteration != self.iteration:
            raise WorkerError(f"iteration {iteration} came after {self.iteration} were done")
        try:
            if batches is None:
                mine = [batch.to(self.device) for batch in next(self._stream)]
            else:
                mine = [unpack(batch, self.device) for batch in batches]
            loaded = time.time()
            told = self._learn(states, mine)
        except DataError:
            raise
        except Exception:
            raise WorkerError(
                f"module {self._module()}, iteration {iteration + 1}, failed:\n"
                f"{traceback.format_exc()}"
            ) from None
        self.iteration += 1
        skipped = frozenset(getattr(getattr(self.task.feed, "loader", None), "skipped", ()))
        return Report(
            iteration=iteration,
            **told,
            phases=self.greedy.clock.seconds(),
            began=began,
            loaded=loaded,
            ended=time.time(),
            skipped=skipped,
        )

    def hand_over(self, iteration: int, direct: bool) -> Any:
        """The states after an iteration, for the worker with the next modules.

        Args:
            iteration: the last one, counted from zero.
            direct: as tensors, which Ray moves from device to device; else as arrays of the host.
        """
        if iteration != self.iteration - 1:
            raise WorkerError(f"iteration {iteration + 1} was not done")
        states, self._after = self._after, None
        return states if direct else to_arrays(states)

    def _learn(self, states: Any, batches: list[Batch]) -> dict[str, Any]:
        rate = self.greedy.learning_rate
        self.greedy.clock.start(self.device)
        if states is None:
            states = [self.part.start(batch) for batch in batches]
        else:
            states = to_tensors(states, self.device)
        losses, norms, self._after = self.greedy.relay(states, batches)
        bad = None
        try:
            told = report(losses, norms)
        except NonFiniteError as error:
            bad = self.modules[error.module], error.what
            told = {"loss": 0.0, "module_losses": [], "gradient_norms": []}
        return {
            "losses": told["module_losses"],
            "norms": told["gradient_norms"],
            "bad": bad,
            "rate": rate,
        }

    def _module(self) -> int:
        splits = split_steps(len(self.task.network.steps), self.task.modules)
        return next(n for n, steps in enumerate(splits) if self.part.taken in steps)


def _average(gradients: list[Tensor]) -> None:
    """Replace gradients by their mean over all replicas, in one message for each type."""
    for kind in dict.fromkeys(gradient.dtype for gradient in gradients):  # an order all share
        mine = [gradient for gradient in gradients if gradient.dtype == kind]
        together = torch.cat([gradient.flatten() for gradient in mine])
        torch.distributed.all_reduce(together)
        together /= torch.distributed.get_world_size()
        parts = together.split([gradient.numel() for gradient in mine])
        for gradient, part in zip(mine, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _copied(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)
