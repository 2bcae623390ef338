import numpy as np
import pytest
import torch

from physics.masks import (
    MASKS,
    acceleration,
    calibration_lines,
    calibration_size,
    compact,
    draw_mask,
    equispaced_columns,
    kt_variable_density,
    partial_fourier,
    poisson_disc,
    random_columns,
)

COLUMNS = [random_columns, equispaced_columns]


def space(name: str, *plane: int) -> tuple[int, ...]:
    """A space for which there are masks of this kind."""
    return (5, *plane) if name == "kt_variable_density" else plane


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
    first, again, other = (MASKS[name](space(name, 48, 64), 4, 8, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", MASKS)
def test_masks_leave_the_global_random_state_alone(name):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    MASKS[name](space(name, 40, 48), 3.5, 6, seed=11)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", MASKS)
def test_masks_do_not_depend_on_the_global_random_state(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = MASKS[name](space(name, 40, 40), 3, 6, seed=2)
        torch.manual_seed(2)
        assert torch.equal(MASKS[name](space(name, 40, 40), 3, 6, seed=2), first)


@pytest.mark.parametrize("name", MASKS)
def test_acceleration_one_samples_everything(name):
    assert MASKS[name](space(name, 16, 20), 1, 4, seed=0).all()


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


def test_acceleration_counts_samples():
    mask = torch.zeros(1, 12)
    mask[0, :4] = 1
    assert acceleration(mask) == 3.0
    with pytest.raises(ValueError, match="must sample something"):
        acceleration(torch.zeros(3))


@pytest.mark.parametrize("name", MASKS)
def test_acceleration_counts_all_positions_of_the_grid_and_not_those_of_a_compact_mask(name):
    shape = (6, 40, 60)
    mask = MASKS[name](shape, 4, 6, seed=0)
    taken = mask.expand(shape).sum().item()
    assert acceleration(mask) == pytest.approx(6 * 40 * 60 / taken)
    assert acceleration(mask) == pytest.approx(4, abs=0.1)


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
        MASKS[name](space(name, 40, 40), 0.5, 4, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        MASKS[name](space(name, 40, 40), float("nan"), 4, seed=0)
    with pytest.raises(ValueError, match="lower the acceleration or"):
        MASKS[name](space(name, 40, 40), 8, 24, seed=0)
    with pytest.raises(ValueError, match="positive sizes"):
        MASKS[name](space(name, 40, 0), 2, 4, seed=0)


def test_a_calibration_is_a_number_of_lines_or_a_share_of_them():
    assert calibration_lines(24, 320) == 24
    assert calibration_lines(0, 320) == 0
    assert calibration_lines(np.int64(8), 320) == 8
    assert type(calibration_lines(np.int64(8), 320)) is int
    assert calibration_lines(0.08, 320) == 26  # 25.6, rounded as fastMRI does
    assert calibration_lines(0.08, 368) == 29  # 29.44
    assert calibration_lines(0.001, 320) == 1
    for wrong in (-1, 321, 0.0, 1.0, 24.0, float("nan"), "24"):
        with pytest.raises(ValueError, match="number of lines"):
            calibration_lines(wrong, 320)


@pytest.mark.parametrize("name", MASKS)
def test_all_kinds_take_a_share_of_lines_for_their_calibration(name):
    shape = space(name, 50, 80)
    mask = MASKS[name](shape, 4, 0.1, seed=3)
    assert mask.expand(shape)[..., 25 - 2 : 25 + 3, 40 - 4 : 40 + 4].all()
    if mask.shape[-2] == 1:  # whole lines: a tenth of 80
        assert torch.equal(mask, MASKS[name](shape, 4, 8, seed=3))
    else:
        assert calibration_size(mask, shape)[0] < 8


@pytest.mark.parametrize(
    ("shape", "factor", "calibration"),
    [((20, 9, 180), 12, 4), ((7, 1, 65), 3, 0.1), ((9, 4, 64), 8, 8), ((3, 2, 40), 1.1, 3)],
)
def test_every_frame_has_the_requested_number_of_lines_and_the_centre(shape, factor, calibration):
    mask = kt_variable_density(shape, factor, calibration, seed=2)
    frames, _, n = shape
    assert mask.shape == (frames, 1, n)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (mask.sum(-1) == round(n / factor)).all()
    lines = calibration if isinstance(calibration, int) else round(calibration * n)
    start = n // 2 - lines // 2
    assert mask[..., start : start + lines].all()


def test_frames_differ_and_lines_just_sampled_rest():
    mask = kt_variable_density((20, 1, 180), 10, 6, seed=0)[:, 0]
    assert len({tuple(frame.tolist()) for frame in mask}) == 20
    outside = torch.cat([mask[:, :87], mask[:, 93:]], dim=1)
    repeated = (outside[1:] * outside[:-1]).sum() / outside[1:].sum()
    assert repeated < 0.02  # of independent frames, 7 % of the lines or more are repeated


def test_a_few_frames_cover_most_of_k_space_and_more_than_independent_ones_would():
    seeds = [kt_variable_density((24, 1, 192), 8, 8, seed)[:, 0] for seed in range(5)]
    for mask in seeds:
        assert mask[:16].amax(0).mean() > 0.8
        assert mask.amax(0).mean() > 0.9
    density = torch.stack(seeds).mean((0, 1))
    expected = (1 - (1 - density) ** 16).mean()
    covered = torch.stack([mask[:16].amax(0).mean() for mask in seeds]).mean()
    assert covered > expected + 0.05


@pytest.mark.parametrize("factor", [2.5, 8])
def test_lines_are_denser_towards_the_centre_as_a_gaussian_is(factor):
    n, calibration = 192, 8
    hits = torch.stack(
        [kt_variable_density((40, 1, n), factor, calibration, seed)[:, 0] for seed in range(25)]
    ).mean((0, 1))
    distance = (np.abs(np.arange(n) - n // 2) - calibration / 2).clip(0)
    weight = np.exp(np.log(0.2) * (distance / distance.max()) ** 2)
    weight[distance == 0] = 0
    low, high = 0.0, 100.0  # the scale at which densities, at most 1, add up to the lines
    for _ in range(60):
        scale = (low + high) / 2
        too_many = np.minimum(1, scale * weight).sum() > round(n / factor) - calibration
        low, high = (low, scale) if too_many else (scale, high)
    outside = distance > 0
    error = hits.numpy()[outside] - np.minimum(1, scale * weight)[outside]
    assert np.abs(error).max() < 0.035
    assert np.sqrt((error**2).mean()) < 0.01


def test_the_first_frame_is_sampled_like_the_others():
    masks = torch.stack([kt_variable_density((12, 1, 96), 6, 4, seed)[:, 0] for seed in range(300)])
    outer = torch.cat([masks[..., :24], masks[..., 72:]], dim=-1).mean((0, 2))
    assert outer[0] == pytest.approx(float(outer[4:].mean()), rel=0.3)


def test_aliasing_is_less_coherent_than_that_of_interleaved_lines():
    def peak(mask):
        """Largest side lobe of the point spread function over space and temporal frequency."""
        spread = torch.fft.fft2(mask[:, 0]).abs() / mask.sum()
        spread[0, :5] = spread[0, -4:] = 0  # main lobe
        return spread.max()

    interleaved = torch.zeros(24, 1, 192)
    for frame in range(24):
        interleaved[frame, 0, (3 * frame) % 8 :: 8] = 1
    assert peak(interleaved) > 0.9
    for seed in range(4):
        assert peak(kt_variable_density((24, 1, 192), 8, 0, seed)) < 0.4


def test_a_scan_without_frames_has_no_lines_that_change_with_them():
    with pytest.raises(ValueError, match=r"\(t, y, x\)"):
        kt_variable_density((40, 48), 4, 4, seed=0)


@pytest.mark.parametrize(("n", "fraction", "last"), [(64, 0.75, 48), (65, 0.6, 39), (65, 1, 65)])
def test_partial_fourier_leaves_out_the_end_of_the_axis(n, fraction, last):
    mask = partial_fourier((7, n, 5), fraction, axis=1)
    assert mask.shape == (1, n, 1)
    assert mask.dtype == torch.float32
    assert mask.flatten().tolist() == [1.0] * last + [0.0] * (n - last)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("fraction", [0.625, 0.8])
def test_partial_fourier_moves_samples_but_keeps_their_number(name, fraction):
    shape = space(name, 48, 96)
    mask = draw_mask(name, shape, 4, 8, seed=1, partial_fourier=fraction)
    last = round(fraction * 96)
    assert not mask[..., last:].any()
    assert mask[..., last - 12 : last].any()
    assert mask.expand(shape)[..., 24 - 4 : 24 + 4, 48 - 4 : 48 + 4].all()
    tolerance = {"equispaced_columns": 0.2, "poisson_disc": 0.1}.get(name, 0.0)
    assert acceleration(mask) == pytest.approx(4, abs=tolerance + 1e-6)


def test_partial_fourier_that_cannot_be_is_refused_with_the_reason():
    for fraction in (0.5, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"above 0\.5"):
            partial_fourier((40, 40), fraction)
    with pytest.raises(ValueError, match=r"central of the 10 lines"):
        partial_fourier((40, 10), 0.52)
    with pytest.raises(ValueError, match="the first 24 of 40 lines"):
        draw_mask("random_columns", (40, 40), 1.25, 4, 0, partial_fourier=0.6)
    with pytest.raises(ValueError, match="calibration up to line 26"):
        draw_mask("equispaced_columns", (40, 40), 2, 12, 0, partial_fourier=0.6)


@pytest.mark.parametrize("name", MASKS)
def test_draw_mask_draws_what_the_kind_of_this_name_draws(name):
    shape = space(name, 40, 48)
    assert torch.equal(draw_mask(name, shape, 3, 6, 5), MASKS[name](shape, 3, 6, 5))


def test_draw_mask_says_which_option_does_not_fit_which_kind():
    with pytest.raises(ValueError, match=r"one of random_columns, .*, got 'spiral'"):
        draw_mask("spiral", (40, 40), 3, 6, 5)
    for name in ("random_columns", "equispaced_columns", "kt_variable_density"):
        with pytest.raises(ValueError, match=f"{name} samples whole lines.*uniform_random"):
            draw_mask(name, (5, 40, 40), 3, 6, 5, shutter=True)


def test_axes_outside_space_are_refused():
    with pytest.raises(ValueError, match="one of space"):
        random_columns((40, 40), 2, 4, seed=0, axis=2)
    with pytest.raises(ValueError, match="one of space"):
        partial_fourier((40, 40), 0.7, axis=-3)
