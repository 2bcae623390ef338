"""What a pipeline of many devices does, simulated event by event from the costs of its parts.

Two kinds of pipeline. Greedy-parallel training: a worker trains its modules on one batch after the
other, hands the state on, and never waits for anything from those behind it. Pipeline parallelism
of end-to-end training: all micro-batches of an update go forward and back through all stages, and
every device waits for the last of them before the next update, which is the bubble. Its gradient
is the exact one of the whole network; that of greedy training is not.

All times in seconds, all memory in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Name = tuple[str, int, int]
"""What is done, at which stage, and the number of the batch or micro-batch."""
Span = tuple[float, float]
Order = list["Operation"]

SCHEDULES = ("GPipe", "1F1B")


@dataclass(frozen=True)
class Operation:
    """Something that keeps a device or a link busy.

    Attributes:
        name: of its own.
        seconds: that it takes.
        after: what must be over before it begins.
    """

    name: Name
    seconds: float
    after: tuple[Name, ...] = ()


@dataclass(frozen=True)
class Handover:
    """What it costs to hand a state on.

    Attributes:
        packing: seconds for which the sender can do nothing else.
        transfer: seconds on the way after that, while both sides may compute; one message at a
            time between two devices.
    """

    packing: float = 0.0
    transfer: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a simulation found.

    Attributes:
        seconds: for each batch, or micro-batch, in the steady state.
        idle: share of the time that a device has nothing to do, of each.
        stored: most batches of which a device holds the activations at a time, of each.
        messages: between two neighbours for each batch.
    """

    seconds: float
    idle: list[float]
    stored: list[int]
    messages: float


def simulate(orders: Iterable[Sequence[Operation]]) -> dict[Name, Span]:
    """When everything begins and ends.

    Each device or link does its operations in the order given, one at a time, each as soon as it
    is free and all that must come first is over. The orders being fixed, that gives all events
    without a clock.

    Raises:
        ValueError: if operations wait for each other, or for one that is in no order.
    """
    waiting = [deque(order) for order in orders]
    free = [0.0] * len(waiting)
    spans: dict[Name, Span] = {}
    while any(waiting):
        before = len(spans)
        for number, order in enumerate(waiting):
            while order and all(name in spans for name in order[0].after):
                operation = order.popleft()
                begin = max([free[number], *(spans[name][1] for name in operation.after)])
                free[number] = begin + operation.seconds
                spans[operation.name] = begin, free[number]
        if len(spans) == before:
            stuck = [order[0].name for order in waiting if order]
            raise ValueError(f"these operations wait for ever: {stuck}")
    return spans


def greedy_orders(
    stages: Sequence[float], handover: Handover, window: int, driver: float, batches: int
) -> list[Order]:
    """Greedy-parallel training: orders of the driver, of all stages and of the links between.

    Args:
        stages: seconds of each for a batch.
        handover: from one to the next.
        window: batches that may be under way, from the first stage to the end of the last.
        driver: seconds of the driver for each batch.
        batches: how many.
    """
    last = len(stages) - 1
    submit: Order = []
    devices: list[Order] = [[] for _ in stages]
    links: list[Order] = [[] for _ in stages[1:]]
    for n in range(batches):
        room = (("train", last, n - window),) if n >= window else ()
        submit.append(Operation(("submit", 0, n), driver, room))
        for stage, seconds in enumerate(stages):
            came: Name = ("send", stage - 1, n) if stage else ("submit", 0, n)
            devices[stage].append(Operation(("train", stage, n), seconds, (came,)))
            if stage < last:
                pack: Name = ("pack", stage, n)
                devices[stage].append(Operation(pack, handover.packing))
                links[stage].append(Operation(("send", stage, n), handover.transfer, (pack,)))
    return [submit, *devices, *links]


