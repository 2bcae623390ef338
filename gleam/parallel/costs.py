"""How long the modules of a network take to train."""

from __future__ import annotations

import time
import traceback

import torch

from gleam.parallel.worker import Part, Task, WorkerError
from gleam.strategies.greedy import Greedy


class Timer:
    """Measures modules; made into a Ray actor, which unlike a task can be killed when it hangs."""

    def module_costs(self, task: Task, rounds: int = 2) -> list[float]:
        """Seconds that a training step of every module takes, the least of a few rounds.

        Trains a copy of the network on its first batches, in the memory of one module.

        Raises:
            DataError: if these cannot be read.
            WorkerError: for an error in a module; names it and quotes the traceback.
        """
        if task.device == "cpu":
            torch.set_num_threads(task.threads)
        batches = [batch.to(task.device) for batch in next(task.feed(0, 1))]
        states = [task.network.start(batch) for batch in batches]
        costs = []
        whole = [*task.network.steps]
        for number in range(task.modules):
            part = Part(task.network, task.steps(range(number, number + 1)))
            part.steps.to(task.device)
            greedy = Greedy(part, task.loss, task.optimizer, task.scheduler, 1, task.clip)
            seconds = []
            for _ in range(rounds):
                _wait(task.device)
                began = time.perf_counter()
                try:
                    after = greedy.relay(states, batches)[2]
                except Exception:
                    raise WorkerError(
                        f"module {number}, timed before training, failed:\n{traceback.format_exc()}"
                    ) from None
                _wait(task.device)
                seconds.append(time.perf_counter() - began)
            states = after
            costs.append(min(seconds))
            for index, step in enumerate(whole):
                task.network.steps[index] = step
        return costs


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
