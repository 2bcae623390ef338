"""Trained networks on real scans, beside reconstructions without learning.

    python -m experiments.real_scans --data FOLDER [--checkpoint NAME=PATH ...] [--out FOLDER]
        [--publish]

FOLDER holds the files of :mod:`experiments.real_data`; only the T2 brain comes with its coils, of
the others phase, coils and noise are simulated. The network that comes with the library,
``general-2d``, is always among those tested. 2D networks see the slices, 3D networks a slab of the
head. A network is tested with those of the standard masks that its own configuration trained it
for, or else with its own kind at the least and the greatest of its accelerations; calibration,
shutter and partial Fourier are its own too. Networks with the same masks share what classical
methods make of them.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.memory_report import write_json
from experiments.provenance import RESULTS, provenance
from experiments.real_data import FILES, Case, slab, slices
from experiments.real_report import compare, markdown, summarise_rows
from gleam.batch import Batch
from gleam.config import Config, dump_config
from gleam.data import Example
from gleam.data_config import MaskConfig, choices
from gleam.evaluation import open_network, reconstruct_classically, run_network
from gleam.inputs import make_batch
from gleam.metrics import evaluate_slice
from gleam.plots import comparison
from gleam.report import middle_plane
from models.unrolled import UnrolledNetwork
from physics.masks import acceleration, calibration_lines, draw_mask

STANDARD = (
    ("random_columns", 3.0),
    ("random_columns", 4.0),
    ("poisson_disc", 4.0),
    ("poisson_disc", 8.0),
)
RUNS = Path("runs/real_scans")


@dataclass(frozen=True)
class Trained:
    """A network, the configuration of its training and the masks it is tested with."""

    name: str
    network: UnrolledNetwork
    config: Config
    masks: tuple[MaskConfig, ...]

    @classmethod
    def open(cls, name: str, checkpoint: str | Path) -> Trained:
        """The network of a checkpoint.

        Raises:
            CheckpointError: if it cannot be read.
            ValueError: if there is no data for it here.
        """
        network, config = open_network(checkpoint, "cpu")
        if config.data.items == "cines" or config.data.map_sets > 1:
            raise ValueError(
                f"{name} must reconstruct slices or volumes with one set of coil maps, it was "
                f"trained with items = {config.data.items}, map_sets = {config.data.map_sets}"
            )
        return cls(name, network, config, masks_for(config.data.mask))

    def facts(self) -> dict[str, Any]:
        """How it was trained, and a fingerprint of its weights."""
        settings = dump_config(self.config)
        digest = hashlib.sha256()
        for values in self.network.state_dict().values():
            digest.update(values.numpy().tobytes())
        return {
            "weights": digest.hexdigest()[:16],
            "tested_with": [describe(mask) for mask in self.masks],
            "trained_with": settings["data"]["mask"],
            **{section: settings[section] for section in ("network", "strategy", "training")},
        }


def masks_for(trained: MaskConfig) -> tuple[MaskConfig, ...]:
    """The masks to test a network with, given those of its training."""
    kinds, values = choices(trained.kind), choices(trained.acceleration)
    known = [
        (kind, factor)
        for kind, factor in STANDARD
        if kind in kinds and min(values) <= factor <= max(values)
    ]
    own = [(kinds[0], factor) for factor in sorted({min(values), max(values)})]
    return tuple(
        trained.model_copy(update={"kind": kind, "acceleration": factor})
        for kind, factor in known or own
    )


def describe(mask: MaskConfig) -> str:
    """Kind, acceleration and calibration of a mask, and what else limits it."""
    words = [f"{mask.kind} R = {mask.acceleration:g}".replace("_", " ")]
    words.append(f"calibration {mask.calibration:g}")
    words += ["shutter"] if mask.shutter else []
    if mask.partial_fourier < 1:
        words.append(f"partial Fourier {mask.partial_fourier:g}")
    return ", ".join(words)


def undersample(kspace: Tensor, mask: Tensor, calibration: int) -> tuple[Example, Batch]:
    """An example and its normalised batch; the ESPIRiT maps are those of the calibration alone.

    The target is the SENSE combination of all k-space with these maps.

    Args:
        kspace: fully sampled, complex64 ``(coils, *space)``.
        mask: of the shape of space, size 1 where it does not vary.
        calibration: largest extent of the block that the maps come from.
    """
    items = "volumes" if kspace.ndim == 4 else "slices"
    maps = make_batch(kspace * mask, mask, items=items, calibration=calibration).maps[0]
    example = Example.from_maps(kspace, maps, "real")
    return example, example.undersample(mask)


def without_learning(batch: Batch) -> dict[str, Tensor]:
    """Images ``(1, *space)`` of zero-filling and of :func:`reconstruct_classically`."""
    return {"zero-filled": batch.rescale(batch.zero_filled)[0], **reconstruct_classically(batch)}


@torch.no_grad()
def reconstruct_all(
    case: Case, settings: MaskConfig, networks: list[Trained]
) -> tuple[dict[str, Tensor], Tensor, float]:
    """Images ``(1, *space)`` of all methods, the target, and the mask's true acceleration."""
    space = tuple(case.kspace.shape[1:])
    mask = draw(settings, space, case.seed)
    lines = min(calibration_lines(settings.calibration, n) for n in space[-2:])
    example, batch = undersample(case.kspace, mask, lines)
    images = without_learning(batch)
    for trained in networks:
        images[trained.name] = batch.rescale(run_network(trained.network, batch))[0]
    return images, example.target, acceleration(mask)


def draw(settings: MaskConfig, space: tuple[int, ...], seed: int) -> Tensor:
    """The mask of a seed; the settings name one kind and one acceleration."""
    kind, factor = settings.kind, settings.acceleration
    if isinstance(kind, list) or isinstance(factor, list):
        raise ValueError(f"a mask has one kind and one acceleration, got {kind}, {factor}")
    return draw_mask(
        kind,
        space,
        factor,
        settings.calibration,
        seed,
        settings.shutter,
        settings.partial_fourier,
    )


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
        masks = list(dict.fromkeys(mask for trained in fitting for mask in trained.masks))
        for mask in masks:
            chosen = [trained for trained in fitting if mask in trained.masks]
            drawn = out if case.pictured and mask == masks[:2][-1] else None
            rows += test(case, mask, chosen, drawn)
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
    case: Case, settings: MaskConfig, networks: list[Trained], folder: Path | None
) -> list[dict[str, Any]]:
    """A row for each method; with a folder, the images are drawn into it."""
    images, target, factor = reconstruct_all(case, settings, networks)
    facts = {
        "data_set": case.data_set,
        "case": case.name,
        "mask": describe(settings),
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
    checkpoints = {"general-2d": "general-2d"}
    for word in arguments.checkpoint:
        name, separator, path = word.partition("=")
        if not separator:
            parser.error(f"--checkpoint takes NAME=PATH, got {word!r}")
        checkpoints[name] = path
    run(arguments.data, checkpoints, RESULTS if arguments.publish else arguments.out)


if __name__ == "__main__":
    main()
