"""Report of all finished reproductions: one HTML page and one Markdown file, read without the code.

    python -m experiments.report [FOLDER ...] [--out experiments/results/report]

Gathers what experiments left: the folders given, by default every ``runs/*/*/results.json`` and the
committed results, but for presets that only try things out. Likely reasons for missed claims are
written by hand in ``experiments/results/notes.yaml``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.provenance import RESULTS, as_markdown, provenance
from experiments.report_blocks import Block, Heading, Text, to_markdown
from experiments.report_content import measured, section, summary
from experiments.report_further import (
    appended,
    further_outcomes,
    has_problems,
    listed,
    read_further,
)
from experiments.report_html import to_html
from experiments.report_results import outcomes_of, read_notes, read_results

OUT = RESULTS / "report"
NOTES = RESULTS / "notes.yaml"
RUNS = Path("runs")
TRIALS = ("quick", "tuning")  # presets that are to show nothing


def gather(runs: Path = RUNS, committed: Path = RESULTS) -> list[Path]:
    """Files of results: of finished runs, and committed ones of which there are no runs here."""
    found: dict[tuple[str, str], Path] = {}
    for path in [*sorted(runs.glob("*/*/results.json")), *sorted(committed.glob("*.json"))]:
        if has_problems(path):
            results = read_results(path)
            found.setdefault((results.experiment, results.preset), path)
    return [path for (_, preset), path in found.items() if preset not in TRIALS]


def write_report(
    folders: Sequence[Path], out: Path, further: Path | None = RESULTS, notes: Path = NOTES
) -> list[Path]:
    """Write ``report.html``, ``report.md`` and the folder ``figures`` that the latter shows.

    Args:
        folders: of presets, with ``results.json``; or such files themselves.
        out: folder to write to.
        further: a folder of results whose Markdown files are appended.
        notes: YAML file of likely reasons for missed claims.

    Returns:
        The page and the Markdown file.
    """
    everything = [read_results(p / "results.json" if p.is_dir() else p) for p in folders]
    others = [] if further is None else read_further(further)
    reasons = read_notes(notes)
    outcomes = [
        *(outcome for results in everything for outcome in outcomes_of(results, reasons)),
        *(outcome for other in others for outcome in further_outcomes(other, reasons)),
    ]
    blocks: list[Block] = [
        Heading("Greedy training of unrolled MRI networks: what was reproduced", 1),
        Text(f"`python -m experiments.report` wrote this; {as_markdown(provenance()).strip()}."),
        *summary(outcomes),
        *measured(everything),
    ]
    for results in everything:
        blocks += section(results, outcomes, out / "figures")
    page = [*blocks, *appended(others, out / "figures")]
    written = [out / "report.html", out / "report.md"]
    out.mkdir(parents=True, exist_ok=True)
    written[0].write_text(to_html(page), encoding="utf-8")
    written[1].write_text(to_markdown([*blocks, *listed(others, out)], out), encoding="utf-8")
    return written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, help="default: all that has finished")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    arguments = parser.parse_args()
    for path in write_report(arguments.folders or gather(), arguments.out):
        print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
