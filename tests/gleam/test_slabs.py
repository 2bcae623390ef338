"""A volume in slabs gives what the whole volume gives, and takes the memory of a slab."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gleam
from gleam.batch import Batch
from gleam.data.estimate import estimate_maps
from gleam.evaluation import run_network
from gleam.memory import PeakMemory
from gleam.reconstruction import reconstruct_and_compare
from gleam.slabs import InSlabs, Volume, read_volumes
from models.unrolled import UnrolledNetwork
from physics.brain import simulate_brain
from physics.masks import uniform_random
from tests.gleam import tiny
from tests.helpers import make_batch, make_network, normal, perturb, relative, seeded

SETTINGS = {
    "items": "volumes",
    "map_sets": 1,
    "calibration": 12,
    "method": "espirit",
    "crop": None,
}
SHAPE = (14, 16, 18)


def pair(batch: Batch) -> tuple[Batch, Volume]:
    """A random volume as a batch, and the same to be taken in slabs."""
    batch = replace(batch, axes=(-2, -1)).normalised()
    return batch, Volume(batch.zero_filled, torch.ones(1), batch.mask, batch.maps[0])


def in_slabs(network: UnrolledNetwork, volume: Volume, size: int, **stop: Any) -> Tensor:
    return run_network(InSlabs(network, size), volume, **stop)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 4, 14, 20])
@pytest.mark.parametrize("settings", [{}, {"hidden": 2}, {"maps": 2}, {"shared": True}])
def test_proximal_gradient_steps_in_slabs_are_those_of_the_whole(size, settings):
    network = make_network(steps=3, ndim=3, **settings)
    batch, volume = pair(make_batch(*SHAPE, maps=settings.get("maps", 1)))
    wanted = run_network(network, batch)
    assert relative(in_slabs(network, volume, size), wanted) < 1e-6
    assert relative(wanted, batch.zero_filled) > 1e-2


@torch.no_grad()
def test_a_smaller_halo_would_not_do(monkeypatch):
    network = make_network(steps=3, ndim=3)
    batch, volume = pair(make_batch(*SHAPE))
    wanted = run_network(network, batch)
    monkeypatch.setattr(UnrolledNetwork, "reach", network.reach - 1)
    assert relative(in_slabs(network, volume, 4), wanted) > 1e-6


@torch.no_grad()
def test_conjugate_gradients_in_slabs_agree_once_they_converge():
    network = make_network("modl", steps=3, ndim=3)
    batch, volume = pair(make_batch(*SHAPE))
    errors = []
    for iterations in (4, 30):
        for step in network.steps:
            step.iterations = iterations
        errors.append(relative(in_slabs(network, volume, 4), run_network(network, batch)))
    assert errors[1] < 1e-5 < errors[0] < 1e-2


@torch.no_grad()
def test_early_stops_are_those_of_the_whole():
    network = make_network(steps=4, ndim=3)
    batch, volume = pair(make_batch(*SHAPE))
    for stop in ({"steps": 0}, {"steps": 2}, {"stop_below": 0.2}):
        wanted = run_network(network, batch, **stop)
        assert relative(in_slabs(network, volume, 5, **stop), wanted) < 1e-6


@pytest.fixture(scope="module")
def kspace() -> Tensor:
    """A brain ``(coils, z, y, x)``; z is transformed already."""
    return simulate_brain(2, (32, 32, 32), 4).kspace[:, :, :30]


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return uniform_random((30, 32), 2, 12, seed=3)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a network of volumes with weights that all matter."""
    folder = tmp_path_factory.mktemp("runs")
    data = {"size": [32, 32, 32], "items": "volumes", "train": 1, "validate_on": 1}
    quick = data | {"map_method": "low_resolution"}
    best = tiny.train(folder, data=quick, training={"iterations": 1, "validate_every": 1}).best
    content = torch.load(best, weights_only=True)
    content["config"] = content["config"].replace("low_resolution", "espirit")
    with seeded():
        content["network"] = perturb(gleam.load(best)).state_dict()
    torch.save(content, best)
    return best


