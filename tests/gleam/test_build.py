"""Every setting of the data reaches what it is about."""

from collections import Counter
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch

import gleam.build
import gleam.data.loader
import physics.masks
from gleam.build import build_loaders, build_masks, build_source
from gleam.config import load_config
from gleam.data import SimulatedSubject
from gleam.data_config import DataConfig
from models.resnet import Separable
from tests.gleam import tiny
from tests.helpers import make_batch, seeded


def data(**changes: Any) -> DataConfig:
    return load_config({"data": {**tiny.SETTINGS["data"], **changes}}).data


def mask(space: tuple[int, ...] = (32, 32), **changes: Any) -> torch.Tensor:
    return build_masks(data(mask=changes))(space, 1)


def test_the_settings_of_the_mask_reach_it():
    columns = mask(acceleration=2, calibration=12, partial_fourier=0.75)
    assert columns.sum() == 16
    assert columns[0, 10:22].all()
    assert not columns[0, 24:].any()
    points = {"kind": "uniform_random", "acceleration": 2, "calibration": 12}
    corners = (torch.arange(32) - 16).square()[:, None] + (torch.arange(32) - 16).square() > 256
    assert mask(**points)[corners].any()
    assert not mask(**points, shutter=True)[corners].any()
    assert mask(kind="equispaced_columns", calibration=0.5, acceleration=2).sum() == 16


def test_the_settings_of_the_coil_maps_reach_their_estimate(monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    def estimate(kspace: torch.Tensor, **settings: Any) -> torch.Tensor:
        asked.update(settings)
        return torch.ones_like(kspace[:, None].expand(-1, settings["sets"], -1, -1, -1))

    monkeypatch.setattr(gleam.build, "estimate_maps", estimate)
    config = data(map_method="jsense", map_sets=2, map_crop=0.3)
    example = build_loaders(config, 1)["test"].source[0]
    assert len(example.maps) == 2
    wanted = {"method": "jsense", "crop": 0.3, "sets": 2, "calibration": 12}
    assert wanted.items() <= asked.items()


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"snr": 40.0, "contrast": "FLAIR"}, {"snr": 40.0, "contrast": "FLAIR"}),
        ({"anatomy": "knee", "contrast": "PD"}, {"anatomy": "knee", "contrast": "PD"}),
        (
            {"anatomy": "heart", "items": "cines", "size": [2, 32, 36], "snr": 40.0},
            {"anatomy": "heart", "size": (2, 32, 36), "snr": 40.0},
        ),
    ],
)
def test_the_settings_of_the_simulation_reach_it(changes: Any, options: Any):
    got = build_loaders(data(**changes), 5)["test"].source[1].kspace.numpy()
    scan = SimulatedSubject("test-0001", 5, **{"size": (32, 32), "coils": 3, **options})
    assert np.array_equal(got, scan.kspace()[0])


def test_a_source_of_its_own_has_a_cache_of_the_stated_size():
    scan = SimulatedSubject("a", 1, size=(32, 32), coils=3)
    kept, dropped = (build_source(data(cache=gib), [scan]) for gib in (1.0, 1e-6))
    assert kept[0].kspace.data_ptr() == kept[0].kspace.data_ptr()
    first, second = dropped[0], dropped[0]
    assert first.kspace.data_ptr() != second.kspace.data_ptr()


def test_all_splits_share_one_cache_of_the_stated_size(monkeypatch: pytest.MonkeyPatch):
    made = []
    plain = SimulatedSubject.kspace

    def kspace(self: SimulatedSubject, *arguments: Any) -> np.ndarray:
        made.append(self.name)
        return plain(self, *arguments)

    monkeypatch.setattr(SimulatedSubject, "kspace", kspace)
    one = 2 * (3 * 32 * 32 * 8)  # k-space and maps of an example
    loaders = build_loaders(data(cache=1.5 * one / 2**30), 1)
    for split in ("train", "test", "test", "train"):
        loaders[split].source[0]
    assert made == ["train-0000", "test-0000", "train-0000"]


def test_options_of_a_strategy_reach_it_and_hidden_channels_the_network():
    config = load_config({"strategy": {"name": "greedy", "lookahead": 2}, "network": {"hidden": 3}})
    with seeded():
        network = gleam.build.build_network(config.network, config.data)
    assert gleam.build.build_strategy(config, network).lookahead == 2
    assert network.hidden == 3
    batch = make_batch(8, 8)
    assert network.start(batch).shape == network.step(0, network.start(batch), batch).shape
    assert network.start(batch).shape == (1, 4, 8, 8)


def test_each_subject_draws_one_anatomy_and_one_number_of_coils_from_its_name():
    mixed = data(anatomy=["brain", "knee", "heart"], coils=[2, 3, 5], train=60)
    source = build_loaders(mixed, 5)["train"].source
    anatomies = [scan.path.parent.name for scan in map(attrgetter("scan"), source._items)]
    counts = [shape[0] for shape in source.shapes]
    for values, known in ((anatomies, {"brain", "knee", "heart"}), (counts, {2, 3, 5})):
        assert all(8 < values.count(value) < 36 for value in known)
    pairs = Counter(zip(anatomies, counts, strict=True))
    assert len(pairs) == 9  # one is drawn without regard to the other
    alone = {"anatomy": anatomies[0], "coils": counts[0]}
    wanted = SimulatedSubject("train-0000", 5, size=(32, 32), **alone)
    assert np.array_equal(source[0].kspace.numpy(), wanted.kspace()[0])
    fewer = build_loaders(data(**{**mixed.model_dump(), "train": 4}), 5)["train"].source
    assert fewer.shapes == source.shapes[:4]


def test_each_example_draws_one_kind_of_mask_and_poisson_discs_come_from_a_pool(
    monkeypatch: pytest.MonkeyPatch,
):
    kinds = ["random_columns", "equispaced_columns", "poisson_disc", "uniform_random"]
    drawn: list[tuple[str, int]] = []
    seen = physics.masks.draw_mask

    def draw(kind: str, shape: Any, acceleration: float, *rest: Any, **options: Any) -> Any:
        drawn.append((kind, rest[1]))
        return seen("random_columns", shape, acceleration, *rest, **options)

    monkeypatch.setattr(gleam.data.loader, "draw_mask", draw)
    monkeypatch.setattr(gleam.build, "POISSON_POOL", 10)
    loaders = build_loaders(data(mask={"kind": kinds, "acceleration": 2, "calibration": 12}), 1)
    for iteration in range(120):
        loaders["train"].training(iteration)
    assert all(15 < [kind for kind, _ in drawn].count(kind) < 45 for kind in kinds)
    assert len(set(drawn)) == 40
    drawn.clear()
    fixed = [[batch.mask for _, batch in loaders["test"].fixed()] for _ in range(2)]
    assert all(torch.equal(*masks) for masks in zip(*fixed, strict=True))
    assert len(drawn) == 4
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("step", ["pgd", "modl"])
def test_the_kind_of_convolution_reaches_the_network(step):
    volumes = data(items="volumes", size=[8, 32, 32])
    for kind, some in (("full", False), ("separable", True)):
        config = load_config(
            {
                "network": {"step": step, "features": 4, "convolution": kind},
                "data": volumes.model_dump(),
            }
        )
        with seeded():
            network = gleam.build.build_network(config.network, volumes)
        assert any(isinstance(layer, Separable) for layer in network.modules()) is some
