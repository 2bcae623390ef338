"""Figures: reconstructions side by side, and learning curves.

Drawn with matplotlib's Agg canvas on figures of our own, so the user's backend and open figures are
left alone. The suffix of the path chooses the format (png, pdf, svg).
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gleam.metrics import complex_psnr, ssim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, points: one column of the figure is legible when three of them fill a page column.
_SIDE, _GAP, _TITLE, _CAPTION, _MARGIN = 2.2, 0.05, 0.3, 0.3, 0.08
_FONT = 11
_LABELLED_MODULES = 8  # with more curves the legend names only the first and the last


def comparison(
    path: str | Path,
    images: Mapping[str, Tensor],
    reference: Tensor | None,
    title: str | None = None,
    error_scale: float = 5.0,
) -> Path:
    """A row of magnitudes and, with a reference, a row of error maps with PSNR and SSIM below.

    All magnitudes share one window, 0 to the 99.5th percentile of the reference (of the first image
    without one); error maps ``|x - ref|`` are complex differences shown in that window divided by
    ``error_scale``. PSNR is the complex one.

    Args:
        path: file to write; folders are created.
        images: method name to one 2D image, complex or real, ``(y, x)`` or with leading axes of
            size 1.
        reference: the fully sampled image, or None for prospectively undersampled data.
        title: a line above the images.
        error_scale: factor by which errors are made brighter; the figure states it.

    Returns:
        The path.

    Raises:
        ValueError: no images, images of different shapes, or more than one slice.
    """
    if not images:
        raise ValueError("images must name at least one reconstruction")
    pictures = {name: _plane(image, name) for name, image in images.items()}
    truth = None if reference is None else _plane(reference, "reference")
    shown = pictures if truth is None else {"reference": truth, **pictures}
    first = next(iter(shown.values()))
    _require_one_shape(shown)
    window = float(torch.quantile(first.abs().flatten(), 0.995)) or 1.0
    grid = _Grid(first.shape, columns=len(shown), errors=truth is not None, title=title)
    for column, (name, picture) in enumerate(shown.items()):
        axes = _show(grid.axes(0, column), picture.abs(), window, "gray")
        # A letter is about 0.6 of the font size wide: long names shrink to their column.
        size = min(_FONT, 72 * grid.pitch / (0.6 * len(name)))
        axes.set_title(name, fontsize=size, pad=4)
    if truth is not None:
        _legend(grid, error_scale)
        for column, picture in enumerate(pictures.values(), start=1):
            error = (picture - truth).abs()
            axes = _show(grid.axes(1, column), error, window / error_scale, "inferno")
            axes.set_xlabel(_quality(picture, truth), fontsize=_FONT, labelpad=4)
    return _save(grid.figure, path)


def _require_one_shape(pictures: Mapping[str, Tensor]) -> None:
    first = next(iter(pictures.values()))
    for name, picture in pictures.items():
        if picture.shape != first.shape:
            raise ValueError(
                f"{name} is {tuple(picture.shape)}, others are {tuple(first.shape)}: "
                "all images must have one shape"
            )


def learning_curves(path: str | Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Training loss of each module on a logarithmic axis, and validation PSNR beside it.

    Args:
        path: file to write; folders are created.
        records: in order of iteration; training records hold ``iteration`` and ``module_losses``
            (or only ``loss``), validation records ``iteration`` and ``psnr`` (dB).

    Returns:
        The path.

    Raises:
        ValueError: no training records.
    """
    records = list(records)
    training = [record for record in records if "loss" in record or "module_losses" in record]
    validation = [record for record in records if "psnr" in record]
    if not training:
        raise ValueError("records hold no training losses: nothing to draw")
    from matplotlib.figure import Figure

    panels = 2 if validation else 1
    figure = Figure(figsize=(4.6 * panels, 3.4), layout="constrained", facecolor="white")
    _draw_losses(_axes_for_curves(figure, (1, panels, 1), "training loss"), training)
    if validation:
        axes = _axes_for_curves(figure, (1, panels, 2), "validation PSNR (dB)")
        iterations = [record["iteration"] for record in validation]
        axes.plot(
            iterations,
            [record["psnr"] for record in validation],
            color="#1f5fa8",
            marker="o" if len(validation) <= 40 else "",
            markersize=4,
        )
    return _save(figure, path)