def greedy_parallel(
    stages: Sequence[float], handover: Handover, queue: int, driver: float = 0.0
) -> Outcome:
    """The steady state of greedy-parallel training.

    Args:
        stages: seconds of each for a batch.
        handover: from one to the next.
        queue: batches for each stage that may be under way.
        driver: seconds of the driver for each batch and stage.
    """
    count = len(stages)
    window = queue * count
    batches = 4 * window  # the second half is steady, and whole turns of the window
    spans = simulate(greedy_orders(stages, handover, window, driver * count, batches))
    ends = [spans["train", count - 1, n][1] for n in (batches // 2 - 1, batches - 1)]
    seconds = (ends[1] - ends[0]) / (batches // 2)
    packing = [handover.packing] * (count - 1) + [0.0]
    idle = [
        max(0.0, 1 - (mine + pack) / seconds) for mine, pack in zip(stages, packing, strict=True)
    ]
    return Outcome(seconds, idle, [1] * count, 1.0)


def passes(schedule: str, stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """Forward and backward passes of a stage in their order: ("forward" or "backward", number).

    GPipe (arXiv 1811.06965, Fig. 2c): all forward passes, then all backward passes, the last
    micro-batch first. 1F1B (PipeDream, arXiv 1806.03377, with the flush of arXiv 2006.09503,
    "PipeDream-flush"): as many forward passes as stages follow, then one forward and one backward
    pass in turn, then the backward passes left. Both give the same gradient.

    Raises:
        ValueError: for another schedule.
    """
    numbers = range(micro_batches)
    if schedule == "GPipe":
        return [("forward", n) for n in numbers] + [("backward", n) for n in reversed(numbers)]
    if schedule != "1F1B":
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule}")
    ahead = min(micro_batches, stages - stage - 1)
    order = [("forward", n) for n in range(ahead)]
    for n in numbers:
        if n + ahead < micro_batches:
            order.append(("forward", n + ahead))
        order.append(("backward", n))
    return order


def pipeline_orders(
    schedule: str,
    forward: Sequence[float],
    backward: Sequence[float],
    micro_batches: int,
    handover: Handover,
) -> list[Order]:
    """Pipeline parallelism, one update: orders of all stages, then of links forward and back.

    Args:
        schedule: one of :data:`SCHEDULES`.
        forward, backward: seconds of each stage for a micro-batch.
        micro_batches: of an update.
        handover: of the state to the next stage, and of its gradient to the one before.
    """
    count = len(forward)
    devices: list[Order] = [[] for _ in forward]
    onward: list[Order] = [[] for _ in forward]
    back: list[Order] = [[] for _ in forward]
    for stage, device in enumerate(devices):
        for what, n in passes(schedule, stage, count, micro_batches):
            ahead = what == "forward"
            before = stage - 1 if ahead else stage + 1
            after = ((f"send {what}", before, n),) if 0 <= before < count else ()
            seconds = (forward if ahead else backward)[stage]
            device.append(Operation((what, stage, n), seconds, after))
            if stage != (count - 1 if ahead else 0):
                pack: Name = (f"pack {what}", stage, n)
                device.append(Operation(pack, handover.packing))
                send: Name = (f"send {what}", stage, n)
                link = (onward if ahead else back)[stage]
                link.append(Operation(send, handover.transfer, (pack,)))
    return devices + onward + back


def pipeline_parallel(
    schedule: str,
    forward: Sequence[float],
    backward: Sequence[float],
    micro_batches: int,
    handover: Handover | None = None,
    update: float = 0.0,
) -> Outcome:
    """Pipeline parallelism of end-to-end training; every update waits for all stages.

    Activations are those of plain backpropagation. GPipe's rematerialisation would keep only the
    input of a stage for each micro-batch, for one more forward pass.

    Args:
        schedule, forward, backward, micro_batches, handover: see :func:`pipeline_orders`.
        update: seconds of the optimizer at the end.
    """
    count = len(forward)
    orders = pipeline_orders(schedule, forward, backward, micro_batches, handover or Handover())
    spans = simulate(orders)
    seconds = max(end for _, end in spans.values()) + update
    busy = [sum(operation.seconds for operation in order) + update for order in orders[:count]]
    sent = sum(name[0].startswith("send") for name in spans)
    return Outcome(
        seconds / micro_batches,
        [1 - mine / seconds for mine in busy],
        [most_stored(passes(schedule, s, count, micro_batches)) for s in range(count)],
        sent / micro_batches / max(1, count - 1),
    )


def most_stored(order: Sequence[tuple[str, int]]) -> int:
    """Most micro-batches that went forward and not yet back."""
    held = most = 0
    for what, _ in order:
        held += 1 if what == "forward" else -1
        most = max(most, held)
    return most


def bubble(stages: int, micro_batches: int) -> float:
    """Idle share of GPipe and 1F1B with equal stages and free messages (arXiv 1811.06965, 2.3)."""
    return (stages - 1) / (micro_batches + stages - 1)