def test_a_memory_mapped_scan_is_reconstructed_as_the_whole(best, kspace, mask, tmp_path):
    """Mask and coil maps found, from files that are read in slabs."""
    measured = 1e3 * kspace * mask
    np.save(tmp_path / "kspace.npy", measured.numpy())
    mapped = np.load(tmp_path / "kspace.npy", mmap_mode="r")
    wanted = reconstruct_and_compare(best, measured, device="cpu")
    found = reconstruct_and_compare(best, mapped, slab=7, device="cpu")
    for got, right in zip(found, wanted, strict=True):
        assert relative(got, right) < 1e-5
    both = np.stack([mapped, mapped])
    volumes = gleam.reconstruct(best, both, mask[None, None].expand(2, 1, -1, -1), slab=20)
    assert relative(volumes[1], wanted[0]) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"map_sets": 2}, {"crop": 0.5}, {"calibration": 9}])
def test_maps_in_a_file_are_those_of_the_whole(kspace, mask, changes):
    settings = SETTINGS | changes
    measured = kspace * mask
    [volume] = read_volumes(measured, None, None, 8, **settings)
    wanted = estimate_maps(
        measured.movedim(1, 0),
        calibration=settings["calibration"],
        sets=settings["map_sets"],
        crop=settings["crop"],
        volume=True,
    ).movedim(0, 2)
    assert isinstance(volume.maps, np.memmap)
    assert relative(torch.from_numpy(np.array(volume.maps)), wanted) < 1e-5


def test_other_estimates_of_maps_are_those_of_the_whole_too(kspace, mask):
    settings = SETTINGS | {"method": "low_resolution"}
    [volume] = read_volumes(kspace, mask[None], None, 8, **settings)
    wanted = estimate_maps(
        (kspace * mask).movedim(1, 0), "low_resolution", 12, volume=True
    ).movedim(0, 2)
    assert torch.equal(volume.maps, wanted)


def test_a_slab_may_be_empty_but_the_volume_may_not(kspace, mask):
    partly = kspace.clone()
    partly[:, :8] = 0
    maps = normal(*kspace.shape)
    [volume] = read_volumes(partly, None, maps, 4, **SETTINGS)
    whole = Batch(partly[None], volume.mask, maps[None, None], axes=(-2, -1)).normalised()
    assert relative(volume.zero_filled, whole.zero_filled) < 1e-6
    with pytest.raises(ValueError, match="not all zero"):
        next(read_volumes(0 * kspace, None, maps, 4, **SETTINGS))


def test_the_peak_does_not_grow_with_the_slices():
    """Beyond three images: of k-space and maps, steps hold those of one slab."""
    peaks = []
    network = make_network(steps=2, ndim=3, features=16)
    for depth in (20, 40, 80):
        kspace, maps = (normal(6, depth, 12, 16, seed=n).numpy() for n in (0, 1))
        with torch.no_grad(), PeakMemory() as peak:
            [volume] = read_volumes(kspace, np.ones((1, 12, 16)), maps, 4, **SETTINGS)
            in_slabs(network, volume, 4)
        peaks.append(peak.bytes - 3 * 8 * depth * 12 * 16)  # zero-filled, state, next state
    assert max(peaks) < 1.01 * peaks[0]
    with torch.no_grad(), PeakMemory() as whole:
        run_network(network, pair(make_batch(80, 12, 16, coils=6))[0])
    assert whole.bytes > 3 * peaks[2]


def test_what_cannot_be_taken_in_slabs_is_refused(best, kspace, mask, tmp_path):
    maps = normal(*kspace.shape)
    cases = [
        ("at least one position", (kspace,), 0),
        ("axis -3 has size 20 in the mask, 32", (kspace, np.ones((20, 1, 32))), 4),
        ("axis -3 has size 31 in the coil maps, 32", (kspace, None, maps[:, :31]), 4),
        ("NaN", (kspace * float("nan"), mask[None], maps), 4),
        (r"fully sampled centre .*give coil maps", (kspace * (torch.arange(32) != 16),), 4),
        ("with 3 axes of space", (kspace[0],), 4),
    ]
    for message, arguments, slab in cases:
        with pytest.raises(ValueError, match=message):
            gleam.reconstruct(best, *arguments, slab=slab, device="cpu")
    flat = tiny.train(tmp_path, training={"iterations": 1}).best
    with pytest.raises(ValueError, match="for networks of volumes, this one takes slices"):
        gleam.reconstruct(flat, kspace[:, 0], slab=4)
