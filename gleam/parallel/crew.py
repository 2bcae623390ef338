"""The workers as the driver sees them: started, fed in order, asked for their state, ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gleam.batch import Batch
from gleam.data import DataError
from gleam.parallel.transport import pack
from gleam.parallel.worker import Report, Task, Worker, WorkerError

STARTING = 300.0  # seconds that workers may take to start
CLOSING = 1.0  # seconds that workers may take to close their data
COLLECTIVE = ("nccl", "gloo")  # transports of a group of workers


class CrewLostError(RuntimeError):
    """A worker died or hangs: all must start again from the last snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """The state of all workers after the same iteration.

    Attributes:
        iteration: iterations done.
        parts: what each worker's ``snapshot`` returned, in order.
    """

    iteration: int
    parts: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Entry:
    """An iteration under way: references to the reports of all workers, by stage and replica."""

    reports: list[list[Any]]
    snapshots: list[Any] | None


class Crew:
    """Ray actors in a row of stages, each stage with the same modules in one or several replicas.

    Args:
        task: what they have in common.
        assignment: modules of every stage.
        replicas: workers in each stage, among which the images of an iteration are divided.
        resources: of each worker, as ``ray.remote`` takes them, such as ``num_gpus``.
        timeout: seconds without the result of an iteration after which a worker counts as hung.
        transport: of Ray Direct Transport, that :meth:`connect` is to set up; or None.

    Raises:
        CrewLostError: by all methods, if a worker died or hangs.
        WorkerError: by :meth:`collect`, for an error inside a worker.
    """

    def __init__(
        self,
        task: Task,
        assignment: Sequence[range],
        replicas: int,
        resources: Mapping[str, Any],
        timeout: float,
        transport: str | None = None,
    ) -> None:
        import ray

        self._ray = ray
        self._timeout = timeout
        self._transport = transport
        self._sent: dict[str, Any] = {}  # options of what is handed over
        self._waiting: deque[_Entry] = deque()
        options: dict[str, Any] = {"enable_tensor_transport": transport is not None, **resources}
        actor: Any = ray.remote(**options)(Worker)
        shared = ray.put(task)
        numbers = [(number, replicas) for number in range(replicas)]
        self._stages: list[list[Any]] = [
            [actor.remote(shared, m, number) for number in numbers] for m in assignment
        ]
        self._workers = [worker for stage in self._stages for worker in stage]

    @property
    def busy(self) -> int:
        """Iterations handed out and not collected."""
        return len(self._waiting)

    def queues(self) -> list[int]:
        """How many batches wait in front of, or are with, each stage."""
        flat = [ref for entry in self._waiting for stage in entry.reports for ref in stage]
        ready = set(self._ray.wait(flat, num_returns=len(flat), timeout=0)[0]) if flat else set()
        counts = [0] * len(self._stages)
        for entry in self._waiting:
            done = sum(ready.issuperset(stage) for stage in entry.reports)
            if done < len(counts):
                counts[done] += 1
        return counts

    def pids(self) -> list[int]:
        """Process numbers of the workers."""
        return get([worker.pid.remote() for worker in self._workers], STARTING)

    def connect(self) -> str | None:
        """Have states move from device to device; returns why not, if that cannot be."""
        from ray.experimental.collective import create_collective_group

        try:
            if self._transport in COLLECTIVE:
                create_collective_group(self._workers, self._transport)
        except self._ray.exceptions.RayActorError as error:
            raise CrewLostError(_first_line(error)) from None
        except (self._ray.exceptions.RayError, RuntimeError, ValueError, ImportError) as error:
            return f"{self._transport} could not be set up: {_first_line(error)}"
        self._sent = {"tensor_transport": self._transport}
        return None

    def restore(self, snapshot: Snapshot, last: int) -> None:
        """Set all workers to a snapshot, from which they go on up to the last iteration."""
        joining = []
        for stage in self._stages:
            if len(stage) > 1:
                address = get(stage[0].address.remote(), STARTING)
                joining += [worker.join.remote(address) for worker in stage]
        get(joining, STARTING)
        parts = [self._ray.put(part) for part in snapshot.parts]
        done = [
            worker.restore.remote(part, snapshot.iteration, last)
            for stage, part in zip(self._stages, parts, strict=True)
            for worker in stage
        ]
        get(done, STARTING)

    def submit(
        self, iteration: int, keep: bool, batches: Sequence[Sequence[Batch]] | None = None
    ) -> None:
        """Hand an iteration out.

        Args:
            iteration: its number, counted from zero.
            keep: take a snapshot after it.
            batches: of each replica, if they are not to come from the feed.
        """
        put = self._ray.put
        packed = [put([*map(pack, mine)]) for mine in batches] if batches else None
        nothing = [None] * len(self._stages[0])
        states: list[Any] = nothing
        reports: list[list[Any]] = []
        for stage in self._stages:
            reports.append(
                [
                    worker.train.remote(iteration, state, data)
                    for worker, state, data in zip(stage, states, packed or nothing, strict=True)
                ]
            )
            if stage is not self._stages[-1]:
                states = [
                    worker.hand_over.options(**self._sent).remote(iteration, bool(self._sent))
                    for worker in stage
                ]
        self._waiting.append(_Entry(reports, self._ask() if keep else None))

    def collect(self, limit: float | None = None) -> tuple[list[Report], Snapshot | None]:
        """Wait for the iteration handed out first.

        Args:
            limit: seconds to wait; the timeout of the crew if None.

        Returns:
            The report of every stage, and the snapshot if one was to be taken.

        Raises:
            TimeoutError: if ``limit`` seconds were too few.
        """
        entry = self._waiting[0]
        flat = [ref for stage in entry.reports for ref in stage]
        wanted = flat + (entry.snapshots or [])
        if limit is not None:
            ready, _ = self._ray.wait(wanted, num_returns=len(wanted), timeout=limit)
            if len(ready) < len(wanted):
                raise TimeoutError
        try:
            found = iter(get(flat, self._timeout))
        except (DataError, WorkerError):
            self.pids()  # if a worker died, that is why others failed
            self._waiting.clear()  # what comes after a failure fails too
            raise
        reports = [_merged([next(found) for _ in stage]) for stage in entry.reports]
        snapshot = self._joined(entry.snapshots) if entry.snapshots else None
        self._waiting.popleft()
        return reports, snapshot

    def snapshot(self) -> Snapshot:
        """The state of all workers, when no iteration is under way."""
        return self._joined(self._ask())

    def end(self) -> None:
        """Let workers that can close their data, then kill all."""
        closed = [worker.close.remote() for worker in self._workers]
        self._ray.wait(closed, num_returns=len(closed), timeout=CLOSING, fetch_local=False)
        for worker in self._workers:
            self._ray.kill(worker, no_restart=True)
        self._waiting.clear()

    def _ask(self) -> list[Any]:
        return [stage[0].snapshot.remote() for stage in self._stages]

    def _joined(self, references: list[Any]) -> Snapshot:
        found = get(references, self._timeout)
        iterations = {iteration for iteration, _ in found}
        if len(iterations) > 1:
            raise CrewLostError(f"workers stand at different iterations, {sorted(iterations)}")
        return Snapshot(iterations.pop(), tuple(part for _, part in found))


def get(references: Any, timeout: float) -> Any:
    """``ray.get`` with our errors.

    Raises:
        CrewLostError: if a process died, or nothing came for so many seconds.
        DataError, WorkerError: for an error inside a worker.
    """
    import ray
    from ray import exceptions as errors

    try:
        return ray.get(references, timeout=timeout)
    except errors.GetTimeoutError:
        raise CrewLostError(f"a worker hangs: no answer for {timeout:g} s") from None
    except errors.RayTaskError as error:
        if isinstance(error.cause, DataError | WorkerError):
            raise type(error.cause)(*error.cause.args) from None
        if not isinstance(error.cause, errors.RayError):
            raise WorkerError(str(error)) from None
        raise CrewLostError(_first_line(error.cause)) from None
    except errors.RayError as error:
        raise CrewLostError(_first_line(error)) from None


def _merged(replicas: Sequence[Report]) -> Report:
    """The report of a stage: mean losses, and the rest of the first replica."""
    return replace(
        replicas[0],
        losses=[
            sum(values) / len(values) for values in zip(*(r.losses for r in replicas), strict=False)
        ],
        bad=next((report.bad for report in replicas if report.bad), None),
        skipped=frozenset().union(*(report.skipped for report in replicas)),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
