import math

import numpy as np
import pytest
import torch

from physics.acquisition import (
    Band,
    acquire,
    background_phase,
    band_limit,
    check_acquisition,
    draw_snr,
    first_on_fine,
    normalise,
    prevailing,
    random_streams,
    refine,
    transmit_field,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(space=(24, 20), coils=3, maps_space=None):
    generator = seeded(1)
    image = torch.randn(space, dtype=torch.complex64, generator=generator)
    maps = torch.randn((coils, *(maps_space or space)), dtype=torch.complex64, generator=generator)
    return image, maps, torch.ones(maps_space or space, dtype=torch.bool)


def numpy_fft(image, axes):
    image = np.fft.ifftshift(np.asarray(image, dtype=np.complex128), axes=axes)
    return np.fft.fftshift(np.fft.fftn(image, axes=axes, norm="ortho"), axes=axes)


@pytest.mark.parametrize(
    ("space", "maps_space", "axes"),
    [
        ((24, 20), None, (-2, -1)),
        ((10, 12, 9), None, (-3, -2, -1)),
        ((5, 12, 10), (1, 12, 10), (-2, -1)),
    ],
)
def test_without_noise_kspace_is_the_centred_fft_of_the_coil_images(space, maps_space, axes):
    image, maps, body = scene(space, 3, maps_space)
    kspace = acquire(image, maps, body, math.inf, seeded(), axes)
    assert kspace.dtype == torch.complex64
    expected = numpy_fft((maps * image).numpy(), axes)
    np.testing.assert_allclose(kspace.numpy(), expected, atol=1e-5)


def test_the_noise_has_the_standard_deviation_that_the_snr_defines():
    image, maps, body = scene((120, 100), 4)
    clean = acquire(image, maps, body, math.inf, seeded())
    noise = acquire(image, maps, body, 20.0, seeded()) - clean
    for part in (noise.real, noise.imag):
        torch.testing.assert_close(part.std((1, 2)), torch.full((4,), 0.05), rtol=0.04, atol=0)


@pytest.mark.parametrize(("share", "columns"), [(0.75, 15), (0.56, 11), (1.0, 20)])
def test_partial_fourier_leaves_out_exactly_the_end_of_the_last_axis(share, columns):
    image, maps, body = scene()
    full = acquire(image, maps, body, 50.0, seeded())
    part = acquire(image, maps, body, 50.0, seeded(), partial_fourier=share)
    assert torch.equal(part[..., :columns], full[..., :columns])
    assert torch.count_nonzero(part[..., columns:]) == 0


@pytest.mark.parametrize("share", [0.5, 0.0, 1.1, math.nan])
def test_an_impossible_partial_fourier_share_is_refused(share):
    with pytest.raises(ValueError, match=r"above 0\.5 and up to 1"):
        acquire(*scene(), 50.0, seeded(), partial_fourier=share)


def test_an_snr_is_drawn_between_33_and_500_or_is_the_one_asked_for():
    drawn = [draw_snr(None, seeded(seed)) for seed in range(50)]
    assert 33 < min(drawn) < 50
    assert 300 < max(drawn) < 500
    assert draw_snr(12.0, seeded()) == 12.0
    first, second = seeded(), seeded()
    draw_snr(None, first)
    draw_snr(math.inf, second)
    assert torch.equal(first.get_state(), second.get_state())


@pytest.mark.parametrize("snr", [0.0, -3.0, math.nan])
def test_an_snr_that_is_not_positive_is_refused(snr):
    with pytest.raises(ValueError, match=f"must be positive .*, got {snr}"):
        check_acquisition((8, 8), snr, 1.0)


def test_possible_acquisitions_are_accepted():
    for snr in (None, 5, math.inf):
        check_acquisition((8, 8), snr, 0.75)


def test_the_partial_fourier_of_an_acquisition_is_checked_along_its_last_axis():
    check_acquisition((4, 100), None, 0.55)
    with pytest.raises(ValueError, match="keep the central of the 4 lines"):
        check_acquisition((100, 4), None, 0.55)


def test_random_streams_are_independent_and_stay_when_a_name_is_added():
    def numbers(names, seed=3):
        return {n: torch.rand(4, generator=g) for n, g in random_streams(seed, names).items()}

    few, more, other = numbers("ab"), numbers("abc"), numbers("ab", 4)
    assert list(more) == ["a", "b", "c"]
    assert all(torch.equal(few[name], more[name]) for name in "ab")
    assert len({tuple(v.tolist()) for v in (*more.values(), *other.values())}) == 5


@pytest.mark.parametrize(("count", "factor"), [(8, 2), (9, 2), (9, 3), (7, 4), (5, 1)])
def test_the_first_point_of_an_axis_is_found_on_the_finer_one(count, factor):
    axis = torch.arange(count) * 2.0 + 5
    first = first_on_fine(count, factor)
    torch.testing.assert_close(refine(axis, factor)[first::factor][: len(axis)], axis)


@pytest.mark.parametrize("count", [8, 9])
def test_a_refined_axis_keeps_the_points_of_the_axis(count):
    axis = 3 + (torch.arange(count) - count // 2) * 1.5
    fine = refine(axis, 2)
    assert len(fine) == 2 * count
    assert fine[2 * count // 2] == axis[count // 2]
    torch.testing.assert_close(fine[count % 2 :: 2], axis)
    assert refine(axis, 1) is axis


@pytest.mark.parametrize(("fine", "count"), [(16, 8), (18, 9), (24, 8), (12, 12)])
def test_a_band_passes_its_frequencies_and_stops_the_others(fine, count):
    band = Band(edge=0.6, width=0.05, decay=0.3)
    matrix = band.matrix(fine, count)
    position = (torch.arange(fine) - fine // 2) / fine
    seen = (torch.arange(count) - count // 2) / count
    for frequency in range(fine // 2):
        share = frequency / (count / 2)
        kept = math.exp(-0.3 * share) / (1 + math.exp((share - 0.6) / 0.05))
        if frequency > (count - 1) // 2:
            kept = 0 if frequency > count // 2 else kept / 2 if fine > count else kept
        angle = 2 * math.pi * frequency
        expected = kept * torch.cos(angle * seen)
        torch.testing.assert_close(
            matrix @ torch.cos(angle * position), expected, atol=2e-6, rtol=0
        )


def test_band_limiting_crops_kspace():
    fine = torch.randn(2, 32, 24, dtype=torch.complex64, generator=seeded())
    limited = band_limit(fine, (16, 12), seeded(5))
    assert limited.shape == (2, 16, 12)
    assert limited.dtype == torch.complex64
    band = Band.draw(seeded(5))
    kspace = numpy_fft(fine.numpy(), (1, 2))[:, 8:24, 6:18] / 2
    for axis, count in ((1, 16), (2, 12)):
        frequency = np.abs(np.arange(count) - count // 2) / (count / 2)
        window = np.exp(-band.decay * frequency)
        window /= 1 + np.exp((frequency - band.edge) / band.width)
        kspace *= window.reshape([-1 if i == axis else 1 for i in range(3)])
    ours = numpy_fft(limited.numpy(), (1, 2))
    # But for the line of the highest frequency, of which only the even part is kept.
    np.testing.assert_allclose(ours[:, 1:, 1:], kspace[:, 1:, 1:], atol=1e-5)


def test_band_limiting_keeps_a_constant_nearly_and_refuses_a_grid_that_does_not_fit():
    limited = band_limit(torch.ones(12, 20, 16), (10, 8), seeded())
    torch.testing.assert_close(limited.real, limited.real[0, 0, 0].expand(12, 10, 8))
    assert 0.95 < limited.real[0, 0, 0] <= 1
    assert limited.imag.abs().max() == 0
    with pytest.raises(ValueError, match="multiple of 7 points, got 16"):
        band_limit(torch.ones(12, 16), (12, 7), seeded())


def test_the_normalised_95th_percentile_is_1():
    image = torch.randn(3, 40, 50, dtype=torch.complex64, generator=seeded())
    body = torch.rand(1, 40, 50, generator=seeded()) < 0.5
    normal = normalise(image, body)
    inside = normal.abs()[body.expand(3, 40, 50)]
    assert np.percentile(inside.numpy(), 95) == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(normal * (image[0, 0, 0] / normal[0, 0, 0]), image)


def test_phase_and_transmit_field_vary_slowly_and_alike_in_planes_and_volumes():
    across = torch.arange(-100.0, 100.0, 4.0)
    volume = (torch.tensor([-30.0, 0.0, 30.0]), across, across)
    plane = (torch.zeros(1), across, across)
    for field in (background_phase, transmit_field):
        values = field(volume, seeded())
        torch.testing.assert_close(values[1:2], field(plane, seeded()), atol=1e-4, rtol=1e-4)
        assert torch.diff(values, dim=2).abs().max() < 0.5
        assert values.std() > 0.01
    assert 0.7 < transmit_field(volume, seeded()).mean() < 1.3


def test_the_prevailing_tissue_is_that_of_argmax_and_the_first_of_equals():
    fractions = torch.rand(7, 4, 30, 20, generator=torch.Generator().manual_seed(0))
    labels = prevailing(fractions)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels, fractions.numpy().argmax(0))
    equal = torch.tensor([[0.4, 0.2], [0.4, 0.4], [0.2, 0.4]])
    assert prevailing(equal).tolist() == [0, 1]
