import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from physics.calibration import MAP_METHODS, jsense, low_resolution
from physics.coils import espirit
from physics.fourier import fft, ifft

DATA = Path(
    os.environ.get(
        "GLEAM_TEST_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    )
)


def grid(*shape: int) -> list[Tensor]:
    """Coordinates from -1 to 1 over the field of view."""
    return torch.meshgrid(*[(torch.arange(n) - n // 2) * (2 / n) for n in shape], indexing="ij")


def profiles(coils: int, *space: Tensor) -> Tensor:
    """Smooth coil profiles of unit norm, on a ring around the last two axes."""
    made = []
    for coil in range(coils):
        angle = 2 * math.pi * coil / coils
        centre = [0.3 * (-1) ** coil] * (len(space) - 2) + [math.sin(angle), math.cos(angle)]
        distance = sum((x - c) ** 2 for x, c in zip(space, centre, strict=True))
        made.append(torch.polar(torch.exp(-distance / 1.5), angle + space[-1] * centre[-1]))
    maps = torch.stack(made)
    return maps / torch.linalg.vector_norm(maps, dim=0)


def head(seed: int, *space: Tensor) -> Tensor:
    """An ellipse with a bright rim, a dark middle and a random texture; zero outside."""
    radii = [0.85] * (len(space) - 1) + [0.7]
    radius = sum((x / r) ** 2 for x, r in zip(space, radii, strict=True)).sqrt()
    waves = torch.rand(6, len(space) + 1, generator=torch.Generator().manual_seed(seed))
    texture = sum(
        torch.cos(sum(20 * (w - 0.5) * x for w, x in zip(wave, space, strict=False)) + 6 * wave[-1])
        for wave in waves
    )
    brightness = 1 + 0.05 * texture + 0.5 * (radius > 0.9) - 0.5 * (radius < 0.25)
    return torch.polar((radius < 1) * brightness, 0.8 * space[-1] + space[-2] ** 2)


def scan(
    shape: tuple[int, ...], coils: int = 6, seed: int = 0, noise: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor]:
    """K-space ``(1, coils, *space)``, true maps ``(coils, *space)``, where the object is."""
    space = grid(*shape)
    maps, image = profiles(coils, *space), head(seed, *space)
    generator = torch.Generator().manual_seed(seed)
    kspace = fft(maps * image, tuple(range(-len(shape), 0)))
    kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    return kspace[None], maps, image != 0


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Per-pixel correlation over coils, whatever the phase and the scale."""
    norms = torch.linalg.vector_norm(first, dim=0) * torch.linalg.vector_norm(second, dim=0)
    return (first.conj() * second).sum(0).abs() / norms


def support(maps: Tensor) -> Tensor:
    return (maps != 0).any(2)[0, 0]


def dice(first: Tensor, second: Tensor) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("name", MAP_METHODS)
@pytest.mark.parametrize("shape", [(96, 81), (67, 80)])
def test_all_methods_find_the_true_maps_of_an_object(name, shape):
    kspace, truth, body = scan(shape)
    maps = MAP_METHODS[name](kspace, 24, sets=1, crop="auto")
    assert maps.shape == (1, 1, 6, *shape)
    assert maps.dtype == torch.complex64
    found = support(maps)
    assert correlation(maps[0, 0], truth)[found & body].min() > 0.99
    power = maps.abs().square().sum(2)[0, 0]
    torch.testing.assert_close(power[found], torch.ones_like(power[found]))


@pytest.mark.parametrize("name", MAP_METHODS)
def test_all_methods_find_the_maps_of_a_volume(name):
    kspace, truth, body = scan((20, 24, 26), coils=4)
    maps = MAP_METHODS[name](kspace, (12, 12, 10), crop="auto")
    assert maps.shape == (1, 1, 4, 20, 24, 26)
    agreement = correlation(maps[0, 0], truth)[support(maps) & body]
    assert agreement.quantile(0.01) > 0.99


@pytest.mark.parametrize("name", MAP_METHODS)
def test_only_the_calibration_block_is_read_and_never_written(name):
    kspace, _, _ = scan((60, 52))
    inner = torch.zeros(60, 52)
    inner[30 - 10 : 30 + 10, 26 - 8 : 26 + 8] = 1
    before = kspace.clone()
    maps = MAP_METHODS[name](kspace, (20, 16), crop="auto")
    torch.testing.assert_close(MAP_METHODS[name](kspace * inner, (20, 16), crop="auto"), maps)
    assert torch.equal(kspace, before)


@pytest.mark.parametrize("name", MAP_METHODS)
def test_a_batch_gives_the_maps_of_its_samples_whatever_their_scale(name):
    first, second = (scan((48, 40), seed=seed)[0] for seed in (1, 2))
    both = MAP_METHODS[name](torch.cat([first, 1e-25 * second]), 20, crop="auto")
    torch.testing.assert_close(both[:1], MAP_METHODS[name](first, 20, crop="auto"))
    alone = MAP_METHODS[name](second, 20, crop="auto")
    inside = support(both[1:]) & support(alone)
    assert dice(support(both[1:]), support(alone)) > 0.99
    torch.testing.assert_close(both[1:][..., inside], alone[..., inside], rtol=0, atol=1e-3)


@pytest.mark.parametrize("calibration", [20, (14, 20)])
def test_jsense_is_what_sigpy_computes(calibration):
    from sigpy.mri.app import JsenseRecon

    kspace, _, _ = scan((64, 60))
    data = kspace[0].numpy().copy()
    if calibration != 20:  # sigpy leaves out what is zero
        data[:, : 32 - 7] = data[:, 32 + 7 :] = 0
    settings = {"mps_ker_width": 12, "ksp_calib_width": 20, "lamda": 1e-3, "max_iter": 6}
    reference = JsenseRecon(data, **settings, show_pbar=False).run()
    options = {"crop": 0, "kernel_size": 12, "regularization": 1e-3}
    maps = jsense(kspace, calibration, **options, iterations=6)
    np.testing.assert_allclose(maps[0, 0].numpy(), reference, atol=1e-3)
    assert torch.equal(jsense(kspace, calibration, **options, iterations=6), maps)
    assert (jsense(kspace, calibration, **options, iterations=2) - maps).abs().max() > 1e-2


def test_low_resolution_maps_are_those_of_numpy_from_a_windowed_centre():
    kspace, _, _ = scan((50, 47))
    weighted = np.zeros((6, 50, 47), complex)
    hann = [np.hanning(size + 2)[1:-1] for size in (15, 11)]  # odd: symmetric around the centre
    block = slice(None), slice(25 - 7, 25 + 8), slice(23 - 5, 23 + 6)
    weighted[block] = kspace[0].numpy()[block] * np.outer(*hann)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(weighted, (1, 2))), (1, 2))
    expected = images / np.sqrt((np.abs(images) ** 2).sum(0))
    maps = low_resolution(kspace, (15, 11), crop=0)
    np.testing.assert_allclose(maps[0, 0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("name", MAP_METHODS)
@pytest.mark.parametrize("noise", [1e-3, 3e-2, 1e-1])
def test_automatic_crop_keeps_the_body_and_removes_the_air(name, noise):
    for seed in range(3 if name != "jsense" else 1):
        kspace, _, body = scan((128, 112), seed=seed, noise=noise)
        found = support(MAP_METHODS[name](kspace, 24, crop="auto"))
        assert dice(found, body) > 0.95
        assert found[body].float().mean() > 0.98


@pytest.mark.parametrize("name", MAP_METHODS)
def test_automatic_crop_removes_nothing_of_an_object_that_fills_the_field_of_view(name):
    space = grid(80, 72)
    y, x = space
    image = torch.polar(1 + 0.4 * torch.cos(9 * x + 2 * y) * torch.sin(5 * y), x + y**2)
    kspace = fft(profiles(6, *space) * image)[None]
    noise = torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator())
    assert support(MAP_METHODS[name](kspace + 1e-2 * noise, 24, crop="auto")).all()


def test_automatic_crop_never_keeps_what_the_eigenvalues_of_espirit_exclude():
    kspace, _, body = scan((96, 81), noise=1e-2)
    plain, automatic = espirit(kspace), espirit(kspace, crop="auto")
    kept = support(automatic)
    assert torch.equal(automatic[..., kept], plain[..., kept])
    assert dice(kept, body) > dice(support(plain), body) + 0.1
    both = espirit(kspace, sets=2, crop="auto")
    torch.testing.assert_close(both[:, 1] != 0, (espirit(kspace, sets=2)[:, 1] != 0) & kept)


@pytest.mark.parametrize("method", [jsense, low_resolution])
def test_a_crop_by_number_is_a_share_of_the_brightest_pixel(method):
    kspace, _, body = scan((64, 60))
    everything, some = (support(method(kspace, 20, crop=crop)) for crop in (0, 0.3))
    assert everything.all()
    assert dice(some, body) > 0.9
    assert support(method(1e-3 * kspace, 20, crop=0.3)).equal(some)
    images = ifft(kspace)[0].abs().square().sum(0).sqrt()
    assert not some[images < 0.02 * images.max()].all()


def test_several_sets_are_refused_where_there_is_one_with_the_reason():
    kspace, _, _ = scan((40, 36), coils=4)
    for method in (jsense, low_resolution):
        with pytest.raises(ValueError, match=r"sets must be 1, got 2.*use espirit"):
            method(kspace, 20, sets=2)
    assert MAP_METHODS["espirit"](kspace, 20, sets=2, crop=0.8).shape == (1, 2, 4, 40, 36)


def test_jsense_needs_a_calibration_that_holds_its_kernel():
    kspace, truth, body = scan((40, 36), coils=4)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        jsense(kspace, (24, 12), kernel_size=16)
    maps = jsense(kspace, (24, 12))
    assert correlation(maps[0, 0], truth)[support(maps) & body].quantile(0.01) > 0.99


@pytest.mark.parametrize("name", MAP_METHODS)
def test_unusable_data_is_refused_with_the_cure(name):
    kspace, _, _ = scan((40, 36), coils=4)
    method = MAP_METHODS[name]
    with pytest.raises(TypeError, match="complex"):
        method(kspace.abs(), 20, crop="auto")
    with pytest.raises(ValueError, match="add a batch axis"):
        method(kspace[0], 20, crop="auto")
    with pytest.raises(ValueError, match="smaller extents"):
        method(kspace, 38, crop="auto")
    with pytest.raises(ValueError, match="must be fully sampled"):
        method(kspace * (torch.arange(36) % 2 == 0), 20, crop="auto")
    with pytest.raises(ValueError, match="zero in all coils"):
        method(torch.zeros_like(kspace), 20, crop="auto")
    broken = kspace.clone()
    broken[0, 1, 20, 20] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        method(broken, 20, crop="auto")


@pytest.mark.skipif(not (DATA / "mc_brain_T2_4ch.mat").exists(), reason="real data not there")
@pytest.mark.parametrize("name", MAP_METHODS)
def test_maps_of_a_real_brain_explain_its_coil_images_and_leave_out_the_air(name):
    from scipy.io import loadmat

    images = torch.from_numpy(loadmat(DATA / "mc_brain_T2_4ch.mat")["img"]).permute(2, 0, 1)
    images = images.to(torch.complex64)
    maps = MAP_METHODS[name](fft(images)[None], 24, crop="auto")
    combined = images.abs().square().sum(0).sqrt()
    tissue = combined > 0.1 * combined.max()
    left = images - maps[0, 0] * (maps[0, 0].conj() * images).sum(0)
    assert left[:, tissue].norm() < 0.1 * images[:, tissue].norm()
    assert support(maps)[tissue].float().mean() > 0.99
    border = torch.ones(256, 256, dtype=torch.bool)
    border[8:-8, 8:-8] = False
    assert support(maps)[border].float().mean() < 0.3
