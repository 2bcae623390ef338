"""Figure of the memory benchmark: peak activations against PSNR, with the time of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours, told apart by the colour-blind, then some more; markers differ as well.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
    *("#8C510A", "#5E3C99", "#999999", "#7F0000", "#808000"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
AREA = 160.0  # of the marker of the slowest step, in square points
FONT = 8
# Where a label may stand beside its point: directions, and distances in points.
DIRECTIONS = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0))
DISTANCES = (4, 9, 16, 26, 38, 52)
MARGIN = 8  # of a marker around its middle, in pixels

Row = Mapping[str, Any]


def draw(
    path: Path, rows: Sequence[Row], title: str, size: tuple[float, float] = (8.4, 5.8)
) -> None:
    """One curve for every value of "curve", a point a variant.

    The area of a marker is proportional to the time of a step; beside it stand the number of steps
    and that time. Error bars are the standard deviation over seeds.

    Args:
        path: PNG file to write.
        rows: of the table of one problem.
        title: of the figure.
        size: of the figure in inches, to which letters keep theirs.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _decorate(axes, title, [row["activations_bytes"] / 1e6 for row in rows])
    curves: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["steps"]):
        curves.setdefault(row["curve"], []).append(row)
    slowest = max(row["step_seconds"] for row in rows)
    labels = []
    for number, curve in enumerate(dict.fromkeys(row["curve"] for row in rows)):
        colour = COLOURS[number % len(COLOURS)]
        _curve(axes, curve, curves[curve], slowest, colour, MARKERS[number % len(MARKERS)])
        labels += [_label(axes, row, colour) for row in curves[curve]]
    legend = axes.legend(fontsize=FONT + 1, frameon=False, loc="best")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([AREA / 3])  # type: ignore[attr-defined]
    canvas.draw()  # where things are is known only then
    figure.set_layout_engine("none")  # and they stay there
    _spread_out(axes, labels, [legend.get_window_extent(), *_drawn(axes, curves.values())])
    figure.savefig(path, dpi=200)


def _decorate(axes: Axes, title: str, memory: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    margin = max(1.2, (max(memory) / min(memory)) ** 0.12)  # room for labels
    axes.set_xlim(min(memory) / margin, max(memory) * margin)
    axes.margins(y=0.1)
    axes.set_xlabel("peak activation memory of a training step [MB]")
    axes.set_ylabel("PSNR of the test cases [dB]")
    axes.set_title(f"{title}\narea of a marker: time of a step", fontsize=FONT + 2)
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(
    axes: Axes, name: str, points: Sequence[Row], slowest: float, colour: str, marker: str
) -> None:
    memory = [row["activations_bytes"] / 1e6 for row in points]
    quality = [row["psnr_mean"] for row in points]
    spread = [row["psnr_std"] or 0.0 for row in points]
    axes.errorbar(memory, quality, spread, color=colour, linewidth=1.1, capsize=3, alpha=0.7)
    areas = [AREA * row["step_seconds"] / slowest for row in points]
    axes.scatter(
        memory, quality, areas, color=colour, marker=marker, edgecolor="white", zorder=3, label=name
    )


def _label(axes: Axes, row: Row, colour: str) -> Annotation:
    from matplotlib.colors import to_rgb

    plural = "s"[: row["steps"] > 1]
    return axes.annotate(
        f"{row['steps']} step{plural}, {1e3 * row['step_seconds']:.0f} ms",
        (row["activations_bytes"] / 1e6, row["psnr_mean"]),
        (0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT,
        color=[0.7 * part for part in to_rgb(colour)],  # darker, to be read
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6},
        zorder=4,
    )


def _drawn(axes: Axes, curves: Iterable[Sequence[Row]]) -> list[Bbox]:
    """What labels must not hide: markers, error bars and lines, as boxes in pixels."""
    from matplotlib.transforms import Bbox

    def pixels(row: Row, sigmas: float = 0.0) -> np.ndarray:
        quality = row["psnr_mean"] + sigmas * (row["psnr_std"] or 0.0)
        return axes.transData.transform((row["activations_bytes"] / 1e6, quality))

    boxes = []
    for points in curves:
        for row in points:
            bar = [pixels(row, -1), pixels(row), pixels(row, 1)]
            boxes.append(Bbox([np.min(bar, 0) - MARGIN, np.max(bar, 0) + MARGIN]))
        for one, other in pairwise(points):
            for place in np.linspace(pixels(one), pixels(other), 60):
                boxes.append(Bbox([place - 1, place + 1]))
    return boxes


def _spread_out(axes: Axes, labels: Sequence[Annotation], taken: list[Bbox]) -> None:
    """Move every label to the nearest place beside its point where nothing else stands.

    Where there is none, it covers as few things as possible.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    unit = axes.figure.dpi / 72
    frame = axes.get_window_extent()

    def trouble(box: Bbox) -> tuple[bool, int]:
        inside = frame.contains(*box.min) and frame.contains(*box.max)
        return not inside, box.count_overlaps(taken)

    for label in labels:
        half = np.array(Text.get_window_extent(label).size) / 2  # without its leader line
        point = axes.transData.transform(label.xy)
        offsets = [np.array(d) * (r * unit + half) for r in DISTANCES for d in DIRECTIONS]
        boxes = [Bbox([point + o - half, point + o + half]) for o in offsets]
        best = min(range(len(boxes)), key=lambda number: trouble(boxes[number]))
        label.set_position(tuple(offsets[best] / unit))
        taken.append(boxes[best])
