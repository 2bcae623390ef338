"""Networks trained on simulated brains alone, applied to a real brain.

    python -m experiments.real_brain train --strategy greedy
    python -m experiments.real_brain train --strategy backprop
    python -m experiments.real_brain test --data FOLDER

FOLDER holds ``mc_brain_T2_4ch.mat``: an axial T2-weighted slice of a real head, coil images
``(256, 256, 4)``, fully sampled (from the gpuNUFFT project, MIT licence). It is undersampled with
random columns; the coil maps come from the 24 calibration lines only. No network and no training
setting was chosen on it. While the simulator was built, its power spectra and gradient histograms
were compared with those of a few real slices, this one among them. The weights of
L1-wavelet and total variation are for every mask the best of several, chosen with the reference in
sight, in favour of these baselines.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import yaml
from torch import Tensor

import gleam
from experiments.provenance import RESULTS, as_markdown, provenance
from experiments.real_data import read_brain
from experiments.real_scans import without_learning
from experiments.real_settings import undersample
from gleam.metrics import evaluate_slice, summarise
from gleam.plots import comparison
from physics.masks import random_columns

CONFIG = Path(__file__).parent / "configs" / "real_brain.yaml"
RUNS = Path("runs/real_brain")
STRATEGIES = ("backprop", "greedy")
CALIBRATION = 24
ACCELERATIONS = (3, 4)
MASK_SEEDS = range(5)

Rows = dict[str, list[dict[str, float]]]


def train(strategy: str, resume: bool = False) -> None:
    """Train on simulated brains; the same settings, data and iterations for all strategies."""
    gleam.train(CONFIG, out=RUNS / strategy, strategy=strategy, resume=resume)


def reconstruct_all(
    kspace: Tensor,
    mask: Tensor,
    networks: Mapping[str, Path] | None = None,
    calibration: int = CALIBRATION,
) -> tuple[dict[str, Tensor], Tensor]:
    """Images ``(y, x)`` of every method, and the reference.

    Args:
        kspace: fully sampled, ``(coils, y, x)``.
        mask: size 1 where it does not vary.
        networks: their checkpoints by name; by default those of this experiment.
        calibration: central lines that the maps of the reference and of the classical methods
            come from, as those of the networks.
    """
    if networks is None:
        networks = {strategy: RUNS / strategy / "best.pt" for strategy in STRATEGIES}
    example, batch = undersample(kspace, mask, calibration)
    images = without_learning(batch)
    for name, checkpoint in networks.items():
        # The entry point of a user: the mask is inferred, the coil maps are estimated.
        images[name] = gleam.reconstruct(checkpoint, kspace * mask)[None]
    return {name: image[0] for name, image in images.items()}, example.target[0]


def test(folder: Path) -> None:
    """Reconstruct the real brain under several masks; write the table and the pictures."""
    kspace = read_brain(folder)
    RESULTS.mkdir(exist_ok=True)
    tables = {}
    for acceleration in ACCELERATIONS:
        rows: Rows = {}
        for seed in MASK_SEEDS:
            mask = random_columns(tuple(kspace.shape[1:]), acceleration, CALIBRATION, seed)
            images, reference = reconstruct_all(kspace, mask)
            for name, image in images.items():
                rows.setdefault(name, []).append(evaluate_slice(image, reference))
            if seed == MASK_SEEDS[0]:
                picture = RESULTS / f"real_brain_R{acceleration}.png"
                title = f"real T2 brain, R = {acceleration}, random columns, mask seed {seed}"
                comparison(picture, images, reference, title)
        tables[acceleration] = {name: summarise(values) for name, values in rows.items()}
    text = _markdown(tables)
    (RESULTS / "real_brain.md").write_text(text, encoding="utf-8")
    print(text)


def _markdown(tables: Mapping[int, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    lines = [
        "# A real brain, by networks that saw simulated brains only\n",
        (__doc__ or "").partition("FOLDER holds ")[2],
        f"Mean ± standard deviation over {len(MASK_SEEDS)} masks (seeds {list(MASK_SEEDS)}); "
        "complex metrics on the SENSE combination of the fully sampled k-space with the same "
        "maps.\n",
        "| R | method | PSNR [dB] | SSIM | NRMSE |\n|---|---|---|---|---|",
    ]
    for acceleration, methods in tables.items():
        for name, metrics in methods.items():
            cells = [
                f"{metrics[key]['mean']:.{digits}f} ± {metrics[key]['std']:.{digits}f}"
                for key, digits in (("psnr", 2), ("ssim", 4), ("nrmse", 4))
            ]
            lines.append(f"| {acceleration} | {name} | " + " | ".join(cells) + " |")
    lines.append("\nConfiguration (`experiments/configs/real_brain.yaml`):\n\n```yaml")
    lines.append(yaml.safe_dump(config, sort_keys=False) + "```\n")
    lines.append(as_markdown(provenance()))
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train on simulated brains")
    training.add_argument("--strategy", choices=STRATEGIES, default="greedy")
    training.add_argument("--resume", action="store_true")
    testing = commands.add_parser("test", help="reconstruct the real brain")
    testing.add_argument("--data", type=Path, required=True, help="folder with the .mat file")
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.strategy, arguments.resume)
    else:
        test(arguments.data)


if __name__ == "__main__":
    main()
