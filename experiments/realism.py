"""How like real ones simulated scans are, and where they differ.

    python -m experiments.realism --data FOLDER

FOLDER holds mc_brain_T2_4ch.mat (one T2-weighted brain slice, 4 coils) and
chest_brain_admmnet_256.npz (cardiac and chest slices of many subjects, magnitudes). Magnitudes are
divided by the 99th percentile of the image. The power spectrum is that of the magnitude image under
a Hann window, averaged over rings; its slope is the exponent of a power law fitted between 0.05 and
0.35 cycles per pixel. The ESPIRiT eigenvalues are sigpy's, from 24 x 24 calibration samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from experiments.provenance import RESULTS, as_markdown, provenance
from experiments.real_data import read_brain, read_chests
from physics.brain import simulate_brain
from physics.fourier import ifft
from physics.heart import simulate_heart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEEDS = range(12)
SHOWN = 3  # image of a group that is drawn
DIFFERENCES = """
Where they differ, by these figures and by eye.

- Brain: spectra agree over five decades; the real slice has more power around 0.02 cycles per
  pixel (its sulci and ventricles are larger), less between 0.1 and 0.3, and at the very end its
  noise shows. Its histogram is narrower and has fewer dark pixels, since the simulated group holds
  many slice heights and protocols. Simulated sulci are rounder and more alike, the cortex has one
  thickness in a subject, ears are missing, the jaw is an ellipsoid and the skull base a plane.
- Heart: real slices have less power at high frequencies, because they are interpolated images from
  narrower k-spaces. Simulated blood is too even (no inflow, no flow voids, no banding), the chest
  wall too regular, the liver too large and smooth; bowel and kidneys are missing. The real slices
  come as magnitudes, so there is nothing to compare eigenvalues with.
- Coils: eigenvalues are one where there is tissue, in both, and fall off beside it.
"""
SIZE = 256
BAND = (0.05, 0.35)
BINS = np.linspace(0, 1.2, 61)
QUANTILES = (10, 25, 50, 75, 90)
FOREGROUND = 0.08  # of the 99th percentile: darker pixels are taken for air


@dataclass(frozen=True)
class Group:
    """Images of one kind: magnitudes ``(y, x)``, and one of them with k-space if there is any."""

    name: str
    images: list[np.ndarray]
    kspace: np.ndarray | None

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Of ESPIRiT, of the image with k-space."""
        if self.kspace is None:
            raise ValueError(f"{self.name}: magnitudes have no eigenvalues")
        return eigenvalues(self.kspace)


def real_brain(folder: Path) -> Group:
    """The T2-weighted slice."""
    kspace = read_brain(folder).numpy()
    return Group("real", [_rss(_coil_images(kspace))], kspace)


def simulated_brain() -> Group:
    """T2-weighted slices of the simulator's subjects."""
    scans = [simulate_brain(seed, (SIZE, SIZE), 4, "T2w") for seed in SEEDS]
    images = [_rss(ifft(scan.kspace).numpy()) for scan in scans]
    return Group("simulated", images, scans[min(SHOWN, len(scans) - 1)].kspace.numpy())


def real_hearts(folder: Path) -> Group:
    """Cardiac and chest slices."""
    return Group("real", list(read_chests(folder)), None)


def simulated_hearts() -> Group:
    """One frame of each simulated subject."""
    scans = [simulate_heart(seed, (8, SIZE, SIZE), 8) for seed in SEEDS]
    images = [_rss(ifft(scan.kspace[:, 0]).numpy()) for scan in scans]
    return Group("simulated", images, scans[min(SHOWN, len(scans) - 1)].kspace[:, 0].numpy())


def histogram(image: np.ndarray) -> np.ndarray:
    """Density of the foreground's normalised magnitudes over :data:`BINS`."""
    return np.histogram(_foreground(image), BINS, density=True)[0]


def spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spatial frequencies [cycles per pixel] and the power averaged over rings."""
    window = np.outer(*(np.hanning(n) for n in image.shape))
    power = np.abs(np.fft.fft2(_normalised(image) * window)) ** 2
    y, x = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    ring = np.round(np.hypot(y, x) * SIZE).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.maximum(1, np.bincount(ring))
    half = slice(1, SIZE // 2)
    return np.arange(len(mean))[half] / SIZE, mean[half]


def slope(image: np.ndarray) -> float:
    """Exponent of the power law that fits the spectrum."""
    frequency, power = spectrum(image)
    band = (frequency > BAND[0]) & (frequency < BAND[1])
    return float(np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0])


def eigenvalues(kspace: np.ndarray) -> np.ndarray:
    """Largest ESPIRiT eigenvalue of each pixel, of k-space ``(coils, y, x)``."""
    from sigpy.mri.app import EspiritCalib

    calibration = EspiritCalib(
        kspace, calib_width=24, crop=0, output_eigenvalue=True, show_pbar=False
    )
    return np.abs(calibration.run()[1]).reshape(kspace.shape[1:])


def _rss(coils: np.ndarray) -> np.ndarray:
    return np.sqrt((np.abs(coils) ** 2).sum(0))


def _normalised(image: np.ndarray) -> np.ndarray:
    return image / np.percentile(image, 99)


def _foreground(image: np.ndarray) -> np.ndarray:
    values = _normalised(image)
    return values[values > FOREGROUND]


def _row(name: str, group: Group) -> str:
    slopes = [slope(image) for image in group.images]
    shares = [np.percentile(_foreground(image), QUANTILES) for image in group.images]
    filled = [len(_foreground(image)) / image.size for image in group.images]
    cells = [f"{np.mean(slopes):.2f} ± {np.std(slopes):.2f}", f"{np.mean(filled):.2f}"]
    cells += [f"{value:.2f}" for value in np.mean(shares, axis=0)]
    return f"| {name}, {group.name} | {len(group.images)} | " + " | ".join(cells) + " |"


def _eigenvalue_row(name: str, group: Group) -> str:
    values = group.eigenvalues
    assert group.kspace is not None
    body = _normalised(_rss(_coil_images(group.kspace))) > FOREGROUND
    inside, outside = values[body], values[~body]
    return (
        f"| {name}, {group.name} | {np.median(inside):.3f} | {np.percentile(inside, 5):.3f} | "
        f"{np.median(outside):.3f} |"
    )


def _coil_images(kspace: np.ndarray) -> np.ndarray:
    return ifft(torch.from_numpy(kspace)).numpy()


def _markdown(rows: dict[str, tuple[Group, Group]]) -> str:
    groups = [(name, group) for name, pair in rows.items() for group in pair]
    head = " | ".join(f"{q} %" for q in QUANTILES)
    lines = [
        "# Simulated scans beside real ones\n\n`python -m experiments.realism --data FOLDER`\n",
        (__doc__ or "").partition("magnitudes). ")[2],
        "![images, histograms, spectra and eigenvalues](realism.png)\n",
        "Foreground is the share of pixels above 0.08; then the percentiles of its magnitudes.\n",
        f"| images | number | slope of spectrum | foreground | {head} |",
        "|---" * (4 + len(QUANTILES)) + "|",
        *[_row(name, group) for name, group in groups],
        "\n| ESPIRiT eigenvalue | median in the body | its 5th percentile | median in air |",
        "|---|---|---|---|",
        *[_eigenvalue_row(name, group) for name, group in groups if group.kspace is not None],
        DIFFERENCES,
        as_markdown(provenance()),
    ]
    return "\n".join(lines)


def _draw(rows: dict[str, tuple[Group, Group]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 3.4 * len(rows)), layout="constrained", facecolor="white")
    for number, (name, groups) in enumerate(rows.items()):
        axes = [figure.add_subplot(len(rows), 6, 6 * number + n) for n in range(1, 7)]
        for column, group in enumerate(groups):
            image = group.images[min(SHOWN, len(group.images) - 1)]
            _picture(axes[column], _normalised(image), f"{name}, {group.name}", 1.0)
            if group.kspace is None:
                axes[4 + column].text(0.5, 0.5, "magnitudes only", ha="center")
                axes[4 + column].set_axis_off()
            else:
                _picture(
                    axes[4 + column], group.eigenvalues, f"ESPIRiT eigenvalue, {group.name}", 1.0
                )
        _curves(axes[2], groups, lambda image: (BINS[:-1], histogram(image)))
        axes[2].set(title="magnitudes in the foreground", xlabel="of the 99th percentile")
        _curves(axes[3], groups, spectrum)
        axes[3].set(title="power spectrum", xlabel="cycles / pixel", xscale="log", yscale="log")
    figure.savefig(path, dpi=80)


def _picture(axes: Axes, image: np.ndarray, title: str, top: float) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=top)
    axes.set_title(title)
    axes.set_axis_off()


def _curves(
    axes: Axes,
    groups: Sequence[Group],
    curve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> None:
    """The mean over a group's images, and the band between their 10th and 90th percentile."""
    for group, colour in zip(groups, ("#1f5fa8", "#c8500a"), strict=True):
        curves = [curve(image) for image in group.images]
        x, values = curves[0][0], np.stack([y for _, y in curves])
        axes.plot(x, values.mean(0), color=colour, label=group.name)
        if len(values) > 1:
            low, high = np.percentile(values, (10, 90), axis=0)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.legend(frameon=False)


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the real slices")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table and figure")
    arguments = parser.parse_args(words)
    rows = {
        "brain": (real_brain(arguments.data), simulated_brain()),
        "heart": (real_hearts(arguments.data), simulated_hearts()),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    _draw(rows, arguments.out / "realism.png")
    text = _markdown(rows)
    (arguments.out / "realism.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
