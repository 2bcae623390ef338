"""A function of many jobs in several processes, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    done: Callable[[int, Result | None], None],
) -> None:
    """Call a function for every job, the first ones first, each with one torch thread.

    A single worker is this process. More are new processes, so a script that gets here must guard
    its start by ``if __name__ == "__main__"``. If this process is interrupted or killed, the
    workers end at once, wherever they are. If a worker dies, the jobs that may have killed it are
    repeated, each alone in a process, and the others go on.

    Args:
        function: of the top level of a module; jobs and results can be pickled.
        jobs: its arguments.
        workers: how many processes at most.
        done: called in this process with the number of a job and its result, in the order in
            which they finish; with None if its process died even when the job ran alone, as for
            lack of memory.

    Raises:
        ValueError: if there is to be no worker.
        KeyboardInterrupt: on Ctrl-C, when all workers have ended.
    """
    if workers < 1:
        raise ValueError(f"there must be at least 1 worker, got {workers}")
    workers = min(workers, len(jobs))
    if workers < 2:
        with _one_thread():
            for number, job in enumerate(jobs):
                done(number, function(job))
        return
    left = list(range(len(jobs)))
    while left:
        left = _run_pool(function, jobs, left, workers, done)
        # Jobs start in order, so those that ran when a worker died are among the first ones left.
        for number in left[:workers]:
            if _run_pool(function, jobs, [number], 1, done):
                done(number, None)
        left = left[workers:]


def _run_pool(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    numbers: Sequence[int],
    workers: int,
    done: Callable[[int, Result | None], None],
) -> list[int]:
    """Run the jobs of these numbers in new processes until one of them dies; those left then."""
    left = list(numbers)
    futures: dict[Future[Result], int] = {}
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    try:
        with suppress(BrokenProcessPool):
            for number in numbers:
                futures[pool.submit(function, jobs[number])] = number
        for future in as_completed(futures):
            with suppress(BrokenProcessPool):
                result = future.result()
                left.remove(futures[future])
                done(futures[future], result)
    finally:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        # Its thread collects the workers: were they waited for here too, either could miss an end.
        pool.shutdown(cancel_futures=True)
    return left


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start() -> None:
    """What a worker does first."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
