"""Figure of the scaling benchmark: speed-up against devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.memory_figure import COLOURS
from experiments.scaling_model import SCHEDULES
from experiments.scaling_prediction import Costs, predict_greedy, predict_pipeline

DEVICES = [2**power for power in range(7)]
STYLES = ("o-", "s-", "x--", "^-", "+--")  # 1F1B is dashed, for GPipe lies beneath it


def draw(
    path: Path,
    costs: Costs,
    modules: int,
    micro_batches: Sequence[int],
    measured: Mapping[str, Sequence[float]],
) -> None:
    """A curve for each way to train, and what was measured.

    Args:
        path: PNG file to write.
        costs: to predict from.
        modules: of the network that the devices divide.
        micro_batches: of the pipelines.
        measured: by label, the speed-up of one, two and so on workers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(DEVICES, DEVICES, color="0.6", linewidth=0.8, linestyle=":", label="ideal")
    curves = _curves(costs, modules, micro_batches)
    for (label, values), colour, style in zip(curves.items(), COLOURS, STYLES, strict=False):
        axes.plot(DEVICES, values, style, color=colour, label=label)
    for label, found in measured.items():
        axes.plot(range(1, 1 + len(found)), found, "*", color="black", markersize=11, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("devices")
    axes.set_ylabel("speed-up over one device that trains in the same way")
    axes.set_title(f"{modules} modules of {1e3 * costs.module:.3g} ms", fontsize=10)
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=200)


def _curves(costs: Costs, modules: int, micro_batches: Sequence[int]) -> dict[str, list[float]]:
    greedy = [predict_greedy(costs, count, modules) for count in DEVICES]
    curves = {"greedy-parallel, predicted": [row["speed_up"] for row in greedy]}
    for many in micro_batches:
        for schedule in SCHEDULES:
            rows = [predict_pipeline(costs, schedule, count, modules, many) for count in DEVICES]
            curves[f"{schedule}, {many} micro-batches"] = [row["speed_up"] for row in rows]
    return curves
