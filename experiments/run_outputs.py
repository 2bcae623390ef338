"""What a finished run leaves to read: table, images, and the way to the reconstruction by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.memory_report import write_json
from experiments.training_runs import Run
from gleam.batch import Batch
from gleam.build import build_device, build_loaders
from gleam.evaluation import evaluate_network, images_by_step, open_network
from gleam.metrics import complex_psnr, ssim
from gleam.report import markdown_table, middle_plane
from gleam.strategies.modules import Network, split_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR_SCALE = 5.0  # by which errors are brighter than images
SIDE = 2.0  # of an image, in inches


def write_outputs(run: Run) -> None:
    """Leave the test of a finished run in its folder; nothing is done if that is there.

    - ``table.md``: PSNR, SSIM and NRMSE of the zero-filled image and the network, mean ± standard
      deviation over the test cases, and the time of the training.
    - ``images.png``: the worst, the median and the best case; of volumes the middle plane.
    - ``anytime.npz``: of one case ``images`` uint8 ``(steps + 1, y, x)``, the magnitude of the
      start and after each step, and ``reference`` uint8 ``(y, x)``, in the same window. It is the
      median of the zero-filled images, which is the same for all runs of a problem.
    - ``anytime.json``: mean and standard deviation over the cases of their PSNR [dB] and that of
      this case, each a list from the start to the last step, and the ``ends`` of modules, counted
      in steps.

    Args:
        run: that has its ``result.json`` and ``best.pt``.
    """
    folder = run.config.out
    if (folder / "anytime.json").exists():
        return
    device = build_device(run.config.device)
    network, _ = open_network(folder / "best.pt", run.config.device)
    loader = build_loaders(run.config.data, run.test_seed)["test"]
    evaluation = evaluate_network(network, loader, device)
    seconds = json.loads(run.result.read_text(encoding="utf-8"))["seconds"]
    table = f"{markdown_table(evaluation)}\n{run.label}: trained for {seconds:.1f} s.\n"
    (folder / "table.md").write_text(table, encoding="utf-8")
    draw_cases(folder / "images.png", evaluation.examples)
    order = np.argsort([case["psnr"] for case in evaluation.slices["zero-filled"]])
    middle = int(order[len(order) // 2])
    psnr = []
    for number, (example, batch) in enumerate(loader.fixed()):
        images = list(reconstructions_by_step(network, batch, device))
        psnr.append([float(complex_psnr(image, example.target)) for image in images])
        if number == middle:
            planes, reference = _shown(images, example.target)
    np.savez_compressed(folder / "anytime.npz", images=planes, reference=reference)
    write_json(folder / "anytime.json", _anytime(run, psnr, middle))


@torch.no_grad()
def reconstructions_by_step(
    network: Network, batch: Batch, device: torch.device
) -> Iterator[Tensor]:
    """Complex ``(maps, *space)`` at the start and after each step, in the units of the target."""
    for image in images_by_step(network, batch.to(device)):
        yield batch.rescale(image.cpu())[0]


def _shown(images: list[Tensor], reference: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes of middle planes as bytes, in the window of the reference's."""
    truth = middle_plane(reference).abs()
    window = _window(truth)

    def as_bytes(picture: Tensor) -> np.ndarray:
        return (255 * picture / window).clamp(0, 255).round().to(torch.uint8).numpy()

    planes = torch.stack([middle_plane(image).abs() for image in images])
    return as_bytes(planes), as_bytes(truth)


def _window(magnitude: Tensor) -> float:
    return float(torch.quantile(magnitude.flatten(), 0.995)) or 1.0


def _anytime(run: Run, psnr: list[list[float]], middle: int) -> dict[str, Any]:
    values = np.array(psnr)
    splits = split_steps(run.config.network.steps, run.config.modules)
    return {
        "strategy": run.config.strategy.name,
        "psnr_mean": values.mean(0).tolist(),
        "psnr_std": values.std(0, ddof=1).tolist() if len(values) > 1 else None,
        "case_psnr": psnr[middle],
        "ends": [steps.stop for steps in splits],
    }


def draw_cases(path: Path, cases: Mapping[str, Mapping[str, Tensor]]) -> None:
    """A row a case: the reference, magnitudes of every method, and their errors.

    Magnitudes share the window 0 to the 99.5th percentile of the case's reference; errors are
    complex differences in that window divided by ERROR_SCALE. The PSNR and SSIM are those of the
    whole volume or cine of which a plane is shown.

    Args:
        path: PNG file to write.
        cases: by name; the images ``(maps, *space)`` of each by method, and its "reference".
    """
    from matplotlib.figure import Figure

    first = next(iter(cases.values()))
    methods = [method for method in first if method != "reference"]
    height, width = middle_plane(first["reference"]).shape
    longest = max(height, width)
    columns = 1 + 2 * len(methods)
    size = (
        columns * (SIDE * width / longest + 0.1) + 0.3,
        len(cases) * (SIDE * height / longest + 0.35),
    )
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for axes, (name, images) in zip(
        figure.subplots(len(cases), columns, squeeze=False), cases.items(), strict=True
    ):
        _draw_case(axes, images, methods)
        axes[0].set_ylabel(name)
    figure.savefig(path, dpi=150)


def _draw_case(row: np.ndarray, images: Mapping[str, Tensor], methods: list[str]) -> None:
    reference = images["reference"]
    truth = middle_plane(reference)
    window = _window(truth.abs())
    _show(row[0], truth.abs(), window, "gray", "reference")
    for number, method in enumerate(methods, start=1):
        image = images[method]
        psnr, similarity = (float(metric(image, reference)) for metric in (complex_psnr, ssim))
        _show(row[number], middle_plane(image).abs(), window, "gray", method)
        row[number].set_xlabel(f"{psnr:.2f} dB, SSIM {similarity:.3f}")
        error = (middle_plane(image) - truth).abs()
        _show(
            row[len(methods) + number],
            error,
            window / ERROR_SCALE,
            "inferno",
            f"error × {ERROR_SCALE:g}, {method}",
        )


def _show(axes: Axes, picture: Tensor, window: float, colours: str, title: str) -> None:
    axes.imshow(picture.numpy(), cmap=colours, vmin=0, vmax=window, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