class _Grid:
    """Axes of equal, exact size in inches under a title: images touch but for a thin gap."""

    def __init__(self, shape: Sequence[int], columns: int, errors: bool, title: str | None) -> None:
        from matplotlib.figure import Figure

        longest = max(shape)
        self.height, self.width = (_SIDE * size / longest for size in shape)
        # A narrow image must still leave room for "PSNR / SSIM" below it.
        self.pitch = max(self.width, 0.62 * _SIDE) + _GAP
        self.rows = 2 if errors else 1
        top = _TITLE * (2 if title else 1)
        bottom = _CAPTION if errors else _MARGIN
        self.top = bottom + self.rows * self.height + (self.rows - 1) * _GAP
        size = (columns * self.pitch - _GAP + 2 * _MARGIN, self.top + top)
        self.figure = Figure(figsize=size, facecolor="white")
        if title:
            self.figure.text(
                0.5, 1 - 0.1 / size[1], title, ha="center", va="top", fontsize=_FONT + 1
            )

    def axes(self, row: int, column: int) -> "Axes":
        """The cell of that row and column, counted from the top left."""
        total_width, total_height = self.figure.get_size_inches()
        left = _MARGIN + column * self.pitch + (self.pitch - _GAP - self.width) / 2
        bottom = self.top - (row + 1) * self.height - row * _GAP
        return self.figure.add_axes(
            (
                left / total_width,
                bottom / total_height,
                self.width / total_width,
                self.height / total_height,
            )
        )


def _show(axes: "Axes", picture: Tensor, window: float, colours: str) -> "Axes":
    axes.imshow(picture.numpy(), cmap=colours, vmin=0, vmax=window, interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)
    return axes


def _legend(grid: _Grid, error_scale: float) -> None:
    """The free cell below the reference says what the error row shows."""
    axes = grid.axes(1, 0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.62, f"error × {error_scale:g}", ha="center", va="center", fontsize=_FONT)
    bar = axes.inset_axes((0.15, 0.42, 0.7, 0.06))
    bar.imshow([[step / 255 for step in range(256)]], cmap="inferno", aspect="auto")
    bar.set(yticks=[], xticks=[0, 255])
    bar.set_xticklabels(["0", f"{100 / error_scale:.3g}%"], fontsize=_FONT - 2)
    bar.tick_params(length=2)
    axes.set_xlabel("PSNR / SSIM", fontsize=_FONT, labelpad=4)


def _quality(picture: Tensor, truth: Tensor) -> str:
    return f"{float(complex_psnr(picture, truth)):.1f} dB / {float(ssim(picture, truth)):.3f}"


def _plane(image: Tensor, name: str) -> Tensor:
    """The one slice ``(y, x)`` of an image whose leading axes all have size 1, on the CPU."""
    if image.ndim < 2 or math.prod(image.shape[:-2]) != 1:
        raise ValueError(
            f"{name} must be one slice (y, x), with leading axes of size 1 at most, got "
            f"{tuple(image.shape)}"
        )
    return image.detach().cpu().reshape(image.shape[-2:])


def _axes_for_curves(figure: "Figure", place: tuple[int, int, int], label: str) -> "Axes":
    axes = figure.add_subplot(*place)
    axes.set_xlabel("iteration", fontsize=_FONT)
    axes.set_ylabel(label, fontsize=_FONT)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw_losses(axes: "Axes", training: Sequence[Mapping[str, Any]]) -> None:
    """A faint line for every record and a strong one for its running mean, one colour a module."""
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    iterations = [record["iteration"] for record in training]
    rows = [record.get("module_losses") or [record["loss"]] for record in training]
    losses = torch.tensor(rows, dtype=torch.float64).T
    span = max(1, losses.shape[1] // 50)
    for module, curve in enumerate(losses):
        position = module / max(1, len(losses) - 1)
        colour = colormaps["viridis"](0.85 * position)
        end = module in (0, len(losses) - 1)
        labelled = len(losses) > 1 and (len(losses) <= _LABELLED_MODULES or end)
        smooth = curve.unfold(0, span, 1).mean(dim=-1)
        if span > 1:
            axes.plot(iterations, curve.tolist(), color=colour, alpha=0.2, linewidth=0.7)
        axes.plot(
            iterations[span - 1 :],
            smooth.tolist(),
            color=colour,
            linewidth=1.5,
            label=f"module {module}" if labelled else None,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if len(losses) > 1:
        axes.legend(fontsize=_FONT - 2, frameon=False, ncols=2 if len(losses) > 4 else 1)


def _save(figure: "Figure", path: str | Path) -> Path:
    """Write beside and rename: a crash leaves the old file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    FigureCanvasAgg(figure)
    figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=200)
    temporary.replace(path)
    return path
