"""Table and figure of the networks that grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.memory_figure import COLOURS
from experiments.memory_report import write_json
from experiments.provenance import as_markdown
from gleam.config import Config, dump_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEDY, END_TO_END = "greedy", "end-to-end"
GREEDY_COLOUR, OTHER_COLOUR = COLOURS[0], COLOURS[1]


def summarise(
    preset: str,
    base: Config,
    depths: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``results.json`` holds.

    Args:
        preset: its name.
        base: configuration of the network before it grows.
        depths: that it grows to.
        results: of every seed, as :func:`experiments.depth.grow_and_test` writes them.
        cost: as :func:`experiments.memory_cost.measure` returns it, with its provenance.
    """
    psnr = {name: np.array([r["psnr"][name] for r in results]) for name in (GREEDY, END_TO_END)}
    everything = [base.network.steps, *depths]
    gain = psnr[GREEDY] - psnr[GREEDY][..., [base.network.steps]]
    sources = Counter(as_markdown(result["provenance"]).strip() for result in results)
    measured = cost["measured"]
    return {
        "preset": preset,
        "seeds": [result["seed"] for result in results],
        "settings": dump_config(base),
        "length": base.trained_steps // base.modules,
        "rows": [
            {
                "steps": depth,
                **_quality(psnr[GREEDY][..., depth], "psnr"),
                **_quality(gain[..., depth], "gain"),
                **_cost(measured[f"{GREEDY} {depth}"], ""),
                **_cost(measured[f"{END_TO_END} {depth}"], "end_to_end_"),
                "training_seconds": float(np.mean([r["seconds"][str(depth)] for r in results])),
            }
            for depth in everything
        ],
        "end_to_end": {
            **_quality(psnr[END_TO_END][..., -1], "psnr"),
            "training_seconds": float(np.mean([r["seconds"][END_TO_END] for r in results])),
        },
        "by_step": {
            name: {"mean": values.mean((0, 1)).tolist(), "seeds": values.mean(1).tolist()}
            for name, values in psnr.items()
        },
        "psnr": {name: values.tolist() for name, values in psnr.items()},
        "provenance": dict(sources),
        "cost": {
            "source": measured[f"{GREEDY} {everything[0]}"]["source"],
            "repeats": cost["repeats"],
            "provenance": as_markdown(cost["provenance"]).strip(),
        },
    }


def _quality(values: np.ndarray, name: str) -> dict[str, float | None]:
    """Mean [dB] of values ``(seeds, cases)``, and the deviation of the means along either axis."""
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_std_cases": _deviation(values.mean(0)),
        f"{name}_std_seeds": _deviation(values.mean(1)),
    }


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _cost(measured: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}activations_bytes": measured["parts"]["activations"],
        f"{prefix}peak_bytes": measured["peak_bytes"],
        f"{prefix}step_seconds": median(measured["seconds"]),
    }


def write_report(report: Mapping[str, Any], folder: Path, stem: str) -> None:
    """Write ``stem.json``, ``stem.md`` and ``stem.png``, and print the table."""
    write_json(folder / f"{stem}.json", report)
    draw(folder / f"{stem}.png", report)
    text = markdown(report, stem)
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    print(text)


def markdown(report: Mapping[str, Any], stem: str) -> str:
    """The whole report as Markdown."""
    rows, length = report["rows"], report["length"]
    first, cost, sources = rows[0]["steps"], report["cost"], report["provenance"]
    lines = [
        "# Depth without more memory\n",
        f"`python -m experiments.depth --preset {report['preset']}`\n",
        f"A network of {first} steps is trained greedily in modules of {length}, and grown to one "
        "depth after another (`gleam grow`): what is there stays as it is. PSNR (complex) after "
        "so many steps: mean ± standard deviation over the test cases; gain over the first depth, "
        "of each case. Activations: most memory of tensors that are neither parameter, gradient, "
        "optimizer state nor measurement at any time of a training step. Time: median of a "
        "training step with one thread, all depths in turn. End to end: the same of a network of "
        "that depth trained by backpropagation.\n",
        *(f"- runs of {n} seed{'s'[: n > 1]}: {where}" for where, n in sources.items()),
        f"- cost, {cost['source']}, {cost['repeats']} rounds: {cost['provenance']}\n",
        _setting(report),
        "",
        *_table(rows),
        "",
        _other(report),
        "",
        f"![PSNR after each step]({stem}.png)\n",
        *_steps(report),
    ]
    return "\n".join(lines) + "\n"


