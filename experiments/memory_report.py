"""Tables and claims of the memory benchmark, computed from the files that its runs left."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.memory_claims import Goals, claims_of
from experiments.memory_figure import draw
from experiments.memory_problems import Problem
from experiments.provenance import as_markdown
from experiments.step_cost import ratio
from gleam.config import Config

METRICS = ("psnr", "ssim", "nrmse")

Row = dict[str, Any]


def summarise_problem(
    folder: Path, name: str, problem: Problem, goals: Goals | None = None
) -> dict[str, Any]:
    """Rows, claims and sources of one problem, as ``results.json`` holds them.

    Args:
        folder: of the benchmark, with ``cost.json`` and a ``result.json`` of every run.
        name: of the problem.
        problem: its settings.
        goals: of the claims.
    """
    curves = problem.curves
    cost = _read(folder / "cost.json")[name]
    runs = {
        variant: [
            _read(folder / "runs" / name / trained / str(seed) / "result.json")
            for seed in problem.seeds
        ]
        for variant, trained in problem.trained_as.items()
    }
    first = next(iter(runs.values()))[0]
    rows = [
        {
            "problem": name,
            "variant": variant,
            "curve": curves[variant],
            "trained_as": problem.trained_as[variant],
            **_settings(config),
            **_costs(variant, cost, config.network.steps),
            **_scores(runs[variant]),
        }
        for variant, config in problem.configs.items()
    ]
    psnr = {
        variant: np.array([[case["psnr"] for case in run["cases"]] for run in runs[variant]])
        for variant in curves
    }
    times = {variant: measured["seconds"] for variant, measured in cost["measured"].items()}
    sources = Counter(as_markdown(run["provenance"]).strip() for r in runs.values() for run in r)
    return {
        "goal": problem.goal,
        "seeds": problem.seeds,
        "cases": [case["scan"] for case in first["cases"]],
        "settings": first["settings"],
        "rows": rows,
        "claims": claims_of(rows, psnr, times, cost["references"], problem.goal, goals or Goals()),
        "runs": {"provenance": dict(sources), "metrics": {v: _metrics(r) for v, r in runs.items()}},
        "cost": {
            "source": cost["measured"][rows[0]["variant"]]["source"],
            "repeats": cost["repeats"],
            "provenance": as_markdown(cost["provenance"]).strip(),
        },
    }


def _settings(config: Config) -> Row:
    return {
        "strategy": config.strategy.name,
        "modules": config.modules,
        "steps": config.network.steps,
        "lookahead": config.strategy.lookahead,
        "hidden": config.network.hidden,
        "regularizer": config.network.regularizer,
        "features": config.network.features,
        "learning_rate": config.training.learning_rate,
    }


def _costs(name: str, cost: Mapping[str, Any], steps: int) -> Row:
    """Times in seconds, memory in bytes."""
    measured = cost["measured"][name]
    times = {other: values["seconds"] for other, values in cost["measured"].items()}
    return {
        "parameters": measured["parameters"],
        "peak_bytes": measured["peak_bytes"],
        **{f"{part}_bytes": size for part, size in measured["parts"].items()},
        "step_seconds": median(measured["seconds"]),
        **{key: measured[key] for key in ("forward_seconds", "backward_seconds", "update_seconds")},
        "time_over_checkpoint": ratio(times, name, cost["references"][str(steps)]),
    }


def _scores(runs: Sequence[Mapping[str, Any]]) -> Row:
    """Mean over cases, then mean and standard deviation over seeds; PSNR in dB."""
    row: Row = {
        "seeds": len(runs),
        "validation_psnr": float(np.mean([run["validation_psnr"] for run in runs])),
    }
    for metric in METRICS:
        means = [np.mean([case[metric] for case in run["cases"]]) for run in runs]
        row[f"{metric}_mean"] = float(np.mean(means))
        row[f"{metric}_std"] = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return row


def _metrics(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        str(run["seed"]): {metric: [case[metric] for case in run["cases"]] for metric in METRICS}
        for run in runs
    }


def write_report(report: Mapping[str, Any], folder: Path, stem: str) -> None:
    """Write ``stem.csv``, ``.json``, ``.md`` and a figure ``stem_PROBLEM.png`` for each problem."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = report["problems"]
    write_json(folder / f"{stem}.json", report)
    rows = [row for problem in problems.values() for row in problem["rows"]]
    temporary = folder / f"{stem}.csv.partial"
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, folder / f"{stem}.csv")
    for name, problem in problems.items():
        draw(folder / f"{stem}_{name}.png", problem["rows"], figure_title(name, problem))
    text = markdown(report, stem)
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    print(text)


