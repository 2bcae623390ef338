"""Greedy training of all modules at the same time, each worker with some of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gleam.batch import Batch, collate, share
from gleam.parallel import session
from gleam.parallel.assignment import assign, speed_up
from gleam.parallel.costs import Timer
from gleam.parallel.crew import STARTING, Crew, CrewLostError, Snapshot, get
from gleam.parallel.monitor import Monitor
from gleam.parallel.transport import to_arrays, to_tensors
from gleam.parallel.worker import Task
from gleam.strategies.base import Feed, Iteration, Loss, Losses, OutOfReachError, Strategy
from gleam.strategies.modules import MakeOptimizer, MakeScheduler, Network

ATTEMPTS = 5
"""How often in a row the workers are started again without getting any further."""
PATIENCE = 4.0
"""Seconds that iterations under way may take to end when training is to stop."""


@dataclass(frozen=True)
class _Given:
    """The feed of workers to whom batches are handed."""

    batches: Sequence[Batch]

    def __call__(self, first: int, last: int) -> Iterator[Sequence[Batch]]:
        return iter([self.batches])

    def shared(self, number: int, count: int) -> _Given:
        return self


class GreedyParallel(Strategy):
    """Greedy training (arXiv 2207.08393) as a pipeline of workers; the weights are ``Greedy``'s.

    Worker k + 1 trains on a batch while worker k trains on the next one: a greedy module needs
    nothing of those behind it. Only the detached state travels. If a worker dies or hangs, all
    start again from the last state that ``train`` was told to keep.

    Args:
        network, loss, optimizer, scheduler, modules, clip: see :class:`Strategy`; picklable.
        workers: stages of the pipeline; by default as many as devices and modules allow.
        replicas: workers in each stage, which divide the images of an iteration and average their
            gradients; so ``workers * replicas`` devices are used.
        queue: batches that may be with a worker or wait for it.
        timeout: seconds without a result after which a worker counts as hung.
        address: of a Ray cluster; None for a Ray of our own on this machine.
        resources: that Ray is to reserve for each worker, by name.
        transport: of Ray Direct Transport, see :func:`session.obstacle`; None for the object store.
        costs: of the modules, in any unit; measured if None and needed.
        timeline: file for a trace of what each worker did when.

    Raises:
        MissingRayError: if Ray is not installed.
        ValueError: if there are more workers than modules, or parameters outside the steps.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        modules: int = 1,
        clip: float | None = None,
        *,
        workers: int | None = None,
        replicas: int = 1,
        queue: int = 2,
        timeout: float = 600.0,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
        transport: str | None = None,
        costs: Sequence[float] | None = None,
        timeline: Path | None = None,
    ) -> None:
        super().__init__(network, loss, optimizer, scheduler, modules, clip)
        session.check_installed()
        if not set(network.steps.parameters()).issuperset(network.parameters()):
            raise ValueError(
                "greedy-parallel needs a network all of whose parameters belong to its steps, for "
                "workers could not agree on the others; use strategy greedy"
            )
        assign([1.0] * modules, workers or 1)  # refuses too many workers
        self._recipe: dict[str, Any] = {
            "loss": loss,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "clip": clip,
            "modules": modules,
            "threads": torch.get_num_threads(),
        }
        self._workers, self._replicas, self._queue, self._timeout = (
            workers,
            replicas,
            queue,
            timeout,
        )
        self._address, self._resources, self._costs = address, dict(resources or {}), costs
        self._transport = transport
        self._monitor = Monitor(timeline)
        self._crew: Crew | None = None
        self._feed: Feed | None = None
        self._assignment: list[range] = []
        self._own_session = self._stopping = False
        self._done = 0  # iterations yielded
        self._kept: Snapshot | None = None

    def optimise(self, *batches: Batch) -> Losses:
        """One iteration, of one worker after the other; :meth:`train` keeps all of them busy."""
        images = [batch.split() for batch in batches]
        shares = [share(images, number, self._replicas) for number in range(self._replicas)]
        try:
            crew = self._crew or self._begin(_Given(batches), self._done)
            crew.submit(self._done, False, [[*map(collate, mine)] for mine in shares])
            result = self._collect(crew)
        except CrewLostError as error:
            raise OutOfReachError(f"a worker was lost: {error}") from None
        self._done += 1
        losses, norms = result["module_losses"], result["gradient_norms"]
        return {"loss": result["loss"], "module_losses": losses, "gradient_norms": norms}

    def train(
        self, feed: Feed, first: int, last: int, keeps: Callable[[int], bool]
    ) -> Iterator[Iteration]:
        """See :meth:`Strategy.train`; every worker has a copy of the feed, which is pickled.

        Raises:
            NonFiniteError, DataError: as serially.
            WorkerError: for another error inside a worker; names module and iteration.
            OutOfReachError: if workers are lost again and again.
        """
        self.synchronise()
        self._leave()
        self._done, self._stopping = first, False
        failures = 0
        while self._done < last and not self._stopping:
            before = self._done
            try:
                yield from self._run(self._begin(feed, last), last, keeps)
            except CrewLostError as error:
                failures = 1 if self._done > before else failures + 1
                self._recover(str(error), failures)

    def _run(self, crew: Crew, last: int, keeps: Callable[[int], bool]) -> Iterator[Iteration]:
        """Go on from the state kept last; yields what was not yielded before."""
        number = done = self._state().iteration
        while done < last and not self._stopping:
            while number < last and crew.busy < self._queue * len(self._assignment):
                crew.submit(number, keeps(number + 1))
                number += 1
            result = self._collect(crew)
            done += 1
            if done > self._done:
                self._done = done
                yield result

    def _collect(self, crew: Crew, limit: float | None = None) -> Iteration:
        queues = crew.queues()
        reports, kept = crew.collect(limit)
        self._kept = kept or self._kept
        if (loader := getattr(self._feed, "loader", None)) is not None:
            loader.skipped |= set().union(*(report.skipped for report in reports))
        return self._monitor.result(reports, queues)

    def stop(self) -> Iterator[Iteration]:
        """Let the workers end what is under way, at most up to the next state that is kept."""
        self._stopping = True
        limit = time.monotonic() + PATIENCE
        while self._crew is not None and self._crew.busy and self._state().iteration < self._done:
            try:
                result = self._collect(self._crew, max(0.0, limit - time.monotonic()))
            except (CrewLostError, TimeoutError):
                return
            self._done += 1
            yield result

    def synchronise(self) -> None:
        """Bring the network and the optimizers up to the iteration yielded last.

        Raises:
            OutOfReachError: if that state was not kept and workers went on, are lost or too slow.
        """
        if self._crew is None:
            return
        if self._state().iteration != self._done:
            try:
                found = None if self._crew.busy else self._crew.snapshot()
            except CrewLostError:
                found = None
            if found is None or found.iteration != self._done:
                raise OutOfReachError(f"the weights after iteration {self._done} are out of reach")
            self._kept = found
        for modules, part in zip(self._assignment, self._state().parts, strict=True):
            weights, states = to_tensors((part["weights"], part["modules"]))
            self._steps(modules).load_state_dict(weights)
            for number, state in zip(modules, states, strict=True):
                self.modules[number].load_state_dict(copy.deepcopy(state))

    def close(self) -> None:
        """End the workers, and Ray if it was started here; :meth:`synchronise` before."""
        self._leave()
        self._monitor.close()
        if self._own_session:
            self._own_session = False
            session.end()

    def _begin(self, feed: Feed, last: int) -> Crew:
        """Start workers, in the state that was kept last or else in that of the network."""
        self._own_session = session.start(self._address) or self._own_session
        network = copy.deepcopy(self.network)
        network.steps.cpu()
        task = Task(network=network, feed=feed, device=self.device.type, **self._recipe)
        reserve = session.reserve(task.device, self._address, self._resources)
        if not self._assignment:
            self._assignment = self._assigned(task, reserve)
        self._feed = feed
        if self._transport and (why := session.obstacle(self._transport, task.device)):
            self._without_transport(why)
        number = self._replicas
        self._crew = Crew(task, self._assignment, number, reserve, self._timeout, self._transport)
        if self._transport and (why := self._crew.connect()):
            self._without_transport(why)
        self._crew.restore(self._state(), last)
        return self._crew

    def _without_transport(self, why: str) -> None:
        self._transport = None
        self.notice(f"{why}; states travel through Ray's object store instead")

    def _assigned(self, task: Task, reserve: Mapping[str, Any]) -> list[range]:
        """Modules of every worker, by their costs, as announced to the user."""
        import ray

        workers = session.find_devices(reserve, self._workers, self._replicas, task.modules)
        costs = self._costs
        if costs is None and workers in (1, task.modules):
            costs = [1.0] * task.modules
        elif costs is None:
            timer: Any = ray.remote(Timer).options(**reserve).remote()
            try:
                get(timer.__ray_ready__.remote(), STARTING)
                costs = get(timer.module_costs.remote(task), self._timeout)
            finally:
                ray.kill(timer)  # it may hang, and it holds a device
        found = assign(costs, workers)
        shares = ", ".join(f"{modules[0]}-{modules[-1]}" for modules in found)
        copies = f", {self._replicas} times each" if self._replicas > 1 else ""
        self.notice(
            f"{workers} workers train the modules {shares}{copies}; expected speed-up over one "
            f"worker {self._replicas * speed_up(costs, found):.2f}"
        )
        return found

    def _state(self) -> Snapshot:
        """What was kept last, or the state of the network."""
        if self._kept is None:
            parts = tuple(
                {
                    "weights": copy.deepcopy(self._steps(modules).state_dict()),
                    "modules": copy.deepcopy([self.modules[n].state_dict() for n in modules]),
                }
                for modules in self._assignment
            )
            self._kept = Snapshot(self._done, to_arrays(parts))
        return self._kept

    def _steps(self, modules: range) -> nn.ModuleList:
        indices = [index for number in modules for index in self.modules[number].steps]
        return nn.ModuleList(self.network.steps[index] for index in indices)

    def _recover(self, reason: str, failures: int) -> None:
        back = self._done if self._kept is None else self._kept.iteration
        if self._crew is not None:
            self._crew.end()
            self._crew = None
        if failures > ATTEMPTS:
            raise OutOfReachError(
                f"workers were lost {failures} times without getting beyond iteration "
                f"{self._done}, the last time because: {reason}"
            )
        self.notice(f"a worker was lost ({reason}); all start again after iteration {back}")

    def _leave(self) -> None:
        if self._crew is not None:
            self._crew.end()
        self._crew = self._kept = None
