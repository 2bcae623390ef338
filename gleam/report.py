"""Evaluations as tables and pictures."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gleam.evaluation import Evaluation
from gleam.plots import comparison

COLUMNS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "nrmse": "NRMSE"}
DIGITS = {"psnr": 2, "ssim": 4, "nrmse": 4}


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print mean and standard deviation over slices, a line a method, and what was left out."""
    rows = _rows(evaluation)
    table = Table(
        title="complex metrics, mean ± standard deviation over slices\n"
        f"true acceleration {_accelerations(evaluation)}"
    )
    for cell in rows[0]:
        table.add_column(Text(cell))  # as Text: in a string, rich takes [dB] for markup
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
    for reason in evaluation.skipped:
        console.print(f"left out: {reason}", highlight=False)


def markdown_table(evaluation: Evaluation) -> str:
    """The same table in Markdown."""
    head, *rows = _rows(evaluation)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write ``metrics.json``, ``table.md`` and pictures of the worst, median and best slice.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.json"
    content = {
        "slices": evaluation.slices,
        "scans": evaluation.scans,
        "summary": evaluation.summary,
        "scan_summary": evaluation.scan_summary,
        "accelerations": evaluation.accelerations,
        "skipped": evaluation.skipped,
    }
    metrics.write_text(json.dumps(content, indent=1), encoding="utf-8")
    table = folder / "table.md"
    table.write_text(markdown_table(evaluation), encoding="utf-8")
    return [metrics, table, *write_pictures(evaluation, folder)]


def write_pictures(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write a picture of the worst, median and best image; returns the files."""
    paths = []
    for name, images in evaluation.examples.items():
        shown = {method: middle_plane(image) for method, image in images.items()}
        reference = shown.pop("reference")
        title = f"{name} test image by PSNR of the network"
        path = comparison(folder / f"{name}.png", shown, reference, title)
        paths.append(path)
    return paths


def _accelerations(evaluation: Evaluation) -> str:
    lowest, highest = (f"{pick(evaluation.accelerations):.2f}" for pick in (min, max))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def middle_plane(image: Tensor) -> Tensor:
    """The first map set of an image, the middle plane of a volume or cine: ``(y, x)``."""
    return image[0] if image.ndim == 3 else image[0, image.shape[1] // 2]


def _rows(evaluation: Evaluation) -> list[list[str]]:
    rows = [["method", *COLUMNS.values(), "slices"]]
    for method, metrics in evaluation.summary.items():
        cells = [
            f"{metrics[key]['mean']:.{DIGITS[key]}f} ± {metrics[key]['std']:.{DIGITS[key]}f}"
            for key in COLUMNS
        ]
        rows.append([method, *cells, str(int(metrics["psnr"]["count"]))])
    return rows
