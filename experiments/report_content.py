"""The text, tables and figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.memory_report import Row, figure_title, statement, with_spread
from experiments.provenance import as_markdown
from experiments.report_blocks import (
    Block,
    Fold,
    Heading,
    Items,
    Picture,
    Table,
    Text,
)
from experiments.report_figures import draw_anytime, draw_memory
from experiments.report_images import images_of, read_json
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


def measured(everything: Sequence[Results]) -> list[Block]:
    """How, and a line an experiment: the command that makes its results, and the machines."""
    rows = []
    for results in everything:
        problems = results.problems.values()
        runs = [origin for problem in problems for origin in problem["runs"]["provenance"]]
        costs = [problem["cost"]["provenance"] for problem in problems]
        rows.append([results.name, f"`{results.command}`", machine(runs), machine(costs)])
    text = (
        "Peak: most memory of tensors held at any time of a training step; activations are what is "
        "neither parameter, gradient, optimizer state nor measurement. Step: median time with one "
        "thread, all variants in turn; / checkpointing: its ratio to checkpointing of the same "
        "depth. PSNR (of complex images), SSIM and NRMSE: mean over the test cases, then mean ± "
        "standard deviation over the seeds of training. Training: time of all steps of a run; the "
        "machine ran others beside it."
    )
    head = ["experiment", "command", "trained and tested on", "time and memory on"]
    return [Heading("How it was measured", 2), Text(text), Table(head, rows)]


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
    trained = [row["variant"] for row in rows if row["trained_as"] == row["variant"]]
    anytime = {
        variant: [read_json(run / "anytime.json") for run in results.runs(name, variant)]
        for variant in trained
    }
    if anytime and all(anytime.values()):
        path = draw_anytime(figures / f"{stem}_anytime.webp", anytime, title)
        blocks += [
            Picture(path, f"{name}: image quality by step, mean ± deviation over seeds; {ENDS}"),
            *images_of(results, name, figures, stem),
        ]
    return [*blocks, Fold(f"Where the numbers of {name} are from", [_origin(results, name)])]


def _variants(results: Results, name: str) -> Table:
    rows = results.problems[name]["rows"]
    runs = [results.runs(name, row["variant"]) for row in rows]
    seconds = [[read_json(run / "result.json")["seconds"] for run in own] for own in runs]
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
    title = outcome.title.partition(":")[0]
    return f"{title}: {outcome.text}" + (f"; goal {outcome.goal}" if outcome.goal else "")


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
