"""Trained networks on real scans, beside reconstructions without learning.

    python -m experiments.real_scans --data FOLDER [--checkpoint NAME=PATH ...] [--out FOLDER]
        [--publish]

FOLDER holds the files that experiments/real_data.py lists; only the T2 brain comes with its coils,
of the others phase, coils and noise are simulated. The networks that ship with the library are
always among those tested. 2D networks see the slices, 3D networks a slab of the head. A network is
tested with those of the standard masks that its own configuration trained it for, or else with its
own kind at the least and the greatest of its accelerations. Calibration, shutter, partial Fourier
and how coil maps are estimated are its own too. Networks with the same settings share what
classical methods make of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.memory_report import write_json
from experiments.provenance import RESULTS, provenance
from experiments.real_data import FILES, Case, slab, slices
from experiments.real_report import compare, markdown, summarise_rows
from experiments.real_settings import Setting, Trained
from gleam.batch import Batch
from gleam.evaluation import reconstruct_classically, run_network
from gleam.metrics import evaluate_slice
from gleam.plots import comparison
from gleam.report import middle_plane
from gleam.shipped import shipped_networks
from physics.masks import acceleration

RUNS = Path("runs/real_scans")


def without_learning(batch: Batch) -> dict[str, Tensor]:
    """Images ``(1, *space)`` of zero-filling and of :func:`reconstruct_classically`."""
    return {"zero-filled": batch.rescale(batch.zero_filled)[0], **reconstruct_classically(batch)}


@torch.no_grad()
def reconstruct_all(
    case: Case, setting: Setting, networks: Sequence[Trained]
) -> tuple[dict[str, Tensor], Tensor, float]:
    """Images ``(1, *space)`` of all methods, the target, and the mask's true acceleration."""
    example, batch = setting.undersample(case.kspace, case.seed)
    images = without_learning(batch)
    for trained in networks:
        images[trained.name] = batch.rescale(run_network(trained.network, batch))[0]
    return images, example.target, acceleration(batch.mask)


def run(data: Path, checkpoints: Mapping[str, str | Path], out: Path) -> dict[str, Any]:
    """Reconstruct, compare, and write ``real_scans.json``, ``.md`` and a picture a data set.

    Args:
        data: folder of the real scans.
        checkpoints: by the names the networks have in the tables.
        out: folder of the results.

    Returns:
        What ``real_scans.json`` holds.

    Raises:
        CheckpointError: if a checkpoint cannot be used.
        ValueError: if there is no checkpoint, or no data for a network.
    """
    if not checkpoints:
        raise ValueError("name at least one checkpoint: there is no network to test")
    began = time.process_time()
    networks = [Trained.open(name, path) for name, path in checkpoints.items()]
    dimensions = {trained.config.data.ndim for trained in networks}
    rows: list[dict[str, Any]] = []
    for case in cases(data, dimensions):
        fitting = [trained for trained in networks if trained.config.data.ndim == case.ndim]
        settings = list(dict.fromkeys(s for trained in fitting for s in trained.settings))
        for setting in settings:
            chosen = [trained for trained in fitting if setting in trained.settings]
            drawn = out if case.pictured and setting == settings[:2][-1] else None
            rows += test(case, setting, chosen, drawn)
    report = {
        "networks": {trained.name: trained.facts() for trained in networks},
        "summary": summarise_rows(rows),
        "paired": compare(rows),
        "cases": rows,
        "processor_seconds": time.process_time() - began,
        "provenance": provenance(),
    }
    write_json(out / "real_scans.json", report)
    text = markdown(report, __doc__ or "")
    (out / "real_scans.md").write_text(text, encoding="utf-8")
    print(text)
    return report


def cases(folder: Path, dimensions: Collection[int]) -> Iterator[Case]:
    """The slices if there are 2D networks, the slab if there are 3D ones."""
    if 2 in dimensions:
        yield from slices(folder)
    if 3 in dimensions:
        yield slab(folder)


def test(
    case: Case, setting: Setting, networks: Sequence[Trained], folder: Path | None
) -> list[dict[str, Any]]:
    """A row for each method; with a folder, the images are drawn into it."""
    images, target, factor = reconstruct_all(case, setting, networks)
    facts = {
        "data_set": case.data_set,
        "case": case.name,
        "mask": str(setting),
        "mask_seed": case.seed,
        "true_acceleration": factor,
    }
    learned = {trained.name for trained in networks}
    rows = [
        facts | {"method": method, "learned": method in learned} | evaluate_slice(image, target)
        for method, image in images.items()
    ]
    found = ", ".join(f"{row['method']} {row['psnr']:.2f}" for row in rows)
    print(f"{case.data_set}, {case.name}, {facts['mask']}: {found} dB", flush=True)
    if folder is not None:
        planes = {method: middle_plane(image) for method, image in images.items()}
        path = folder / f"real_scans_{FILES[case.data_set]}.png"
        title = f"{case.data_set}: {case.name}, {facts['mask']}"
        comparison(path, planes, middle_plane(target), title)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the real scans")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="NAME=PATH", help="further networks"
    )
    parser.add_argument("--out", type=Path, default=RUNS, help=f"default: {RUNS}")
    parser.add_argument("--publish", action="store_true", help=f"write to {RESULTS.name}/ instead")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoints = {name: name for name in shipped_networks()}
    for word in arguments.checkpoint:
        name, separator, path = word.partition("=")
        if not separator:
            parser.error(f"--checkpoint takes NAME=PATH, got {word!r}")
        checkpoints[name] = path
    run(arguments.data, checkpoints, RESULTS if arguments.publish else arguments.out)


if __name__ == "__main__":
    main()
