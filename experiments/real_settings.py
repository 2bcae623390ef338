"""What trained networks are tested with on real scans: undersampling and coil maps."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gleam.batch import Batch
from gleam.config import Config, dump_config
from gleam.data import Example
from gleam.data_config import DataConfig, choices
from gleam.evaluation import open_network
from gleam.inputs import make_batch
from models.unrolled import UnrolledNetwork
from physics.masks import calibration_lines, draw_mask

Crop = float | Literal["auto"] | None

STANDARD = (
    ("random_columns", 3.0),
    ("random_columns", 4.0),
    ("poisson_disc", 4.0),
    ("poisson_disc", 8.0),
)


@dataclass(frozen=True)
class Setting:
    """How images are undersampled, and their coil maps estimated from the calibration alone.

    Attributes:
        kind, acceleration, calibration, shutter, partial_fourier: of the mask, see
            :func:`physics.masks.draw_mask`.
        method, crop: of the maps, see :func:`gleam.data.estimate.estimate_maps`.
    """

    kind: str
    acceleration: float
    calibration: int | float
    shutter: bool = False
    partial_fourier: float = 1.0
    method: str = "espirit"
    crop: Crop = None

    def __str__(self) -> str:
        words = [f"{self.kind} R = {self.acceleration:g}, calibration {self.calibration:g}"]
        words += ["shutter"] if self.shutter else []
        words += [f"partial Fourier {self.partial_fourier:g}"] if self.partial_fourier < 1 else []
        words += [f"maps by {self.method}"] if self.method != "espirit" else []
        words += [f"maps cropped at {self.crop}"] if self.crop is not None else []
        return ", ".join(words).replace("_", " ")

    def draw(self, space: tuple[int, ...], seed: int) -> Tensor:
        """The mask of a seed, of the rank of space and size 1 where it does not vary."""
        options = self.shutter, self.partial_fourier
        return draw_mask(self.kind, space, self.acceleration, self.calibration, seed, *options)

    def undersample(self, kspace: Tensor, seed: int) -> tuple[Example, Batch]:
        """:func:`undersample` with the mask of a seed."""
        space = tuple(kspace.shape[1:])
        lines = min(calibration_lines(self.calibration, n) for n in space[-2:])
        return undersample(kspace, self.draw(space, seed), lines, self.method, self.crop)


def undersample(
    kspace: Tensor, mask: Tensor, calibration: int, method: str = "espirit", crop: Crop = None
) -> tuple[Example, Batch]:
    """An example and its normalised batch of one, with the maps that a user would estimate.

    The target is the SENSE combination of all k-space with these maps.

    Args:
        kspace: fully sampled, complex64 ``(coils, *space)``, encoded along y and x.
        mask: of the rank of space, size 1 where it does not vary.
        calibration: largest extent of the block that the maps come from.
        method, crop: of the maps, see :func:`gleam.data.estimate.estimate_maps`.
    """
    measured = make_batch(
        kspace * mask,
        mask,
        items="volumes" if kspace.ndim == 4 else "slices",
        calibration=calibration,
        method=method,
        crop=crop,
    )
    example = Example.from_maps(kspace, measured.maps[0], "real")
    return example, example.undersample(mask)


def settings_for(trained: DataConfig) -> tuple[Setting, ...]:
    """What to test a network with, given the data of its training: see the experiment."""
    mask = trained.mask
    kinds, factors = choices(mask.kind), choices(mask.acceleration)
    least, most = min(factors), max(factors)
    known = [(kind, n) for kind, n in STANDARD if kind in kinds and least <= n <= most]
    own = [(kinds[0], factor) for factor in sorted({least, most})]
    options = mask.calibration, mask.shutter, mask.partial_fourier
    return tuple(
        Setting(kind, factor, *options, trained.map_method, trained.map_crop)
        for kind, factor in known or own
    )


@dataclass(frozen=True)
class Trained:
    """A network, the configuration of its training, and what it is tested with."""

    name: str
    network: UnrolledNetwork
    config: Config
    settings: tuple[Setting, ...]

    @classmethod
    def open(cls, name: str, checkpoint: str | Path) -> Trained:
        """The network of a checkpoint.

        Raises:
            CheckpointError: if it cannot be read.
            ValueError: if there is no data for it here.
        """
        network, config = open_network(checkpoint, "cpu")
        data = config.data
        if data.items == "cines" or data.map_sets > 1:
            raise ValueError(
                f"{name} must reconstruct slices or volumes with one set of coil maps, it was "
                f"trained with items = {data.items}, map_sets = {data.map_sets}"
            )
        return cls(name, network, config, settings_for(data))

    def facts(self) -> dict[str, Any]:
        """How it was trained and tested, and a fingerprint of its weights; plain values."""
        digest = hashlib.sha256()
        for values in self.network.state_dict().values():
            digest.update(values.numpy().tobytes())
        settings = dump_config(self.config)
        return {
            "weights": digest.hexdigest()[:16],
            "tested_with": [asdict(setting) for setting in self.settings],
            "trained_with": settings["data"]["mask"],
            **{section: settings[section] for section in ("network", "strategy", "training")},
        }
