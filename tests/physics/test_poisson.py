import numpy as np
import pytest
import torch

from physics.masks import acceleration, calibration_size, draw_mask, poisson_disc, uniform_random

POINTS = [poisson_disc, uniform_random]


def ellipse(height: int, width: int, scale: float = 1) -> np.ndarray:
    """Where positions lie inside the ellipse that touches the four edges of the plane."""
    y, x = np.mgrid[:height, :width]
    y, x = (y - height // 2) / (height / 2), (x - width // 2) / (width / 2)
    return y**2 + x**2 <= scale**2


@pytest.mark.parametrize(
    ("shape", "factor", "calibration", "seed"), [((64, 72), 6, 12, 7), ((81, 50), 3.5, 10, 1)]
)
def test_poisson_disc_is_the_mask_that_sigpy_draws(shape, factor, calibration, seed):
    import sigpy.mri

    mask = poisson_disc(shape, factor, calibration, seed)
    block = (calibration, calibration)
    reference = sigpy.mri.poisson(shape, factor, calib=block, crop_corner=False, seed=seed)
    np.testing.assert_array_equal(mask.numpy(), reference.real)
    assert abs(acceleration(mask) - factor) < 0.1


@pytest.mark.parametrize(("shape", "calibration"), [((64, 72), 11), ((63, 71), 12), ((63, 72), 11)])
def test_poisson_disc_samples_the_whole_calibration_square(shape, calibration):
    mask = poisson_disc(shape, 5, calibration, seed=1)
    start = [n // 2 - calibration // 2 for n in shape]
    square = mask[start[0] : start[0] + calibration, start[1] : start[1] + calibration]
    assert square.all()


def test_poisson_disc_exists_for_seeds_with_which_sigpy_fails():
    import sigpy.mri

    with pytest.raises(ValueError, match="Cannot generate"):
        sigpy.mri.poisson((128, 96), 11, calib=(16, 16), crop_corner=False, seed=7)
    mask = poisson_disc((128, 96), 11, 16, seed=7)
    assert abs(acceleration(mask) - 11) < 0.1
    assert calibration_size(mask, (128, 96)) == (16, 16)


def test_poisson_disc_lies_in_the_axes_asked_for():
    mask = poisson_disc((64, 72, 30), 6, 12, seed=7, axes=(-3, -2))
    assert mask.shape == (64, 72, 1)
    assert torch.equal(mask[..., 0], poisson_disc((64, 72), 6, 12, seed=7))


def test_the_global_random_state_is_left_alone_where_sigpy_runs_without_its_compiler(monkeypatch):
    import sigpy.mri.samp

    monkeypatch.setattr(sigpy.mri.samp, "_poisson", sigpy.mri.samp._poisson.py_func)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    poisson_disc((24, 20), 4, 4, seed=123)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_changing_a_poisson_disc_in_place_does_not_change_the_next_one():
    mask = poisson_disc((64, 72), 6, 12, seed=7)
    before = mask.clone()
    mask.zero_()
    assert torch.equal(poisson_disc((64, 72), 6, 12, seed=7), before)


def test_an_acceleration_that_no_poisson_disc_reaches_is_refused():
    with pytest.raises(ValueError, match="change one of them"):
        poisson_disc((40, 40), 500, 0, seed=0)


@pytest.mark.parametrize(
    ("shape", "factor", "calibration"),
    [((64, 72), 6, 12), ((41, 35), 3.3, 5), ((20, 30), 2, 0), ((32, 32), 4, 16)],
)
def test_uniform_random_points_have_exactly_the_requested_number(shape, factor, calibration):
    mask = uniform_random(shape, factor, calibration, seed=1)
    assert mask.shape == shape
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.sum() == round(shape[0] * shape[1] / factor)
    block = tuple(
        slice(n // 2 - calibration // 2, n // 2 - calibration // 2 + calibration) for n in shape
    )
    assert mask[block].all()


def test_random_points_are_uniform_outside_the_centre():
    hits = torch.stack([uniform_random((20, 24), 4, 6, seed) for seed in range(3000)]).mean(0)
    centre = torch.zeros(20, 24, dtype=torch.bool)
    centre[7:13, 9:15] = True
    assert (hits[centre] == 1).all()
    expected = torch.full((20 * 24 - 36,), (120 - 36) / (480 - 36))
    torch.testing.assert_close(hits[~centre], expected, rtol=0, atol=0.035)


def test_points_vary_over_the_last_two_axes_of_a_volume():
    for make in POINTS:
        mask = make((5, 40, 48), 4, 8, seed=3)
        assert mask.shape == (1, 40, 48)
        assert torch.equal(mask[0], make((40, 48), 4, 8, seed=3))


@pytest.mark.parametrize("make", POINTS)
@pytest.mark.parametrize("shape", [(64, 72), (63, 50)])
def test_a_shutter_leaves_the_corners_out_and_the_number_of_samples_as_it_was(make, shape):
    mask = make(shape, 4, 10, seed=2, shutter=True)
    inside = ellipse(*shape)
    assert not mask.numpy()[~inside].any()
    assert acceleration(mask) == pytest.approx(4, abs=0.1 if make is poisson_disc else 0.01)
    assert mask.numpy()[inside & ~ellipse(*shape, scale=0.95)].any()
    assert calibration_size(mask, shape)[0] >= 10
    full = make(shape, 4, 10, seed=2)
    assert full.numpy()[~inside].any()


@pytest.mark.parametrize("make", POINTS)
def test_shutter_and_partial_fourier_go_together(make):
    mask = make((60, 64), 5, 8, seed=0, shutter=True, partial_fourier=0.75)
    assert not mask[:, 48:].any()
    assert not mask.numpy()[~ellipse(60, 64)].any()
    assert acceleration(mask) == pytest.approx(5, abs=0.1)


def test_a_mask_is_drawn_anew_when_only_an_option_changes():
    plain = draw_mask("poisson_disc", (64, 72), 6, 12, seed=7)
    assert not torch.equal(draw_mask("poisson_disc", (64, 72), 6, 12, 7, shutter=True), plain)
    assert not torch.equal(
        draw_mask("poisson_disc", (64, 72), 6, 12, 7, partial_fourier=0.7), plain
    )
    assert torch.equal(draw_mask("poisson_disc", (64, 72), 6, 12, seed=7), plain)


@pytest.mark.parametrize("make", POINTS)
def test_regions_too_small_for_the_samples_are_refused_with_the_reason(make):
    # The ellipse holds pi / 4 of the plane, an acceleration of 1.27.
    with pytest.raises(ValueError, match=r"leave \d+ of 1600 positions, which must hold the 1333"):
        make((40, 40), 1.2, 4, seed=0, shutter=True)
    with pytest.raises(ValueError, match="whole calibration block 30 x 30"):
        make((40, 40), 1.5, 30, seed=0, shutter=True)
    with pytest.raises(ValueError, match="whole calibration block 12 x 12"):
        make((40, 40), 4, 12, seed=0, partial_fourier=0.6)
    with pytest.raises(ValueError, match=r"above 0\.5"):
        make((40, 40), 4, 4, seed=0, partial_fourier=0.4)


@pytest.mark.parametrize("make", POINTS)
def test_axes_must_be_two_different_ones_of_space(make):
    with pytest.raises(ValueError, match="two different ones"):
        make((40, 40), 2, 4, seed=0, axes=(-1, 1))
    with pytest.raises(ValueError, match="one of space"):
        make((40,), 2, 4, seed=0)
