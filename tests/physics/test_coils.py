import math
import os
from pathlib import Path

import pytest
import torch

from physics.coils import espirit, sense_combine
from physics.fourier import fft, ifft

DATA = Path(
    os.environ.get(
        "GLEAM_TEST_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    )
)


def grid(*shape: int) -> list[torch.Tensor]:
    """Coordinates from -1 to 1 over the field of view."""
    return torch.meshgrid(*[(torch.arange(n) - n // 2) * (2 / n) for n in shape], indexing="ij")


def profiles(coils: int, *space: torch.Tensor) -> torch.Tensor:
    """Gaussian coil profiles on a ring (a helix in 3D), with linear phases; unit norm."""
    made = []
    for coil in range(coils):
        angle = 2 * math.pi * coil / coils
        centre = [0.9 * math.sin(angle), 0.9 * math.cos(angle)]
        if len(space) == 3:
            centre = [0.5 * (-1) ** coil, *centre]
        distance = sum((x - c) ** 2 for x, c in zip(space, centre, strict=True))
        phase = angle + sum(x * c for x, c in zip(space, centre, strict=True))
        made.append(torch.polar(torch.exp(-distance / 1.2), phase))
    maps = torch.stack(made)
    return maps / torch.linalg.vector_norm(maps, dim=0)


def ellipse(*space: torch.Tensor, radius: float = 0.8) -> torch.Tensor:
    """A textured ellipse with smooth phase; zero outside."""
    radii = [radius, 0.8 * radius] if len(space) == 2 else [radius, radius, 0.8 * radius]
    inside = sum((x / r) ** 2 for x, r in zip(space, radii, strict=True)) < 1
    texture = 1 + 0.4 * torch.cos(11 * space[-1] + 3 * space[0]) * torch.sin(7 * space[-2])
    return torch.polar(inside * texture, 0.7 * space[-1] + space[-2] ** 2)


def scan(coils: int, *shape: int, noise: float = 1e-3) -> tuple[torch.Tensor, ...]:
    """Coil images and true maps ``(coils, *space)`` and the object ``(*space)``."""
    space = grid(*shape)
    maps, image = profiles(coils, *space), ellipse(*space)
    generator = torch.Generator().manual_seed(0)
    images = maps * image
    images = images + noise * torch.randn(images.shape, dtype=images.dtype, generator=generator)
    return images, maps, image


def kspace_of(images: torch.Tensor) -> torch.Tensor:
    return fft(images, tuple(range(-images.ndim + 1, 0)))[None]


def correlation(first: torch.Tensor, second: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Per-pixel correlation over coils, whatever the phase and the scale."""
    norms = torch.linalg.vector_norm(first, dim=dim) * torch.linalg.vector_norm(second, dim=dim)
    return (first.conj() * second).sum(dim).abs() / norms


def residual(kspace: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Coil images minus their projection on the maps: ``(I - C C^H) images``."""
    images = ifft(kspace)
    return images - (maps * sense_combine(kspace, maps).unsqueeze(2)).sum(1)


@pytest.mark.parametrize(("coils", "shape"), [(4, (96, 81)), (8, (67, 72))])
def test_maps_agree_with_those_of_sigpy(coils, shape):
    from sigpy.mri.app import EspiritCalib

    images, _, image = scan(coils, *shape)
    kspace = kspace_of(images)
    reference = EspiritCalib(kspace[0].numpy(), crop=0.9, max_iter=60, show_pbar=False).run()
    reference = torch.from_numpy(reference.copy())
    maps = espirit(kspace)[0, 0]
    both = (maps != 0).all(0) & (reference != 0).all(0)
    assert both[image != 0].all()
    agreement = correlation(maps[:, both], reference[:, both])
    assert agreement[image[both] != 0].min() > 0.9999
    assert agreement.mean() > 0.999


@pytest.mark.parametrize("shape", [(96, 81), (20, 22, 24)])
def test_maps_are_the_true_ones_with_the_phase_of_the_dominant_virtual_coil(shape):
    images, truth, image = scan(6, *shape)
    kspace = kspace_of(images)
    size = 20 if len(shape) == 2 else 12
    maps = espirit(kspace, calibration=size, kernel_size=5)[0, 0]
    inside = image != 0
    assert correlation(maps, truth)[inside].min() > 0.997

    block = kspace[0][
        (slice(None), *(slice(n // 2 - size // 2, n // 2 + size // 2) for n in shape))
    ]
    virtual = torch.linalg.svd(block.flatten(1), full_matrices=False)[0][:, 0]
    virtual = virtual * torch.exp(-1j * virtual[virtual.abs().argmax()].angle())
    seen = torch.tensordot(virtual.conj(), truth, dims=1)
    strong = inside & (seen.abs() > 0.3)
    expected = truth * (seen.conj() / seen.abs())
    assert (maps - expected)[:, strong].abs().max() < 0.1
    phase = torch.tensordot(virtual.conj(), maps, dims=1)[strong].angle()
    torch.testing.assert_close(phase, torch.zeros_like(phase), rtol=0, atol=1e-3)


def test_maps_have_unit_norm_in_their_support_and_are_zero_outside():
    images, _, image = scan(6, 96, 80)
    maps = espirit(kspace_of(images), crop=0.95)
    assert maps.shape == (1, 1, 6, 96, 80)
    assert maps.dtype == torch.complex64
    assert maps.is_contiguous()
    power = maps.abs().square().sum(2)[0, 0]
    support = power > 0
    torch.testing.assert_close(power[support], torch.ones_like(power[support]))
    assert support[image != 0].all()
    assert not support.all()


@pytest.mark.parametrize("shape", [(96, 81), (67, 130)])
def test_interpolated_maps_are_those_of_an_eigendecomposition_in_every_pixel(shape):
    images, _, image = scan(6, *shape)
    kspace = kspace_of(images)
    fast, exact = espirit(kspace, crop=0.0)[0, 0], espirit(kspace, sets=2, crop=0.0)[0, 0]
    inside = image != 0
    assert correlation(fast, exact).mean() > 0.999
    assert correlation(fast, exact)[inside].min() > 0.9999
    assert (fast - exact).abs()[:, inside].max() < 0.02


def test_one_set_explains_the_coil_images_of_an_object_inside_the_field_of_view():
    images, _, _ = scan(6, 96, 80, noise=1e-3)
    kspace = kspace_of(images)
    left = residual(kspace, espirit(kspace))
    assert left.norm() < 0.01 * kspace.norm()


def test_two_sets_explain_an_object_wider_than_the_field_of_view():
    space = grid(128, 80)
    images = profiles(8, *space) * ellipse(*space, radius=0.8)
    kspace = kspace_of(images)[:, :, ::2].contiguous()
    one, two = (residual(kspace, espirit(kspace, sets=sets)).norm() for sets in (1, 2))
    assert one > 0.05 * kspace.norm()
    assert two < 0.1 * one
    maps = espirit(kspace, sets=2, crop=0.9)[0]
    assert maps.shape == (2, 8, 64, 80)
    inside = (ellipse(*space, radius=0.8) != 0).int()
    objects = inside[32:96] + torch.cat([inside[96:], inside[:32]])
    second = (maps[1] != 0).all(0).float()
    assert second[objects == 2].mean() > 0.6  # the edge is blurred by the small kernel
    assert second[objects == 1].mean() < 0.3
    assert (maps[0] != 0).all(0)[objects == 1].float().mean() > 0.99


def test_only_the_calibration_block_is_read():
    images, _, _ = scan(4, 64, 60)
    kspace = kspace_of(images)
    centre = torch.zeros(64, 60)
    centre[32 - 10 : 32 + 10, 30 - 8 : 30 + 8] = 1
    maps = espirit(kspace, calibration=(20, 16))
    torch.testing.assert_close(espirit(kspace * centre, calibration=(20, 16)), maps)


def test_a_batch_gives_the_maps_of_its_samples_whatever_their_scale():
    first, second = (kspace_of(scan(4, 48, 40, noise=noise)[0]) for noise in (1e-3, 2e-2))
    both = espirit(torch.cat([first, 1e-25 * second]))
    torch.testing.assert_close(both[:1], espirit(first))
    inside = scan(4, 48, 40)[2] != 0
    assert (both[1] - espirit(second)[0])[..., inside].abs().max() < 1e-3


def test_sense_combine_recovers_the_image_with_true_maps():
    images, maps, image = scan(5, 32, 28, noise=0.0)
    combined = sense_combine(kspace_of(images), maps[None, None])
    torch.testing.assert_close(combined[0, 0], image, rtol=0, atol=1e-5)


def test_unusable_arguments_are_refused_with_the_cure():
    kspace = kspace_of(scan(4, 40, 36)[0])
    with pytest.raises(TypeError, match="complex"):
        espirit(kspace.abs())
    with pytest.raises(ValueError, match="add a batch axis"):
        espirit(kspace[0])
    with pytest.raises(ValueError, match="the number of coils"):
        espirit(kspace, sets=5)
    with pytest.raises(ValueError, match="smaller extents"):
        espirit(kspace, calibration=38)
    with pytest.raises(ValueError, match="extent for each axis"):
        espirit(kspace, calibration=(24,))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        espirit(kspace, calibration=(24, 5))


def test_unusable_calibration_data_is_refused_with_the_size_that_would_work():
    kspace = kspace_of(scan(4, 40, 36)[0])
    columns = torch.zeros(36)
    columns[18 - 9 : 18 + 9] = 1
    with pytest.raises(ValueError, match=r"axes \[-1\]; calibration=\(24, 18\) would work"):
        espirit(kspace * columns)
    assert espirit(kspace * columns, calibration=(24, 18)).isfinite().all()
    with pytest.raises(ValueError, match="use a calibration scan"):
        espirit(kspace * (torch.arange(36) % 2 == 0))
    with pytest.raises(ValueError, match="zero in all coils"):
        espirit(torch.zeros_like(kspace))
    broken = kspace.clone()
    broken[0, 1, 20, 20] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        espirit(broken)


@pytest.mark.skipif(not (DATA / "mc_brain_T2_4ch.mat").exists(), reason="real data not there")
def test_maps_from_the_centre_explain_a_real_brain():
    from scipy.io import loadmat

    images = torch.from_numpy(loadmat(DATA / "mc_brain_T2_4ch.mat")["img"]).permute(2, 0, 1)
    kspace = kspace_of(images.to(torch.complex64))
    centre = torch.zeros(256, 256)
    centre[128 - 12 : 128 + 12, 128 - 12 : 128 + 12] = 1
    maps = espirit(kspace * centre, calibration=24)
    combined = images.abs().square().sum(0).sqrt()
    head = combined > 0.1 * combined.max()
    left = residual(kspace, maps)[0][:, head].norm()
    assert left < 0.05 * images[:, head].norm()
    assert (maps[0, 0, 0] != 0)[head].all()
