"""Throughput on many devices, predicted from the measured costs of a module, in two ways to train.

All times in seconds, all memory in bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from experiments.scaling_model import Handover, bubble, greedy_parallel, pipeline_parallel


@dataclass(frozen=True)
class Costs:
    """Measured costs of one module of a network and of all that surrounds it, for one batch.

    Attributes:
        module: a training step of a greedy module.
        batch: what every worker does with a batch before its first module.
        forward, backward, update: of a module in end-to-end training; without ``batch``.
        handover: from one worker to the next.
        driver: of the driver, for each worker.
        queue: batches for each worker that may be under way.
        state_bytes: of what is handed on.
        greedy_bytes: most that a greedy training step allocates.
        activation_bytes: that the backward pass of a module needs.
    """

    module: float
    batch: float
    forward: float
    backward: float
    update: float
    handover: Handover
    driver: float
    queue: int
    state_bytes: int
    greedy_bytes: int
    activation_bytes: int


def predict_greedy(costs: Costs, devices: int, modules: int) -> dict[str, Any]:
    """Greedy-parallel training of so many modules on so many devices, which divide them."""
    stages = _equal(devices, modules, costs.module, costs.batch)
    found = greedy_parallel(stages, costs.handover, costs.queue, costs.driver)
    alone = costs.batch + modules * costs.module
    return {
        "devices": devices,
        "modules": modules,
        **asdict(found),
        "speed_up": alone / found.seconds,
        "stored_bytes": costs.greedy_bytes,
        "queued_bytes": costs.queue * devices * costs.state_bytes,
        "message_bytes": found.messages * costs.state_bytes,
    }


def predict_pipeline(
    costs: Costs, schedule: str, devices: int, modules: int, micro_batches: int
) -> dict[str, Any]:
    """Pipeline parallelism of the same network; speed-up over one device, trained end to end."""
    forward = _equal(devices, modules, costs.forward, costs.batch)
    backward = _equal(devices, modules, costs.backward)
    update = costs.update * modules / devices
    found = pipeline_parallel(schedule, forward, backward, micro_batches, costs.handover, update)
    alone = costs.batch + modules * (costs.forward + costs.backward + costs.update / micro_batches)
    return {
        "schedule": schedule,
        "devices": devices,
        "modules": modules,
        "micro_batches": micro_batches,
        **asdict(found),
        "speed_up": alone / found.seconds,
        "bubble": bubble(devices, micro_batches),
        "stored_bytes": max(found.stored) * costs.activation_bytes * modules // devices,
        "message_bytes": found.messages * costs.state_bytes,
    }


def _equal(devices: int, modules: int, each: float, once: float = 0.0) -> list[float]:
    if modules % devices:
        raise ValueError(f"{devices} devices cannot have equally many of {modules} modules")
    return [once + each * modules / devices] * devices
