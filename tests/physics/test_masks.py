import numpy as np
import pytest
import torch

from physics.masks import (
    MASKS,
    acceleration,
    calibration_size,
    compact,
    equispaced_columns,
    poisson_disc,
    random_columns,
)

COLUMNS = [random_columns, equispaced_columns]


@pytest.mark.parametrize("make", COLUMNS)
@pytest.mark.parametrize(
    ("width", "factor", "calibration"), [(320, 4, 24), (181, 3, 9), (64, 8, 0)]
)
def test_columns_reach_the_requested_acceleration_exactly(make, width, factor, calibration):
    mask = make((12, width), factor, calibration, seed=3)
    assert mask.shape == (1, width)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.sum() == round(width / factor)


@pytest.mark.parametrize("make", COLUMNS)
@pytest.mark.parametrize(("width", "calibration"), [(320, 24), (320, 23), (181, 24), (181, 23)])
def test_calibration_columns_are_all_sampled_around_the_zero_frequency(make, width, calibration):
    mask = make((12, width), 4, calibration, seed=0)[0]
    start = width // 2 - calibration // 2
    assert mask[start : start + calibration].all()


@pytest.mark.parametrize("make", COLUMNS)
def test_columns_are_skipped_along_the_axis_asked_for(make):
    assert make((20, 64, 10), 4, 8, seed=0, axis=1).shape == (1, 64, 1)
    assert make((20, 64, 10), 4, 8, seed=0, axis=-2).shape == (1, 64, 1)
    torch.testing.assert_close(make((64,), 4, 8, 0), make((64, 10), 4, 8, 0, axis=0)[:, 0])


@pytest.mark.parametrize("name", MASKS)
def test_a_seed_gives_the_same_mask_again_and_another_seed_another_one(name):
    first, again, other = (MASKS[name]((48, 64), 4, 8, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", MASKS)
def test_masks_leave_the_global_random_state_alone(name):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    MASKS[name]((40, 48), 3.5, 6, seed=11)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", MASKS)
def test_masks_do_not_depend_on_the_global_random_state(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = MASKS[name]((40, 40), 3, 6, seed=2)
        torch.manual_seed(2)
        assert torch.equal(MASKS[name]((40, 40), 3, 6, seed=2), first)


@pytest.mark.parametrize("name", MASKS)
def test_acceleration_one_samples_everything(name):
    assert MASKS[name]((16, 20), 1, 4, seed=0).all()


@pytest.mark.parametrize(("factor", "calibration"), [(4, 24), (3, 16), (6, 0)])
def test_equispaced_lines_keep_one_spacing_on_both_sides_of_the_centre(factor, calibration):
    width = 320
    lines = equispaced_columns((1, width), factor, calibration, seed=4)[0].nonzero().flatten()
    spacing = (width - calibration) / (round(width / factor) - calibration)
    start = width // 2 - calibration // 2
    for side in (lines[lines < start], lines[lines >= start + calibration]):
        assert set(side.diff().tolist()) <= {int(spacing), int(np.ceil(spacing))}
        assert abs(side.diff().float().mean() - spacing) < 1 / (len(side) - 1)


def test_random_lines_are_uniform_outside_the_centre():
    hits = torch.stack([random_columns((1, 100), 4, 10, seed)[0] for seed in range(2000)]).mean(0)
    outside = torch.cat([hits[:45], hits[55:]])
    torch.testing.assert_close(outside, torch.full((90,), 15 / 90), rtol=0, atol=0.04)


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


def test_changing_a_poisson_disc_in_place_does_not_change_the_next_one():
    mask = poisson_disc((64, 72), 6, 12, seed=7)
    before = mask.clone()
    mask.zero_()
    assert torch.equal(poisson_disc((64, 72), 6, 12, seed=7), before)


def test_acceleration_counts_samples():
    mask = torch.zeros(1, 12)
    mask[0, :4] = 1
    assert acceleration(mask) == 3.0
    with pytest.raises(ValueError, match="must sample something"):
        acceleration(torch.zeros(3))


def test_compact_drops_only_axes_along_which_the_mask_is_constant():
    columns = random_columns((12, 40), 4, 8, seed=0)
    full = columns.expand(2, 1, 12, 40)
    assert torch.equal(compact(full), columns[None, None])
    varying = poisson_disc((64, 72), 6, 12, seed=7)
    assert torch.equal(compact(varying), varying)
    assert compact(torch.ones(5, 6)).shape == (1, 1)


def test_calibration_size_finds_the_fully_sampled_centre():
    columns = torch.zeros(1, 40)
    columns[0, 40 // 2 - 4 : 40 // 2 + 4] = 1
    columns[0, ::13] = 1
    assert calibration_size(columns, (30, 40)) == (30, 8)
    assert calibration_size(columns.expand(30, 40), (30, 40)) == (30, 8)

    block = torch.zeros(31, 40, 1)
    block[15 - 3 : 15 + 4, 20 - 5 : 20 + 5] = 1
    block[15, :] = 1
    assert calibration_size(block, (31, 40, 9)) == (7, 10, 9)

    block[15, 20] = 0
    assert calibration_size(block, (31, 40, 9)) == (0, 0, 0)
    assert calibration_size(torch.ones(1, 1), (30, 40)) == (30, 40)


def test_calibration_size_refuses_a_mask_of_another_shape():
    with pytest.raises(ValueError, match="rank of space"):
        calibration_size(torch.ones(1, 1, 30, 40), (30, 40))
    with pytest.raises(ValueError, match="its size or 1"):
        calibration_size(torch.ones(29, 40), (30, 40))


@pytest.mark.parametrize("name", MASKS)
def test_impossible_masks_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="at least 1"):
        MASKS[name]((40, 40), 0.5, 4, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        MASKS[name]((40, 40), float("nan"), 4, seed=0)
    with pytest.raises(ValueError, match="lower the acceleration or"):
        MASKS[name]((40, 40), 8, 24, seed=0)
    with pytest.raises(ValueError, match="positive sizes"):
        MASKS[name]((40, 0), 2, 4, seed=0)


def test_an_acceleration_that_no_poisson_disc_reaches_is_refused():
    with pytest.raises(ValueError, match="change one of them"):
        poisson_disc((40, 40), 500, 0, seed=0)


def test_axes_outside_space_are_refused():
    with pytest.raises(ValueError, match="one of space"):
        random_columns((40, 40), 2, 4, seed=0, axis=2)
    with pytest.raises(ValueError, match="two different ones"):
        poisson_disc((40, 40), 2, 4, seed=0, axes=(-1, 1))
