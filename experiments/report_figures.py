"""Pictures of a report: drawn for it, or taken from the runs and made small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.memory_figure import COLOURS, MARKERS, draw

WIDTH = 1000  # of a picture at most, in pixels
SIZE = (6.6, 4.6)  # of a drawn one, in inches
QUALITY = 75  # of WebP

Row = Mapping[str, Any]


def shrink(source: Path, target: Path) -> Path:
    """Write a picture as WebP, no wider than WIDTH; returns the target."""
    from PIL import Image  # comes with matplotlib

    with Image.open(source) as image:
        picture = image.convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, "webp", quality=QUALITY, method=6)
    return target


def write_frames(images: np.ndarray, target: Path) -> Path:
    """Write uint8 images ``(number, y, x)`` one below another as WebP; returns the target."""
    from PIL import Image

    target.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(images.reshape(-1, images.shape[-1]))
    picture.convert("RGB").save(target, "webp", quality=90, method=6)
    return target


def draw_memory(target: Path, rows: Sequence[Row], title: str) -> Path:
    """The figure of memory against image quality of a problem; returns the target."""
    with TemporaryDirectory() as folder:
        drawn = Path(folder) / "figure.png"
        draw(drawn, rows, title, SIZE)
        return shrink(drawn, target)


def draw_anytime(target: Path, variants: Mapping[str, Sequence[Row]], title: str) -> Path:
    """PSNR after each step, a curve a variant; returns the target.

    Args:
        target: WebP file to write.
        variants: by name what ``anytime.json`` of every seed holds.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for number, (name, seeds) in enumerate(variants.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        psnr = np.array([seed["psnr_mean"] for seed in seeds])
        mean, ends = psnr.mean(0), [0, *seeds[0]["ends"]]
        axes.plot(mean, color=colour, linewidth=0.9, linestyle=":")
        spread = psnr.std(0, ddof=1)[ends] if len(seeds) > 1 else np.zeros(len(ends))
        # End to end there are a start and an end alone, which no line of reconstructions joins.
        line = "-" if len(ends) > 2 else ""
        axes.errorbar(
            ends, mean[ends], spread, color=colour, marker=marker, linestyle=line, label=name,
            linewidth=1.4, markersize=5, capsize=3, zorder=3 if line else 4,
        )  # fmt: skip
    axes.set_xlabel("unrolled steps taken")
    axes.set_ylabel("PSNR of the test cases [dB]")
    axes.locator_params(axis="x", integer=True)
    axes.set_title(title, fontsize=10)
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="best")
    with TemporaryDirectory() as folder:
        drawn = Path(folder) / "figure.png"
        figure.savefig(drawn, dpi=200)
        return shrink(drawn, target)
