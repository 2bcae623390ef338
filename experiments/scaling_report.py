"""Tables, verdicts and figure of the scaling benchmark, computed from what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from experiments.provenance import as_markdown
from experiments.scaling_figure import draw
from experiments.scaling_model import SCHEDULES, Handover
from experiments.scaling_prediction import Costs, predict_greedy, predict_pipeline
from experiments.step_cost import ratio

DEVICES = (4, 8, 16, 64)
MODULES = 64  # of the network that is divided among more and more devices
MICRO_BATCHES = (8, 32)
ONE, TWO = "1 worker", "2 workers"

# Goals, and the shortest step for which the first one holds [s].
SHORTEST = 0.1
SPEED_UP = 1.8
HANDOVER = 0.01
SHARE = 0.05

Row = Mapping[str, Any]


def costs_of(measured: Mapping[str, Any]) -> Costs:
    """The costs of a module of the 2D network and of what surrounds it.

    What passes between two steps of a single worker counts for every worker; what it takes longer
    if a state is handed on is packing.
    """
    runs = measured["throughput"]
    alone = [run["train_seconds"][0] for run in runs[ONE]]
    between = median(gap for run in runs[ONE] for gap in run["gaps"])
    loading = median(run["load_seconds"] for run in runs[ONE])
    state = measured["handover"]["2D"]
    sending = median(state["gaps"])
    modules, batch = measured["modules"], measured["batch_seconds"]

    def phase(name: str) -> float:
        return median(run[f"{name}_seconds"] for run in runs["backprop"])

    return Costs(
        module=(median(alone) - batch) / modules,
        batch=batch + loading + between,
        forward=(phase("forward") - batch) / modules,
        backward=phase("backward") / modules,
        update=phase("update") / modules,
        handover=Handover(
            max(0.0, sending - between), max(0.0, median(state["handovers"]) - sending)
        ),
        driver=median(run["cpu_seconds"] for run in runs[TWO]) / 2,
        queue=measured["queue"],
        state_bytes=state["state_bytes"],
        greedy_bytes=measured["greedy_bytes"],
        activation_bytes=measured["activation_bytes"],
    )


def write_report(measured: Mapping[str, Any], folder: Path, stem: str) -> str:
    """Write ``stem.md`` and the figure ``stem.png``; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(measured, stem)
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    shown = [_speed_ups(measured)[name] for name in (ONE, TWO)]
    label = f"greedy-parallel, measured with {measured['modules']} modules"
    draw(folder / f"{stem}.png", costs_of(measured), MODULES, MICRO_BATCHES, {label: shown})
    return text


def markdown(measured: Mapping[str, Any], stem: str) -> str:
    """The whole report."""
    costs = costs_of(measured)
    two = predict_greedy(costs, 2, measured["modules"])["speed_up"]
    weak = [predict_greedy(costs, count, count) for count in DEVICES]
    fixed = [predict_greedy(costs, count, MODULES) for count in DEVICES]
    lines = [
        "# Speed of greedy-parallel training\n",
        "`python -m experiments.scaling`\n",
        as_markdown(measured["provenance"]),
        *_throughput(measured, costs),
        *_handover(measured["handover"]),
        "## Goals\n",
        *goals(measured, costs),
        "\n## Prediction for many devices\n",
        "An event simulation: every worker computes, packs a state, which keeps it busy, and sends "
        "it, which does not; the driver hands batches out as long as there is room in the queue. "
        "Costs are those measured above; devices are taken to share neither memory nor links, "
        f"unlike the cores of this machine. It says {two:.2f} for what was measured with two "
        f"workers, {_speed_ups(measured)[TWO]:.2f}.\n",
        f"Module {_ms(costs.module)}, batch {_ms(costs.batch)}, packing "
        f"{_ms(costs.handover.packing)}, transfer {_ms(costs.handover.transfer)}, driver "
        f"{_ms(costs.driver)} for each worker; queue {costs.queue}.\n",
        *_predictions("As many modules as devices", weak),
        *_predictions(f"{MODULES} modules", fixed),
        *_comparison(costs, fixed),
        f"![speed-up]({stem}.png)\n",
    ]
    return "\n".join(lines)


def _speed_ups(measured: Mapping[str, Any]) -> dict[str, float]:
    """Of every run over one worker: the median of the ratios within a repetition."""
    seconds = {
        name: [run["seconds"] for run in runs] for name, runs in measured["throughput"].items()
    }
    return {name: ratio(seconds, ONE, name) for name in seconds}


