"""Reconstructing measured k-space is running the trained network, in the units of the data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gleam
from gleam.batch import Batch
from gleam.checkpoint import CheckpointError
from gleam.reconstruction import reconstruct_and_compare
from physics.coils import espirit
from physics.masks import calibration_size, random_columns
from tests.gleam import tiny
from tests.helpers import relative

CALIBRATION = 12
MASK = random_columns((32, 32), 2, CALIBRATION, seed=5)
BLOCK = tuple(min(CALIBRATION, extent) for extent in calibration_size(MASK, (32, 32)))


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"network": {"step": "modl"}}
    return tiny.train(tmp_path_factory.mktemp("runs") / "run", **changes).best


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return MASK


@pytest.fixture(scope="module")
def kspace() -> Tensor:
    return tiny.brain_kspace(5) * MASK


def test_it_equals_running_the_network_by_hand(best: Path, kspace: Tensor, mask: Tensor):
    image = gleam.reconstruct(best, kspace, device="cpu")
    assert image.shape == (32, 32)
    assert image.dtype == torch.complex64
    maps = espirit(kspace[None], BLOCK)
    batch = Batch(kspace[None], mask[None, None], maps)
    magnitude = batch.zero_filled.abs().flatten()
    scale = magnitude.sort().values[round(0.95 * (len(magnitude) - 1))]
    with torch.no_grad():
        wanted = gleam.load(best)(Batch(batch.kspace / scale, batch.mask, maps))[0, 0] * scale
    assert relative(image, wanted) < 1e-5
    assert relative(image, batch.zero_filled[0, 0]) > 1e-2  # the network does something


def test_given_mask_and_maps_give_what_inferred_ones_give(best: Path, kspace, mask):
    inferred = gleam.reconstruct(best, kspace, device="cpu")
    maps = espirit(kspace[None], BLOCK)[0]
    for given in (maps, maps[0], maps.numpy()):
        image = gleam.reconstruct(best, kspace, mask.numpy(), given, device="cpu")
        assert torch.equal(image, inferred)
    assert torch.equal(gleam.reconstruct(best, kspace.numpy(), device="cpu"), inferred)


def test_other_maps_give_another_image(best: Path, kspace: Tensor, mask: Tensor):
    maps = espirit(kspace[None], BLOCK)[0]
    image = gleam.reconstruct(best, kspace, mask, 1j * maps, device="cpu")
    inferred = gleam.reconstruct(best, kspace, device="cpu")
    assert not torch.equal(image, inferred)


@pytest.mark.parametrize("factor", [1000.0, 1e-6])
def test_the_image_has_the_units_of_the_kspace(best: Path, kspace: Tensor, factor: float):
    image = gleam.reconstruct(best, kspace, device="cpu")
    scaled = gleam.reconstruct(best, factor * kspace, device="cpu")
    assert relative(scaled, factor * image) < 1e-4


def test_slices_are_reconstructed_one_by_one(best: Path, kspace: Tensor):
    other = tiny.brain_kspace(6) * random_columns((32, 32), 2, CALIBRATION, seed=6)
    slices = torch.stack([kspace, 10 * other])
    image = gleam.reconstruct(best, slices, device="cpu")
    assert image.shape == (2, 32, 32)
    for number in range(2):
        assert torch.equal(image[number], gleam.reconstruct(best, slices[number], device="cpu"))
    one = gleam.reconstruct(best, slices[:1], device="cpu")
    assert torch.equal(one, image[:1])


def test_it_keeps_no_history_and_leaves_the_random_state(best: Path, kspace: Tensor):
    before = torch.get_rng_state()
    image = gleam.reconstruct(best, kspace, device="cpu")
    assert not image.requires_grad
    assert torch.equal(before, torch.get_rng_state())


def test_two_map_sets_give_two_images(tmp_path: Path, kspace: Tensor):
    changes = {"data": {"map_sets": 2}, "training": {"iterations": 1}}
    best = tiny.train(tmp_path, **changes).best
    assert gleam.reconstruct(best, kspace, device="cpu").shape == (2, 32, 32)
    assert gleam.reconstruct(best, kspace[None], device="cpu").shape == (1, 2, 32, 32)
    one = espirit(kspace[None], BLOCK)[0]
    with pytest.raises(ValueError, match="trained with 2 coil-map sets, got 1"):
        gleam.reconstruct(best, kspace, maps=one)


def test_what_cannot_be_reconstructed_is_refused(best: Path, kspace: Tensor, tmp_path: Path):
    maps = espirit(kspace[None], BLOCK)[0]
    cases = [
        ("is empty", (0 * kspace,)),
        ("NaN", (kspace * float("nan"),)),
        ("axis -1 has size 20 in the mask, 32", (kspace, np.ones((1, 20)))),
        ("axis -3 has size 2 in the coil maps, 3", (kspace, None, maps[:, :2])),
        ("got none; is it inverted", (kspace, np.zeros((1, 32)))),
        ("trained with 1 coil-map sets, got 2", (kspace, None, torch.cat([maps, maps]))),
        ("not all zero", (kspace, None, 0 * maps)),
    ]
    for message, arguments in cases:
        with pytest.raises(ValueError, match=message):
            gleam.reconstruct(best, *arguments, device="cpu")
    sparse = kspace.clone()
    sparse[..., 16] = 0
    with pytest.raises(ValueError, match=r"fully sampled centre .*give coil maps"):
        gleam.reconstruct(best, sparse, device="cpu")
    with pytest.raises(TypeError, match="must be complex"):
        gleam.reconstruct(best, kspace.abs(), device="cpu")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        gleam.reconstruct(tmp_path / "none.pt", kspace)


def test_the_zero_filled_image_beside_it_is_in_the_units_of_the_data(best: Path, kspace, mask):
    image, zero_filled = reconstruct_and_compare(best, 1000 * kspace, device="cpu")
    wanted = Batch(1000 * kspace[None], mask[None, None], espirit(kspace[None], BLOCK)).zero_filled
    assert image.shape == zero_filled.shape == (32, 32)
    assert relative(zero_filled, wanted[0, 0]) < 1e-5
