"""Coil maps of whole scans: known ones are found again, from whatever centre is sampled."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gleam.data.estimate import estimate_maps
from physics.coils import espirit
from tests.gleam.raw import SIZE, body, raw_kspace, raw_volume, true_maps
from tests.gleam.readers.layouts import to_kspace

METHODS = ("espirit", "jsense", "low_resolution")


def agreement(maps: Tensor, truth: np.ndarray, inside: np.ndarray) -> float:
    """Mean of ``|<maps, truth>|`` over the coils, 1 if they differ in phase only."""
    product = np.abs((maps.numpy().conj() * truth).sum(0))
    return float(product[inside].mean())


@pytest.mark.parametrize(
    ("method", "least"), [("espirit", 0.995), ("jsense", 0.98), ("low_resolution", 0.98)]
)
def test_known_maps_are_found_in_every_slice(method: str, least: float):
    kspace = torch.from_numpy(raw_kspace(slices=2))
    maps = estimate_maps(kspace, method, crop=0)
    assert maps.dtype == torch.complex64
    assert maps.shape == (2, 1, 4, *SIZE)
    assert maps.is_contiguous()
    objects = body(4, *SIZE)[1:-1] > 0
    for found, inside in zip(maps, objects, strict=True):
        assert agreement(found[0], true_maps(4, *SIZE), inside) > least


def test_slices_are_estimated_one_by_one():
    kspace = torch.from_numpy(raw_kspace(slices=3))
    maps = estimate_maps(kspace, calibration=20, sets=2)
    for samples, found in zip(kspace, maps, strict=True):
        assert torch.equal(found, espirit(samples[None], (20, 20), 2)[0])


def test_the_phase_of_a_volume_is_consistent_along_its_slices():
    kspace = raw_volume()
    maps = estimate_maps(torch.from_numpy(kspace), calibration=16, crop=0, volume=True)
    slices, coils, *space = kspace.shape
    assert maps.shape == (slices, 1, coils, *space)
    truth, inside = true_maps(coils, slices, *space), body(slices, *space) > 0
    assert agreement(maps[:, 0].swapaxes(0, 1), truth, inside) > 0.99
    overlap = (maps[:, 0].numpy().conj() * truth.swapaxes(0, 1)).sum(1)
    turned = overlap[1:] * overlap[:-1].conj()
    assert np.abs(np.angle(turned[inside[1:] & inside[:-1]])).max() < 0.2


def test_a_volume_is_estimated_in_3d():
    kspace = raw_volume(slices=12)
    whole = to_kspace(kspace.swapaxes(0, 1), (1,)).astype(np.complex64)
    wanted = espirit(torch.from_numpy(whole)[None], (12, 12, 12), crop=0.7)[0]
    maps = estimate_maps(torch.from_numpy(kspace), calibration=12, crop=0.7, volume=True)
    torch.testing.assert_close(maps.movedim(0, 2), wanted, atol=1e-3, rtol=0)


def test_a_dynamic_scan_is_averaged_over_the_frames_that_have_a_sample():
    still = raw_kspace(slices=2)
    sampled = np.random.default_rng(0).random((1, 1, 5, 1, SIZE[1])) < 0.4
    sampled[:, :, 0] |= ~sampled.any(2)
    moving = np.array([0.5, 0.8, 1.0, 1.2, 1.5])[:, None, None]
    frames = (sampled * moving * still[:, :, None]).astype(np.complex64)
    share = (sampled * moving).sum(2) / sampled.sum(2)
    wanted = estimate_maps(torch.from_numpy((share * still).astype(np.complex64)))
    maps = estimate_maps(torch.from_numpy(frames), dynamic=True)
    assert maps.shape == (2, 1, 4, 1, *SIZE)
    torch.testing.assert_close(maps[:, :, :, 0], wanted, atol=2e-3, rtol=0)


def test_the_calibration_block_shrinks_to_what_is_sampled():
    kspace = torch.from_numpy(raw_kspace())
    sampled = torch.zeros(SIZE[1])
    sampled[1::3] = 1
    sampled[18 - 6 : 18 + 6] = 1
    maps = estimate_maps(kspace * sampled)
    assert torch.equal(maps, espirit(kspace * sampled, (24, 12)))
    assert torch.equal(estimate_maps(kspace, calibration=100), espirit(kspace, SIZE))


def test_without_a_sampled_centre_the_slice_is_named():
    kspace = torch.from_numpy(raw_kspace(slices=3))
    kspace[1, ..., ::4] = 0
    with pytest.raises(ValueError, match=r"slice 1: .* centre of at least 8"):
        estimate_maps(kspace)
    with pytest.raises(ValueError, match="centre of at least 8"):
        estimate_maps(kspace, volume=True)


def test_maps_are_cropped_as_is_usual_for_their_method():
    kspace = torch.from_numpy(raw_kspace())
    for method, crop in zip(METHODS, (0.8, "auto", "auto"), strict=True):
        maps = estimate_maps(kspace, method)
        assert torch.equal(maps, estimate_maps(kspace, method, crop=crop))  # type: ignore[arg-type]
    wide, narrow = (estimate_maps(kspace, crop=crop) != 0 for crop in (0.5, 0.95))
    assert int(narrow.sum()) < int(wide.sum())


def test_arguments_that_cannot_work_are_refused():
    kspace = torch.from_numpy(raw_kspace())
    with pytest.raises(ValueError, match=r"choose a method from .*'jsense'"):
        estimate_maps(kspace, "walsh")
    with pytest.raises(ValueError, match=r"\(slices, coils, t, y, x\), got shape"):
        estimate_maps(kspace, dynamic=True)
    with pytest.raises(ValueError, match=r"\(slices, coils, y, x\), got shape"):
        estimate_maps(kspace[0])
    with pytest.raises(ValueError, match="slice 0: sets must be 1"):
        estimate_maps(kspace, "jsense", sets=2)