def _throughput(measured: Mapping[str, Any], costs: Costs) -> list[str]:
    state, speed_ups = measured["handover"]["2D"], _speed_ups(measured)
    lines = [
        "## Throughput\n",
        f"PGD, {_size(state)}, {state['features']} features, {measured['modules']} modules of "
        f"{_ms(costs.module)} with one thread, batch 1. Steady state of {measured['iterations']} "
        f"iterations, median and range of {measured['repeats']} repetitions in turn; the speed-up "
        "is the median of the ratios within a repetition. Idle: share of the time that a worker "
        "neither loads nor trains, handing over included. Loading a batch, which every worker "
        f"does itself and which would come on top with real data, takes {_ms(_loading(measured))} "
        "here.\n",
        "| run, one thread each | iteration [ms] | range [ms] | iterations/s | / 1 worker | idle |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in measured["throughput"].items():
        seconds = [run["seconds"] for run in runs]
        idle = [run["idle"] for run in runs if "idle" in run]
        shares = ", ".join(_percent(median(share)) for share in zip(*idle, strict=True))
        lines.append(
            f"| {name} | {1e3 * median(seconds):.1f} | {1e3 * min(seconds):.1f} to "
            f"{1e3 * max(seconds):.1f} | {1 / median(seconds):.2f} | {speed_ups[name]:.3f} "
            f"| {shares} |"
        )
    return [*lines, ""]


def _loading(measured: Mapping[str, Any]) -> float:
    return median(run["load_seconds"] for run in measured["throughput"][TWO])


def _handover(states: Mapping[str, Row]) -> list[str]:
    lines = [
        "## Hand-over\n",
        "From the end of a worker's step to when the next worker, which waits, holds the state. "
        "The sender is busy for that part of it, between its steps, in which it writes the state "
        "to shared memory. Two workers, the first with two modules, the second with one.\n",
        "| state | of | module [ms] | hand-overs | median [ms] | longest [ms] | / module "
        "| sender busy [ms] |",
        "|" + "---|" * 8,
    ]
    for state in states.values():
        seconds = state["handovers"]
        lines.append(
            f"| {state['state_bytes'] / 1e6:.2f} MB | {_size(state)} "
            f"| {1e3 * state['step_seconds']:.1f} | {len(seconds)} | {1e3 * median(seconds):.2f} "
            f"| {1e3 * max(seconds):.2f} | {_percent(_share(state))} "
            f"| {1e3 * median(state['gaps']):.2f} |"
        )
    return [*lines, ""]


def goals(measured: Mapping[str, Any], costs: Costs) -> list[str]:
    """A line for each goal: whether it is met, and by which numbers."""
    speed_up = _speed_ups(measured)[TWO]
    small, large = measured["handover"].values()
    long = costs.module >= SHORTEST
    seconds = median(small["handovers"])
    verdicts = [
        (
            speed_up >= SPEED_UP and long,
            f"two workers {speed_up:.2f} times as fast as one (goal: {SPEED_UP}, for modules of "
            f"{_ms(SHORTEST)} or more; these take {_ms(costs.module)})",
        ),
        (
            seconds < HANDOVER,
            f"hand-over of a 2D state of {small['state_bytes'] / 1e6:.2f} MB in {_ms(seconds)} "
            f"(goal: below {_ms(HANDOVER)})",
        ),
        (
            _share(large) < SHARE,
            f"hand-over of a state of {large['state_bytes'] / 1e6:.2f} MB in "
            f"{_percent(_share(large))} of a module's step (goal: below {_percent(SHARE)}), which "
            f"holds for steps above {_ms(median(large['handovers']) / SHARE)}",
        ),
    ]
    return [f"- {'met' if met else 'missed'}: {text}" for met, text in verdicts]


def _predictions(title: str, rows: Sequence[Row]) -> list[str]:
    lines = [
        f"**{title}**\n",
        "| devices | modules | iteration [ms] | iterations/s | speed-up | efficiency | idle |",
        "|" + "---|" * 7,
    ]
    for row in rows:
        cells = [
            *(str(row[key]) for key in ("devices", "modules")),
            *(f"{1e3 * row['seconds']:.1f}", f"{1 / row['seconds']:.2f}"),
            *(f"{row['speed_up']:.2f}", _percent(row["speed_up"] / row["devices"])),
            _percent(mean(row["idle"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _comparison(costs: Costs, fixed: Sequence[Row]) -> list[str]:
    lines = [
        f"## Beside pipeline parallelism, {MODULES} modules\n",
        "GPipe (arXiv 1811.06965) and 1F1B (arXiv 1806.03377, flushed as in 2006.09503) divide the "
        "same network among the devices, and m images into micro-batches of one; simulated with "
        "forward, backward and update times of end-to-end training and the same hand-over. They "
        "give the exact gradient of the whole network, which greedy training does not: its modules "
        "learn from their own losses. They pay for it with the bubble at every update, the "
        "activations of several micro-batches, and a message back for every one onward. The "
        "speed-up is over one device that trains in the same way. Bubble: (p - 1) / (m + p - 1) "
        "for p devices; idle is what the simulation finds, messages included. Activations: most at "
        "one device, without rematerialisation; of greedy training the peak of a step, to which "
        "the states in the queue come, wherever they wait.\n",
        "| devices | training | m | ms an image | speed-up | bubble | idle | micro-batches stored "
        "| activations [MB] | queued states [MB] | messages an image and link [MB] |",
        "|" + "---|" * 11,
    ]
    for row in fixed:
        lines.append(_compared("greedy-parallel", row, "", "0 %", _mb(row["queued_bytes"])))
        for count in MICRO_BATCHES:
            for schedule in SCHEDULES:
                rival = predict_pipeline(costs, schedule, row["devices"], MODULES, count)
                bubble = _percent(rival["bubble"])
                lines.append(_compared(schedule, rival, str(count), bubble, ""))
    return [*lines, ""]


def _compared(name: str, row: Row, micro_batches: str, share: str, queued: str) -> str:
    cells = [
        *(str(row["devices"]), name, micro_batches, f"{1e3 * row['seconds']:.1f}"),
        *(f"{row['speed_up']:.2f}", share, _percent(mean(row["idle"])), str(max(row["stored"]))),
        *(_mb(row["stored_bytes"]), queued, f"{row['message_bytes'] / 1e6:.2f}"),
    ]
    return "| " + " | ".join(cells) + " |"


def _share(state: Row) -> float:
    return median(state["handovers"]) / state["step_seconds"]


def _size(state: Row) -> str:
    return " x ".join(map(str, state["space"]))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
