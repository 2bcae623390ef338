"""How good a trained network is: metrics per slice and per scan, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gleam.allocator import keep_freed_memory
from gleam.baselines import best_weight, cg_sense, l1_wavelet, total_variation
from gleam.batch import Batch
from gleam.build import build_device, build_loaders, build_masks, build_network, build_source
from gleam.checkpoint import CheckpointError, load_weights, read_checkpoint, read_config
from gleam.config import Config, load_config
from gleam.data import DataError, Example, Loader, find_scans
from gleam.metrics import evaluate_scan, evaluate_slice, summarise
from gleam.shipped import shipped_networks
from gleam.slabs import Volume
from gleam.strategies.modules import Network
from models.unrolled import UnrolledNetwork
from physics.masks import acceleration

L1_WEIGHTS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02)

Scores = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one or several methods.

    Attributes:
        slices: for each method, one mapping of metric to value a slice.
        scans: for each method, the same a scan, with fastMRI's magnitude metrics.
        examples: the worst, median and best slice: for each its images by method, "reference".
        accelerations: of each slice's mask, as drawn: all positions over those sampled.
        skipped: with ``data.skip_bad``, why scans were left out; each reason names its file.
    """

    slices: dict[str, list[Scores]]
    scans: dict[str, list[Scores]]
    examples: dict[str, dict[str, Tensor]]
    accelerations: list[float]
    skipped: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """For each method and metric of a slice: mean, standard deviation and count."""
        return {method: summarise(rows) for method, rows in self.slices.items()}

    @property
    def scan_summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """For each method and metric of a scan: mean, standard deviation and count."""
        return {method: summarise(rows) for method, rows in self.scans.items()}


def load(checkpoint: str | Path, device: str = "cpu") -> UnrolledNetwork:
    """The network of a checkpoint, ready to reconstruct.

    Raises:
        CheckpointError: if it cannot be read or belongs to another architecture.
    """
    return open_network(checkpoint, device)[0]


def pretrained(name: str, device: str = "cpu") -> UnrolledNetwork:
    """A network that ships with the library, trained and ready to reconstruct.

    Args:
        name: such as "general-2d"; its card, ``gleam/weights/NAME.md``, says what it was trained
            on. The name stands for a checkpoint wherever one is taken.
        device: "cpu", "cuda" or "auto".

    Raises:
        CheckpointError: for an unknown name; lists those there are.
    """
    known = shipped_networks()
    if name not in known:
        raise CheckpointError(f"no network {name!r} ships with gleam; there are {known}")
    return load(name, device)


def evaluate(
    checkpoint: str | Path,
    data: str | Path | Mapping[str, Any] | None = None,
    *,
    baselines: bool = False,
    device: str = "auto",
) -> Evaluation:
    """Reconstruct fully sampled scans after undersampling them, and compare.

    Args:
        checkpoint: of the network.
        data: a folder of scans (see :mod:`gleam.data.readers`); or settings that replace
            those of the checkpoint's ``data`` section, such as ``{"mask": {"acceleration": 3}}``;
            the run's own test split by default.
        baselines: compare with CG-SENSE, L1-wavelet and total variation too, the last two with
            the best of several weights, chosen with the reference in sight.
        device: "cpu", "cuda" or "auto".

    Returns:
        The metrics of "zero-filled", "network" and, if asked for, "CG-SENSE", "L1-wavelet" and
        "total variation".

    Raises:
        CheckpointError, ConfigError, DataError: naming the file or setting.
    """
    network, config = open_network(checkpoint, device)
    return evaluate_network(network, _test_loader(config, data), build_device(device), baselines)


def evaluate_network(
    network: Network, loader: Loader, device: torch.device, baselines: bool = False
) -> Evaluation:
    """:func:`evaluate` for a network and a loader at hand; holds the images of one scan."""
    slices: dict[str, list[Scores]] = {}
    scans: dict[str, list[Scores]] = {}
    accelerations = []
    by_scan = groupby(reconstructions(network, loader, device), lambda found: found[0].scan)
    for _, members in by_scan:
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for example, batch, reconstruction in members:
            accelerations.append(acceleration(batch.mask[0, 0]))
            for method, image in _images(batch, reconstruction, baselines).items():
                slices.setdefault(method, []).append(evaluate_slice(image, example.target))
                pairs.setdefault(method, []).append((image[0], example.target[0]))
        for method, both in pairs.items():
            scans.setdefault(method, []).append(_score_scan(both))
    # Kept from the start, the images of a large test set would fill the memory.
    names = _pick(slices["network"])
    places = sorted(set(names.values()))
    again = reconstructions(network, loader, device, [loader.usable[place] for place in places])
    shown = {
        place: {**_images(batch, reconstruction, baselines), "reference": example.target}
        for place, (example, batch, reconstruction) in zip(places, again, strict=True)
    }
    examples = {name: shown[place] for name, place in names.items()}
    skipped = tuple(sorted(loader.skipped))
    return Evaluation(slices, scans, examples, accelerations, skipped)


def _images(batch: Batch, reconstruction: Tensor, baselines: bool) -> dict[str, Tensor]:
    images = {"zero-filled": batch.rescale(batch.zero_filled)[0]}
    if baselines:
        images |= reconstruct_classically(batch)
    return {**images, "network": reconstruction}