def _setting(report: Mapping[str, Any]) -> str:
    data, network = report["settings"]["data"], report["settings"]["network"]
    training, mask = report["settings"]["training"], data["mask"]
    return (
        f"Simulated {data['anatomy']}, {' x '.join(map(str, data['size']))}, {data['coils']} coils,"
        f" {mask['kind']} R = {mask['acceleration']:g}, {data['train']} subjects to train on, "
        f"{len(report['psnr'][GREEDY][0])} test cases; {network['step']}, {network['features']} "
        f"features; {training['iterations']} iterations whenever it grows; seeds {report['seeds']}."
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    several = rows[0]["psnr_std_seeds"] is not None
    heads = ["steps", "PSNR [dB]", "gain [dB]", *(["over seeds [dB]"] if several else [])]
    heads += ["activations [MB]", "time [ms]", "training [min]"]
    heads += ["end to end: activations [MB]", "time [ms]"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [str(row["steps"]), _spread(row, "psnr"), _spread(row, "gain")]
        cells += [f"± {row['psnr_std_seeds']:.2f}"] if several else []
        cells += [
            f"{row['activations_bytes'] / 1e6:.2f}",
            f"{1e3 * row['step_seconds']:.0f}",
            f"{row['training_seconds'] / 60:.1f}",
            f"{row['end_to_end_activations_bytes'] / 1e6:.2f}",
            f"{1e3 * row['end_to_end_step_seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _spread(row: Mapping[str, Any], name: str) -> str:
    spread = row[f"{name}_std_cases"]
    return f"{row[f'{name}_mean']:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def _other(report: Mapping[str, Any]) -> str:
    other, first = report["end_to_end"], report["rows"][0]["steps"]
    return (
        f"Trained end to end, a network of {first} steps reaches {_spread(other, 'psnr')} dB in "
        f"{other['training_seconds'] / 60:.1f} min."
    )


def _steps(report: Mapping[str, Any]) -> list[str]:
    first = report["rows"][0]["steps"]
    lines = [
        "PSNR [dB] after each of the first steps:\n",
        "| trained | " + " | ".join(map(str, range(first + 1))) + " |",
        "|" + "---|" * (first + 2),
    ]
    for name in (GREEDY, END_TO_END):
        values = report["by_step"][name]["mean"][: first + 1]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return lines


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """PSNR after each step above, memory of training networks of that depth below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 6.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    _draw_quality(above, report)
    _draw_memory(below, report["rows"])
    for axes in (above, below):
        axes.grid(True, color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, frameon=False)
    below.set_xlabel("unrolled steps")
    figure.savefig(path, dpi=200)


def _draw_quality(axes: Axes, report: Mapping[str, Any]) -> None:
    rows, length = report["rows"], report["length"]
    first, last = rows[0]["steps"], rows[-1]["steps"]
    greedy, other = (np.array(report["by_step"][name]["seeds"]) for name in (GREEDY, END_TO_END))
    label = f"greedy: at the end of each module of {length} steps, grown at the rings"
    _curve(axes, range(0, last + 1, length), greedy, GREEDY_COLOUR, "o-", label)
    axes.plot(
        greedy.mean(0), color=GREEDY_COLOUR, linewidth=0.7, alpha=0.5, label="after each step"
    )
    label = f"end to end, {first} steps: after each step"
    _curve(axes, range(first + 1), other, OTHER_COLOUR, "s--", label)
    grown = [row["steps"] for row in rows]
    rings = axes.plot(grown, greedy.mean(0)[grown], "o", color=GREEDY_COLOUR, markersize=10)
    rings[0].set_markerfacecolor("none")
    axes.set_ylabel("PSNR of the test cases [dB]")
    count = len(report["seeds"])
    axes.set_title(f"PSNR where a network is stopped, {count} seed{'s'[: count > 1]}", fontsize=10)


def _curve(
    axes: Axes, steps: range, seeds: np.ndarray, colour: str, style: str, label: str
) -> None:
    """The mean over seeds ``(seeds, steps + 1)`` after some steps, and the range of several."""
    chosen = seeds[:, list(steps)]
    axes.plot(steps, chosen.mean(0), style, color=colour, markersize=3.5, label=label)
    if len(seeds) > 1:
        band = chosen.min(0), chosen.max(0)
        axes.fill_between(steps, *band, color=colour, alpha=0.15, linewidth=0)


def _draw_memory(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    depths = [row["steps"] for row in rows]
    for key, colour, style, label in (
        ("activations_bytes", GREEDY_COLOUR, "o-", "greedy, grown"),
        ("end_to_end_activations_bytes", OTHER_COLOUR, "s--", "end to end"),
    ):
        axes.plot(
            depths, [row[key] / 1e6 for row in rows], style, color=colour, markersize=5, label=label
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("activations of\na training step [MB]")