def write_json(path: Path, content: Any) -> None:
    """Write beside and rename: a crash leaves the file that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def markdown(report: Mapping[str, Any], stem: str) -> str:
    """The whole report as Markdown; figures are named after ``stem``."""
    lines = [
        f"# {report['title']}\n",
        f"`{report['command']}`\n",
        "One line a variant. PSNR (complex) and SSIM: mean over the test cases, then mean ± "
        "standard deviation over the seeds of training. Peak: most memory of tensors held at any "
        "time of a training step, of which activations are what is neither parameter, gradient, "
        "optimizer state nor measurement; exact on a CPU, where offloaded activations still count. "
        "Time: median of a step with one thread, all variants in turn; its ratio to checkpointing "
        "of the same depth is the median of the ratios within a round. Forward and backward do not "
        "hold the update of the parameters. Rate: of learning. Of greedy variants that fit a "
        "memory, that with the best PSNR on validation scans is compared; p is of a sign-flip "
        "permutation test.\n",
    ]
    for name, problem in report["problems"].items():
        lines += _sources(name, problem)
    for name, problem in report["problems"].items():
        lines += [f"\n## {name}\n", statement(problem), "", *_table(problem["rows"]), ""]
        lines += _copies(problem["rows"])
        lines += [f"![{name}]({stem}_{name}.png)\n", *_claims(problem["claims"])]
        lines += _parallel(problem.get("parallel"))
    return "\n".join(lines)


def _sources(name: str, problem: Mapping[str, Any]) -> list[str]:
    cost = problem["cost"]
    return [
        *(f"- {name}, {n} runs: {where}" for where, n in problem["runs"]["provenance"].items()),
        f"- {name}, cost, {cost['source']}, {cost['repeats']} rounds: {cost['provenance']}",
    ]


def figure_title(name: str, problem: Mapping[str, Any]) -> str:
    """What stands above a problem's figures."""
    seeds = len(problem["seeds"])
    scans = _scans(problem["settings"]["data"])
    return f"{name}: {scans}, {len(problem['cases'])} cases, {seeds} seed{'s'[: seeds > 1]}"


def statement(problem: Mapping[str, Any]) -> str:
    """What a problem is, in a sentence."""
    settings = problem["settings"]
    data, training, mask = settings["data"], settings["training"], settings["data"]["mask"]
    return (
        f"{_scans(data)}, {_words(mask['kind'])} R = {_words(mask['acceleration'])}, "
        f"{data['train']} subjects to train on, "
        f"{len(problem['cases'])} test cases; {settings['network']['step']}, "
        f"{training['iterations']} iterations of batch {training['batch_size']}, "
        f"{training['loss']} loss; seeds {problem['seeds']}, of the test scans "
        f"{settings['test_seed']}."
    )


def _scans(data: Mapping[str, Any]) -> str:
    if data["path"] is not None:
        return f"Scans of {data['path']}"
    size = " x ".join(map(str, data["size"]))
    return f"Simulated {_words(data['anatomy'])}, {size}, {_words(data['coils'])} coils"


def _words(value: Any) -> str:
    """A setting that may be a list of values to draw from."""
    values = value if isinstance(value, list) else [value]
    return " or ".join(v if isinstance(v, str) else f"{v:g}" for v in values)


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| variant | strategy | modules | steps | lookahead | hidden | rate | parameters "
        "| peak [MB] | activations [MB] | step [ms] | forward + backward [ms] | / checkpoint "
        "| PSNR [dB] | SSIM |",
        "|" + "---|" * 15,
    ]
    for row in rows:
        phases = (f"{1e3 * row[f'{phase}_seconds']:.1f}" for phase in ("forward", "backward"))
        cells = [
            *(str(row[key]) for key in ("variant", "strategy", "modules", "steps")),
            *(str(row[key]) for key in ("lookahead", "hidden")),
            f"{row['learning_rate']:g}",
            str(row["parameters"]),
            f"{row['peak_bytes'] / 1e6:.2f}",
            f"{row['activations_bytes'] / 1e6:.2f}",
            f"{1e3 * row['step_seconds']:.1f}",
            " + ".join(phases),
            f"{row['time_over_checkpoint']:.2f}",
            with_spread(row["psnr_mean"], row["psnr_std"], 2),
            with_spread(row["ssim_mean"], row["ssim_std"], 4),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _copies(rows: Sequence[Row]) -> list[str]:
    copies = [
        f"{row['variant']} as {row['trained_as']}"
        for row in rows
        if row["trained_as"] != row["variant"]
    ]
    if not copies:
        return []
    return [f"Not trained anew, the weights being the same bit for bit: {', '.join(copies)}.\n"]


def with_spread(mean: float, deviation: float | None, digits: int) -> str:
    """Mean ± standard deviation, if there is one."""
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for title in dict.fromkeys(claim["title"] for claim in claims):
        lines.append(f"**{title}**\n")
        for claim in claims:
            if claim["title"] == title:
                lines.append(f"- {'met' if claim['met'] else 'missed'}: {claim['text']}")
        lines.append("")
    return lines


def _parallel(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = [
        f"**Parallel: {found['variant']} through Ray, {found['iterations']} iterations**\n",
        "| workers | an iteration [ms] | speed over serial | weights and losses |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        same = "bitwise the same" if row["equal"] else "differ"
        same = same if row["workers"] else ""
        lines.append(
            f"| {row['workers'] or 'serial'} | {1e3 * row['seconds']:.1f} | {row['speed']:.2f} "
            f"| {same} |"
        )
    return [*lines, f"\nMeasured with {as_markdown(found['provenance'])}"]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
