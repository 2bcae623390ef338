"""The networks that ship with the library: trained, measured, exported and described.

    python -m experiments.pretrain general-2d --out runs --weights gleam/weights --data FOLDER

trains by ``gleam/configs/general-2d.yaml``, compares with reconstructions without learning on
subjects it was not trained on, and writes ``general-2d.safetensors`` and its card
``general-2d.md``. Stop it at any time and run it again: training goes on, and what is measured is
kept. FOLDER, which may be left out, holds the real brain of :mod:`experiments.real_brain`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gleam
from experiments import real_brain
from experiments.pretrain_card import Summary, write_card
from experiments.real_data import read_brain
from gleam.build import build_loaders
from gleam.checkpoint import read_checkpoint, read_config
from gleam.config import Config, dump_config, load_config
from gleam.data_config import choices
from gleam.evaluation import open_network, reconstruct_classically, reconstructions
from gleam.metrics import evaluate_slice, summarise
from gleam.shipped import FOLDER, SUFFIX, write_weights
from physics.masks import calibration_lines, random_columns

CONFIGS = Path(gleam.__file__).parent / "configs"
SUBJECTS = 4  # for every line of a table
ACCELERATIONS = (2, 4, 8)
MATRICES = (96, 256, 320)
SNRS = (15, 33)
SNR = (500 / 15, 500.0)  # between which physics.acquisition.draw_snr draws
AT = {"test": SUBJECTS, "mask": {"acceleration": 4}}

Rows = dict[str, list[dict[str, float]]]
Results = dict[str, dict[str, Summary]]


def run(
    name: str = "general-2d",
    out: Path = Path("runs"),
    weights: Path = FOLDER,
    data: Path | None = None,
) -> Path | None:
    """Train, or go on with it, measure, and write weights and card.

    Args:
        name: of the network and of its configuration.
        out: where the folder of the run is, or is made.
        weights: folder for ``NAME.safetensors`` and ``NAME.md``.
        data: folder of the real brain, or None to do without.

    Returns:
        The file of weights; None if training was stopped before its end.
    """
    config = load_config(CONFIGS / f"{name}.yaml")
    trained = gleam.train(config, out=out / name, resume=True)
    if not trained.finished:
        return None
    results = measure(trained.best, config, out / name / "results.json", data)
    content = read_checkpoint(trained.best)
    limits = limits_of(config, results)
    content["config"] = json.dumps(dump_config(config))  # without the folder it was trained in
    weights.mkdir(parents=True, exist_ok=True)
    path = weights / (name + SUFFIX)
    write_weights(path, content, limits)
    write_card(path, content, config, limits, results)
    return path


def measure(best: Path, config: Config, kept: Path, data: Path | None = None) -> Results:
    """Scores of every method, by table and line, kept in a JSON file as they come.

    Those of other weights than ``best`` are measured again.
    """
    digest = hashlib.sha256(best.read_bytes()).hexdigest()
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    if found.get("weights") != digest:
        found = {"weights": digest, "tables": {}}
    for table, line, score in _cases(best, config, data):
        lines = found["tables"].setdefault(table, {})
        if line not in lines:
            print(f"{table}: {line}", flush=True)
            lines[line] = score()
            temporary = kept.with_name(kept.name + ".partial")
            temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
            os.replace(temporary, kept)
    return found["tables"]


def limits_of(config: Config, results: Results) -> dict[str, list[float]]:
    """What the network was trained on; sizes also as far as it beat the wavelet without a gap."""
    data = config.data
    better = {
        int(line.split()[0]): _psnr(scores, "network") > _psnr(scores, "L1-wavelet")
        for line, scores in results["matrix"].items()
    }
    low, high = min(data.size), max(data.size)
    for size in sorted(better):
        if size > high and better[size]:
            high = size
        elif size > high:
            break
    for size in sorted(better, reverse=True):
        if size < low and better[size]:
            low = size
        elif size < low:
            break
    accelerations, coils = choices(data.mask.acceleration), choices(data.coils)
    return {
        "acceleration": [min(accelerations), max(accelerations)],
        "matrix": [low, high],
        "coils": [min(coils), max(coils)],
        "SNR": [round(value) for value in SNR],
    }


def _psnr(scores: Summary, method: str) -> float:
    return scores[method]["psnr"]["mean"]


def _cases(
    best: Path, config: Config, data: Path | None
) -> Iterator[tuple[str, str, Callable[[], Summary]]]:
    """Tables, lines and what measures them."""
    for anatomy in choices(config.data.anatomy):
        for factor in ACCELERATIONS:
            settings = {**AT, "anatomy": anatomy, "mask": {"acceleration": factor}}
            yield "anatomy", f"{anatomy}, R = {factor}", partial(_simulated, best, settings)
    for size in MATRICES:
        yield "matrix", f"{size} x {size}", partial(_simulated, best, {**AT, "size": [size, size]})
    for snr in SNRS:
        yield "noise", f"SNR {snr}", partial(_simulated, best, {**AT, "snr": snr})
    if data is not None:
        for factor in real_brain.ACCELERATIONS:
            yield "real", f"R = {factor}", partial(_real, best, data, factor)


def _simulated(best: Path, settings: dict[str, Any]) -> Summary:
    """As ``gleam.evaluate`` with baselines, which would reconstruct its pictures twice."""
    network, config = open_network(best, "cpu")
    loader = build_loaders(load_config(config, data=settings).data, config.seed)["test"]
    rows: Rows = {}
    for example, batch, image in reconstructions(network, loader, torch.device("cpu")):
        images = {"zero-filled": batch.rescale(batch.zero_filled)[0], "network": image}
        _score({**images, **reconstruct_classically(batch)}, example.target, rows)
    return {method: summarise(scores) for method, scores in rows.items()}


def _real(best: Path, data: Path, factor: int) -> Summary:
    kspace = read_brain(data)
    share = read_config(read_checkpoint(best), best).data.mask.calibration
    calibration = min(calibration_lines(share, n) for n in kspace.shape[1:])
    rows: Rows = {}
    for seed in real_brain.MASK_SEEDS:
        mask = random_columns(tuple(kspace.shape[1:]), factor, real_brain.CALIBRATION, seed)
        images, reference = real_brain.reconstruct_all(kspace, mask, {"network": best}, calibration)
        _score(images, reference, rows)
    return {method: summarise(scores) for method, scores in rows.items()}


def _score(images: Mapping[str, Tensor], reference: Tensor, rows: Rows) -> None:
    for method, image in images.items():
        rows.setdefault(method, []).append(evaluate_slice(image, reference))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="general-2d")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--data", type=Path, help="folder with the real brain")
    arguments = parser.parse_args()
    path = run(arguments.name, arguments.out, arguments.weights, arguments.data)
    print("stopped; run it again to go on" if path is None else f"wrote {path}")


if __name__ == "__main__":
    main()
