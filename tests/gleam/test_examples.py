"""Fully sampled examples: targets, slabs, undersampling, seeds."""

import numpy as np
import pytest
import torch

from gleam.data import DataError, Example
from tests.gleam import tiny
from tests.helpers import normal, relative


def numpy_images(kspace: np.ndarray) -> np.ndarray:
    """Coil images by the centred orthonormal inverse FFT of the last two axes."""
    axes = (-2, -1)
    moved = np.fft.ifftshift(kspace, axes=axes)
    return np.fft.fftshift(np.fft.ifft2(moved, axes=axes, norm="ortho"), axes=axes)


def arrays(size: tuple[int, int] = (32, 36)) -> list[torch.Tensor]:
    """K-space, maps and target."""
    return [normal(3, *size), normal(1, 3, *size, seed=1), normal(1, *size, seed=2)]


@pytest.mark.parametrize(("first", "rows"), [(0, 32), (0, 9), (5, 10), (21, 11)])
def test_a_slab_is_exactly_the_crop_of_the_coil_images(first: int, rows: int):
    kspace, maps, target = arrays()
    slab = Example(kspace, maps, target, "a").slab(first, rows)
    kept = slice(first, first + rows)
    images = numpy_images(kspace.numpy())[:, kept]
    assert slab.kspace.shape == (3, rows, 36)
    got = numpy_images(slab.kspace.numpy())
    assert np.linalg.norm(got - images) < 1e-6 * np.linalg.norm(images)
    assert torch.equal(slab.maps, maps[:, :, kept])
    assert torch.equal(slab.target, target[:, kept])


def test_a_slab_of_the_undersampled_scan_is_the_undersampled_slab():
    kspace, maps, _ = arrays()
    mask = torch.from_numpy(tiny.columns(36)).float()
    whole = Example.from_maps(kspace, maps, "a")
    one = whole.slab(5, 10).undersample(mask)
    other = whole.undersample(mask)
    images = [batch.rescale(batch.zero_filled) for batch in (one, other)]
    assert relative(images[0], images[1][:, :, 5:15]) < 1e-5


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_target_is_the_sense_combination_plane_by_plane(dynamic: bool):
    kspace, maps = normal(3, 4, 8, 10), normal(2, 3, 1 if dynamic else 4, 8, 10, seed=1)
    images = numpy_images(kspace.numpy())
    wanted = (maps.numpy().conj() * images).sum(1)
    target = Example.from_maps(kspace, maps, "a").target
    assert target.shape == (2, 4, 8, 10)
    assert np.linalg.norm(target.numpy() - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_a_slab_of_a_volume_is_cut_along_z_and_leaves_its_planes_alone():
    kspace, maps = normal(3, 6, 8, 10), normal(1, 3, 6, 8, 10, seed=1)
    whole = Example.from_maps(kspace, maps, "a")
    slab = whole.slab(1, 4)
    for name in ("kspace", "maps", "target"):
        assert torch.equal(getattr(slab, name), getattr(whole, name)[..., 1:5, :, :])


def test_a_slab_of_a_cine_is_cut_along_the_rows_of_every_frame():
    kspace, maps = normal(3, 6, 8, 10), normal(1, 3, 1, 8, 10, seed=1)
    slab = Example.from_maps(kspace, maps, "a").slab(1, 4)
    assert (slab.kspace.shape, slab.maps.shape) == ((3, 6, 4, 10), (1, 3, 1, 4, 10))
    wanted = numpy_images(kspace.numpy())[:, :, 1:5]
    got = numpy_images(slab.kspace.numpy())
    assert np.linalg.norm(got - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_what_the_scanner_left_out_is_not_sampled():
    kspace, maps, _ = arrays()
    acquired = torch.ones(1, 36)
    acquired[:, 30:] = 0
    mask = torch.from_numpy(tiny.columns(36)).float()
    batch = Example.from_maps(kspace, maps, "a", acquired).undersample(mask)
    assert torch.equal(batch.mask[0, 0], mask * acquired)
    assert not batch.kspace[..., 30:].any()


def test_an_example_without_coil_maps_is_named_when_it_is_undersampled():
    kspace, maps, _ = arrays()
    with pytest.raises(DataError, match="scan a: every image"):
        Example.from_maps(kspace, 0 * maps, "a").undersample(torch.ones(1, 1))