@torch.no_grad()
def reconstructions(
    network: Network,
    loader: Loader,
    device: torch.device,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Example, Batch, Tensor]]:
    """Each example of a loader, or some, under its fixed mask, its batch, and the reconstruction.

    The reconstruction is ``(maps, *space)`` in the units of the example's target, on the CPU.
    """
    for example, batch in loader.fixed(indices):
        yield example, batch, batch.rescale(run_network(network, batch.to(device)).cpu())[0]


def images_by_step(network: Network, batch: Batch | Volume) -> Iterator[Tensor]:
    """The image that a network starts from and that after each of its steps, as they are computed.

    After the last step of a greedy module it is a reconstruction. Between these, and before the
    last step of a network trained end to end, no loss has ever asked for one.

    Yields:
        Complex ``(batch, maps, *space)``, normalised as the batch; the first one is zero-filled.
    """
    state = network.start(batch)
    yield network.image(state, batch)
    for index in range(len(network.steps)):
        state = network.step(index, state, batch)
        yield network.image(state, batch)


def run_network(
    network: Network,
    batch: Batch | Volume,
    steps: int | None = None,
    stop_below: float | None = None,
) -> Tensor:
    """The image after the last step, or an earlier one.

    Args:
        network: whose steps are taken.
        batch: of the measurements.
        steps: how many to take; all if None, and the zero-filled image if 0.
        stop_below: for each image, take no more once a step has changed it by less than this
            fraction of its l2 norm.

    Returns:
        Complex ``(batch, maps, *space)``, normalised as the batch.

    Raises:
        ValueError: if the network has fewer steps, or the fraction is not positive.
    """
    if steps is not None and not 0 <= steps <= len(network.steps):
        raise ValueError(
            f"steps must be from 0 to {len(network.steps)}, as many as the network has, got {steps}"
        )
    if stop_below is not None and not stop_below > 0:
        raise ValueError(f"stop_below must be a positive fraction such as 0.01, got {stop_below}")
    images = images_by_step(network, batch)
    image = next(images)
    moving = torch.ones_like(_norms(image), dtype=torch.bool)
    for after in islice(images, steps):
        if stop_below is not None:
            small = _norms(after - image) < stop_below * _norms(after)
            after = torch.where(moving, after, image)
            moving &= ~small
            if not moving.any():
                return after
        image = after
    return image


def _norms(image: Tensor) -> Tensor:
    """The l2 norm of every image ``(batch, ...)``, of size 1 on all other axes."""
    return torch.linalg.vector_norm(image, dim=tuple(range(1, image.ndim)), keepdim=True)


def open_network(checkpoint: str | Path, device: str) -> tuple[UnrolledNetwork, Config]:
    """The network of a checkpoint in evaluation mode, and the configuration of its run."""
    content = read_checkpoint(checkpoint)
    config = read_config(content, checkpoint)
    with torch.random.fork_rng(devices=[]):  # the first weights are replaced
        network = build_network(config.network, config.data)
    load_weights(network, content["network"], checkpoint)
    keep_freed_memory()
    return network.to(build_device(device)).eval(), config


def _test_loader(config: Config, data: str | Path | Mapping[str, Any] | None) -> Loader:
    if isinstance(data, str | Path):
        source = build_source(config.data, find_scans(data, config.data.format))
        return Loader(source, build_masks(config.data), config.seed)
    changed = load_config(config, data=data or {}).data
    loaders = build_loaders(changed, config.seed)
    if "test" not in loaders:
        raise DataError(f"{changed.path} must have scans to test on, in test/ or splits.yaml")
    return loaders["test"]


def reconstruct_classically(batch: Batch) -> dict[str, Tensor]:
    """Images ``(1, *space)`` of a batch of one without learning, in its original units.

    CG-SENSE, L1-wavelet and total variation. A volume or cine is reconstructed plane by plane, with
    one weight for all.

    Args:
        batch: normalised, with one map set and the target, which chooses the weights.
    """
    if batch.maps.shape[1] > 1:
        raise ValueError("the classical baselines take one map set: set data.map_sets to 1")
    planes = batch.planes()
    if planes.target is None:
        raise ValueError("the best weights are chosen with a target, got None")
    measured = planes.kspace, planes.mask, planes.maps
    images = {"CG-SENSE": cg_sense(*measured)}
    for name, sparse in (("L1-wavelet", l1_wavelet), ("total variation", total_variation)):
        images[name] = best_weight(sparse, *measured, L1_WEIGHTS, planes.target)[0]
    return {
        method: batch.rescale(image.movedim(0, 1).reshape(batch.zero_filled.shape))[0]
        for method, image in images.items()
    }


def _score_scan(pairs: list[tuple[Tensor, Tensor]]) -> Scores:
    images, references = (torch.stack(list(part)) for part in zip(*pairs, strict=True))
    return evaluate_scan(*(part.reshape(-1, *part.shape[-2:]) for part in (images, references)))


def _pick(scores: list[Scores]) -> dict[str, int]:
    """Which places the worst, the median and the best PSNR have."""
    order = sorted(range(len(scores)), key=lambda number: scores[number]["psnr"])
    return {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
