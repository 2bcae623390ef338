"""The text, tables and figures of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.memory_report import Row, figure_title, statement, with_spread
from experiments.provenance import as_markdown
from experiments.report_blocks import (
    Block,
    Fold,
    Frames,
    Heading,
    Items,
    Picture,
    Slider,
    Table,
    Text,
)
from experiments.report_figures import draw_anytime, draw_memory, shrink, write_frames
from experiments.report_results import Outcome, Results, machine

ORDER = ("Same depth", "Time", "Same activation memory", "Parallel")
SETTINGS = ("variant", "strategy", "modules", "steps", "parameters")
ENDS = "dotted: images that no loss has asked for; markers: ends of modules"


def summary(outcomes: Sequence[Outcome]) -> list[Block]:
    """What became of the claims: at a glance, then every comparison."""
    titles = sorted({outcome.title: None for outcome in outcomes}, key=_place)
    groups = {title: [o for o in outcomes if o.title == title] for title in titles}
    rows = [[title, f"{_met(g)} of {len(g)}", *_range(g)] for title, g in groups.items()]
    return [
        Heading("What came out", 2),
        Text(
            "Every comparison counts, also those of variants that were tried and proved poor. "
            "Differences are means over test cases and seeds, ± the standard deviation over seeds; "
            "p is of a sign-flip permutation test over the test cases."
        ),
        Table(["claim", "met", "least", "most"], rows),
        *(block for title in titles for block in _comparisons(title, groups[title])),
    ]


def _place(title: str) -> int:
    """Where a claim stands in the summary."""
    known = [place for place, start in enumerate(ORDER) if title.startswith(start)]
    return known[0] if known else len(ORDER)


def sources(everything: Sequence[Results]) -> Table:
    """A line an experiment: the command that makes its results, and the machines it ran on."""
    rows = []
    for results in everything:
        problems = results.problems.values()
        runs = [origin for problem in problems for origin in problem["runs"]["provenance"]]
        costs = [problem["cost"]["provenance"] for problem in problems]
        rows.append([results.name, f"`{results.command}`", machine(runs), machine(costs)])
    return Table(["experiment", "command", "trained and tested on", "time and memory on"], rows)


def _met(group: Sequence[Outcome]) -> int:
    return sum(outcome.met for outcome in group)


def _range(group: Sequence[Outcome]) -> list[str]:
    known = [outcome for outcome in group if outcome.number is not None]
    ordered = sorted(known, key=lambda outcome: outcome.number or 0.0)
    return [ordered[0].value, ordered[-1].value] if ordered else ["", ""]


def _comparisons(title: str, group: Sequence[Outcome]) -> list[Block]:
    columns = {
        "experiment": [o.results for o in group],
        "problem": [o.problem for o in group],
        "comparison": [o.comparison for o in group],
        "came out": [o.value for o in group],
        "p": [o.p for o in group],
        "goal": [o.goal for o in group],
        "outcome": [_word(o) for o in group],
        "likely reason": [o.reason for o in group],
    }
    text = f"Met in {_met(group)} of {len(group)} comparisons."
    return [Heading(title, 3), Text(text), _filled(columns)]


def _word(outcome: Outcome) -> str:
    return "met" if outcome.met else "missed"


def section(results: Results, outcomes: Sequence[Outcome], figures: Path) -> list[Block]:
    """An experiment: each problem with its tables and figures, which go into a folder."""
    blocks: list[Block] = [
        Heading(results.name, 2),
        Text(f"`{results.command}` makes all that follows in this section."),
    ]
    for name in results.problems:
        own = [o for o in outcomes if (o.results, o.problem) == (results.name, name)]
        blocks += _problem(results, name, own, figures)
    return blocks


def _problem(
    results: Results, name: str, outcomes: Sequence[Outcome], figures: Path
) -> list[Block]:
    problem = results.problems[name]
    rows = problem["rows"]
    stem = f"{results.experiment}_{results.preset}_{name}"
    title = figure_title(name, problem)
    drawn = draw_memory(figures / f"{stem}_memory.webp", rows, title)
    blocks: list[Block] = [
        Heading(f"{results.name}: {name}", 3),
        Text(statement(problem)),
        _variants(results, name),
        *_zero_filled(results, name),
        Items([f"{_word(o)}: {_sentence(o)}" for o in outcomes]),
        *_parallel(problem),
        Picture(drawn, f"{name}: memory of a training step against image quality"),
    ]
    anytime = {
        row["variant"]: [_read(run / "anytime.json") for run in results.runs(name, row["variant"])]
        for row in rows
        if row["trained_as"] == row["variant"]
    }
    if anytime and all(anytime.values()):
        path = draw_anytime(figures / f"{stem}_anytime.webp", anytime, title)
        blocks += [
            Picture(path, f"{name}: image quality by step, mean ± deviation over seeds; {ENDS}"),
            *_images(results, name, figures, stem),
        ]
    return [*blocks, Fold(f"Where the numbers of {name} are from", [_origin(results, name)])]


def _variants(results: Results, name: str) -> Table:
    rows = results.problems[name]["rows"]
    runs = [results.runs(name, row["variant"]) for row in rows]
    seconds = [[_read(run / "result.json")["seconds"] for run in own] for own in runs]
    return _filled(
        {
            **{key: [str(row[key]) for row in rows] for key in SETTINGS},
            "peak [MB]": [f"{row['peak_bytes'] / 1e6:.2f}" for row in rows],
            "activations [MB]": [f"{row['activations_bytes'] / 1e6:.2f}" for row in rows],
            "step [ms]": [f"{1e3 * row['step_seconds']:.1f}" for row in rows],
            "/ checkpointing": [f"{row['time_over_checkpoint']:.2f}" for row in rows],
            "training [min]": [f"{np.mean(own) / 60:.1f}" if own else "" for own in seconds],
            "PSNR [dB]": [with_spread(row["psnr_mean"], row["psnr_std"], 2) for row in rows],
            "SSIM": [with_spread(row["ssim_mean"], row["ssim_std"], 4) for row in rows],
            "NRMSE": [with_spread(row["nrmse_mean"], row["nrmse_std"], 4) for row in rows],
        }
    )


def _filled(columns: dict[str, list[str]]) -> Table:
    """A table of those columns that hold anything."""
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    return Table([*filled], [*zip(*filled.values(), strict=True)])


def _zero_filled(results: Results, name: str) -> list[Block]:
    """What all variants start from, as the table of the first run has it."""
    runs = results.runs(name, results.problems[name]["rows"][0]["variant"])
    if not runs:
        return []
    lines = (runs[0] / "table.md").read_text(encoding="utf-8").splitlines()
    cells = next(line for line in lines if line.startswith("| zero-filled")).split("|")
    psnr, ssim, nrmse = (cell.strip() for cell in cells[2:5])
    return [
        Text(
            f"The zero-filled image has PSNR {psnr} dB, SSIM {ssim}, NRMSE {nrmse}: mean ± "
            "standard deviation over the test cases. In the table it is over the seeds of training."
        )
    ]


def _sentence(outcome: Outcome) -> str:
    reason = f" Likely reason: {outcome.reason}." if outcome.reason else ""
    title = outcome.title.partition(":")[0]
    goal = f"; goal {outcome.goal}" if outcome.goal else ""
    return f"{title}: {outcome.text}{goal}.{reason}"


def _parallel(problem: Row) -> list[Block]:
    found = problem.get("parallel")
    if not found:
        return []
    head = ["workers", "iteration [ms]", "speed over serial", "weights and losses"]
    rows = [
        [
            str(row["workers"] or "serial"),
            f"{1e3 * row['seconds']:.1f}",
            f"{row['speed']:.2f}",
            ("bitwise the same" if row["equal"] else "differ") if row["workers"] else "",
        ]
        for row in found["rows"]
    ]
    text = f"{found['variant']} through Ray, {found['iterations']} iterations, one thread each:"
    return [Text(text), Table(head, rows)]


def _images(results: Results, name: str, figures: Path, stem: str) -> list[Block]:
    """Of one network trained end to end and one greedy, with the first seed."""
    pair = comparison_of(results.problems[name])
    first = {variant: results.runs(name, variant)[0] for variant in pair}
    frames = [_frames(variant, run, figures, stem) for variant, run in first.items()]
    reference = np.load(next(iter(first.values())) / "anytime.npz")["reference"]
    path = write_frames(reference[None], figures / f"{stem}_reference.webp")
    seed = f"seed of training {results.problems[name]['seeds'][0]}"
    blocks: list[Block] = [
        Text(f"A test case, the median of the zero-filled images, step by step; {seed}:"),
        Slider([Frames("reference", path, reference.shape), *frames]),
    ]
    for variant, run in first.items():
        target = figures / f"{stem}_{variant}_images.webp"
        blocks += [
            Text(f"The worst, median and best test case of {variant}; {seed}:"),
            Picture(shrink(run / "images.png", target), f"{name}, {variant}: test cases"),
        ]
    return [
        *blocks,
        Fold(f"Learning curves of {name}; {seed}", _curves(results, name, figures, stem)),
    ]


def _curves(results: Results, name: str, figures: Path, stem: str) -> list[Block]:
    """Of every variant that was trained."""
    trained = [
        row["variant"]
        for row in results.problems[name]["rows"]
        if row["trained_as"] == row["variant"]
    ]
    return [
        Picture(
            shrink(
                results.runs(name, variant)[0] / "curves.png",
                figures / f"{stem}_{variant}_curves.webp",
            ),
            f"{name}, {variant}: loss of every module, and validation",
        )
        for variant in trained
    ]


def _frames(variant: str, run: Path, figures: Path, stem: str) -> Frames:
    images = np.load(run / "anytime.npz")["images"]
    anytime = _read(run / "anytime.json")
    path = write_frames(images, figures / f"{stem}_{variant}_steps.webp")
    return Frames(variant, path, images.shape[1:], anytime["case_psnr"], anytime["ends"])


def comparison_of(problem: Row) -> list[str]:
    """The deepest variant trained end to end, and the greedy one its memory allows, or the best."""
    plain = [row for row in problem["rows"] if row["strategy"] == "backprop"]
    greedy = [row for row in problem["rows"] if row["strategy"] == "greedy"]
    if not plain or not greedy:
        return [problem["rows"][0]["variant"]]
    deepest = max(plain, key=lambda row: row["steps"])["variant"]
    best = max(greedy, key=lambda row: row["validation_psnr"])["variant"]
    fitting = [
        claim["variant"]
        for claim in problem["claims"]
        if claim["title"].startswith("Same activation memory") and claim["against"] == deepest
    ]
    return [deepest, next(iter(filter(None, fitting)), best)]


def _origin(results: Results, name: str) -> Items:
    problem = results.problems[name]
    cost, parallel = problem["cost"], problem.get("parallel")
    return Items(
        [
            f"command: `{results.command}`",
            *(f"{n} runs: {where}" for where, n in problem["runs"]["provenance"].items()),
            f"time and memory ({cost['source']}, {cost['repeats']} rounds): {cost['provenance']}",
            *(
                [f"several workers: {as_markdown(parallel['provenance']).strip()}"]
                if parallel
                else []
            ),
        ]
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
