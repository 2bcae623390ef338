"""The card of a network that ships: what it was trained on, its limits, measured results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.provenance import as_markdown, provenance
from gleam.config import Config
from gleam.data_config import choices
from gleam.shipped import NOTICE, SUFFIX

Summary = dict[str, dict[str, dict[str, float]]]
METHODS = ("zero-filled", "CG-SENSE", "L1-wavelet", "total variation", "network")
STEPS = {"pgd": "proximal gradient", "modl": "MoDL"}
TITLES = {
    "anatomy": "By anatomy and acceleration",
    "matrix": "By matrix, R = 4",
    "noise": "By noise, R = 4",
    "real": "A real brain",
}
NOTES = {
    "anatomy": "Simulated subjects that are in no training set; coil numbers, contrasts, noise and "
    "kinds of masks are mixed as in training.",
    "matrix": "The same mixture; calibration lines stay {calibration} at every size.",
    "noise": "The same mixture; the SNR is the 95th percentile of the image over the deviation of "
    "the noise in each coil.",
    "real": "A T2-weighted slice, 256 x 256, 4 coils, 5 masks of random columns with 24 "
    "calibration lines, coil maps for all methods from the central {calibration}. Nothing was "
    "trained or chosen on it. See experiments/real_brain.py.",
}


def write_card(
    weights: Path,
    content: Mapping[str, Any],
    config: Config,
    limits: Mapping[str, Sequence[float]],
    results: Mapping[str, Mapping[str, Summary]],
) -> Path:
    """Write the card beside a file of weights.

    Args:
        weights: the file.
        content: of the checkpoint that they come from.
        config: that it was trained by.
        limits: as in the file.
        results: by table and line.

    Returns:
        The card.
    """
    name, network = weights.name.removesuffix(SUFFIX), config.network
    count = sum(value.numel() for value in content["network"].values())
    origin = config.grown_from
    trained = "It was" if origin is None else f"It is {origin} with further steps, which alone were"
    parts = [
        f"# {name}\n",
        f"**{name} is {NOTICE}.** Like every learned reconstruction it can lose or alter detail "
        "without a sign of it.\n",
        "## What it is\n",
        f"An unrolled network of {network.steps} {STEPS[network.step]} steps with CNNs of "
        f"{network.features} features, {count} parameters. {trained} trained as "
        f"{config.modules} greedy modules in {content['iteration']} iterations of batch "
        f"{config.training.batch_size} by `gleam/configs/{name}.yaml`. It takes multi-coil "
        "Cartesian k-space of 2D images (slices or frames) with a fully sampled centre, and coil "
        "maps, estimated by ESPIRiT if none are given.\n",
        *_training(config),
        *_limits(limits),
        "## Measured\n",
        "PSNR in dB, mean ± standard deviation, on the complex SENSE combination of the fully "
        "sampled k-space; SSIM of the network. The weights of L1-wavelet and total variation "
        "are the best of seven for every image, chosen with the reference in sight, in favour of "
        "these baselines.\n",
    ]
    for table, lines in results.items():
        parts += [f"### {TITLES[table]}\n", NOTES[table].format(calibration=_centre(config)) + "\n"]
        parts += [*_table(lines), ""]
    parts += ["## Made with\n", f"Trained with {as_markdown(content['versions'])}"]
    parts += [f"Measured with {as_markdown(provenance())}"]
    card = weights.with_suffix(".md")
    card.write_text("\n".join(parts), encoding="utf-8")
    return card


def _training(config: Config) -> list[str]:
    data = config.data
    return [
        "## Training data\n",
        f"{data.train} simulated subjects ({_words(data.anatomy)}; a heart gives one frame), "
        f"{' x '.join(map(str, data.size))}, all contrasts of the simulators, {_words(data.coils)} "
        "coils, an SNR drawn for each. Every visit draws another mask: "
        f"{_words(data.mask.kind)}; acceleration {_words(data.mask.acceleration)}; "
        f"{_centre(config)} calibration lines. No measured scan was used.\n",
    ]


def _limits(limits: Mapping[str, Sequence[float]]) -> list[str]:
    return [
        "## Limits\n",
        "It warns of measurements outside these; the matrix is that of training and as far beyond "
        "as the network beat the wavelet (below), the SNR is a rough estimate from the "
        "samples at the edge of k-space, and a warning comes where it is off by more than twice:\n",
        *(f"- {name} {low:g} to {high:g}" for name, (low, high) in limits.items()),
        "\nNot in its training, and not noticed: pathology other than the simulators' lesions, "
        "implants, motion between lines, partial Fourier, wrap-around, non-Cartesian or "
        "uncentred k-space, and 3D acquisitions undersampled along slices.\n",
    ]


def _table(lines: Mapping[str, Summary]) -> list[str]:
    rows = ["| | " + " | ".join([*METHODS, "SSIM", "images"]) + " |"]
    rows.append("|" + "---|" * (len(METHODS) + 3))
    for line, scores in lines.items():
        cells = [
            f"{scores[method]['psnr']['mean']:.2f} ± {scores[method]['psnr']['std']:.2f}"
            for method in METHODS
        ]
        ssim, count = scores["network"]["ssim"]["mean"], scores["network"]["psnr"]["count"]
        rows.append(f"| {line} | " + " | ".join([*cells, f"{ssim:.4f}", f"{count:.0f}"]) + " |")
    return rows


def _centre(config: Config) -> str:
    return f"{config.data.mask.calibration:g}"


def _words(value: Any) -> str:
    return ", ".join(str(v) if isinstance(v, str) else f"{v:g}" for v in choices(value))
