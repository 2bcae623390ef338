import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from physics.heart_anatomy import HEART_INDEX, HEART_TISSUES, ChestPlacement, chest_fractions
from physics.heart_cycle import Ventricles
from physics.heart_motion import BeatingHeart

PHASES = torch.linspace(0, 1, 201).tolist()
STEP = 0.25  # of the grids on which areas are counted [mm]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def draw(seed):
    return Ventricles.draw(
        50 + 40 * torch.rand((), generator=generator(seed)).item(), generator(seed)
    )


@pytest.fixture(scope="module")
def ventricles():
    return draw(0)


@pytest.fixture(scope="module")
def plane():
    line = torch.arange(-50, 50, STEP)
    return line[:, None], line


def counted(inside):
    return inside.sum().item() * STEP**2


def place(turn=60.0, heart_turn=160.0):
    turn, heart_turn = math.radians(turn), math.radians(heart_turn)
    return ChestPlacement((5.0, -3.0), turn, (1.0, 1.05), (-30.0, -10.0), heart_turn)


def axes(rows=120, columns=100, spacing=3.0):
    y, x = ((torch.arange(n) - n // 2) * spacing for n in (rows, columns))
    return torch.zeros(1), y, x


def beating(ventricles, step=2):
    return BeatingHeart(ventricles, place(), axes(), step, generator(5))


def test_tissue_names_are_unique_and_the_first_is_air_without_protons():
    assert len(HEART_INDEX) == len(HEART_TISSUES)
    assert HEART_TISSUES[0].name == "air"
    assert [tissue.name for tissue in HEART_TISSUES if tissue.proton_density == 0] == ["air"]
    assert all(tissue.t2 < tissue.t1 for tissue in HEART_TISSUES)


def test_filling_goes_from_one_to_nothing_at_systole_and_back_without_jumps(ventricles):
    filling = np.array([ventricles.filling(phase) for phase in PHASES])
    assert filling.max() == filling[0] == filling[-1] == 1
    assert filling.min() == pytest.approx(0, abs=1e-12)
    assert ventricles.filling(ventricles.systole) == pytest.approx(0)
    assert np.abs(np.diff(filling)).max() < 0.03
    # Nor are there corners: the speed changes little from step to step.
    assert np.abs(np.diff(filling, 2, prepend=filling[-2])).max() < 0.003
    assert ventricles.filling(1.3) == pytest.approx(ventricles.filling(0.3))


@pytest.mark.parametrize("seed", range(5))
def test_a_beat_has_its_phases_in_order(seed):
    heart = draw(seed)
    assert 0.35 <= heart.systole <= 0.4
    filling = [heart.filling(phase) for phase in (0.04, 0.2, *(heart.systole + s for s in (0.05,)))]
    assert filling[0] == pytest.approx(1)  # isovolumic contraction
    assert 0.2 < filling[1] < 0.8  # ejection
    assert filling[2] == pytest.approx(0, abs=1e-6)  # isovolumic relaxation
    rapid, diastasis = (heart.systole + 0.27, 0.86)
    assert 0.7 < heart.filling(rapid) <= heart.filling(diastasis) < 0.8
    assert heart.filling(0.93) > 0.85  # the atrial kick


def test_systole_takes_a_larger_share_of_a_shorter_cycle():
    slow, fast = (Ventricles.draw(rate, generator(1)) for rate in (50.0, 90.0))
    assert (slow.systole, fast.systole) == pytest.approx((0.35, 0.40))


@pytest.mark.parametrize("seed", range(4))
def test_area_times_length_ejects_the_fraction_that_the_heart_has(seed, plane):
    ripples = torch.tensor([[0.1, 0.08], [1.0, 2.0]])  # far stronger than any heart's
    heart, volumes = replace(draw(seed), inner=ripples), []
    for phase in (0.0, heart.systole):
        now = heart.at(phase)
        blood = heart.left_depth(now, *plane)[0] > 0
        for u, v, radius in now.papillaries:
            blood &= torch.hypot(plane[0] - u, plane[1] - v) > radius
        assert counted(blood) == pytest.approx(heart.blood_area(phase), rel=0.004)
        volumes.append(counted(blood) * heart.length(phase))
    assert 1 - volumes[1] / volumes[0] == pytest.approx(heart.ejection_fraction, abs=0.005)


@pytest.mark.parametrize("seed", range(4))
def test_the_left_muscle_keeps_its_volume_at_all_times(seed, plane):
    heart, volumes = draw(seed), []
    for phase in PHASES[:-1:20]:
        now = heart.at(phase)
        inner, outer = heart.left_depth(now, *plane)
        muscle = (outer > 0) & (inner < 0)
        for u, v, radius in now.papillaries:
            muscle |= torch.hypot(plane[0] - u, plane[1] - v) < radius
        volumes.append(counted(muscle) * heart.length(phase))
    np.testing.assert_allclose(volumes, volumes[0], rtol=0.01)


def test_papillary_muscles_stay_apart_and_inside_the_cavity():
    for seed, phase in itertools.product(range(60), (0.0, 0.2, 0.38)):
        heart = draw(seed)
        now = heart.at(phase)
        for u, v, radius in now.papillaries:
            inside = heart.left_depth(now, torch.tensor(u), torch.tensor(v))[0]
            assert inside > radius - 1e-3
        for (u, v, radius), (w, z, other) in itertools.combinations(now.papillaries, 2):
            assert math.hypot(u - w, v - z) > radius + other


def test_walls_of_all_hearts_thicken_by_a_fifth_to_three_fifths():
    for seed in range(100):
        heart = draw(seed)
        systole = heart.at(heart.systole)
        assert 1.2 < (systole.epicardium - systole.cavity) / heart.wall < 1.6
        assert 0.5 < heart.ejection_fraction < 0.7


def test_the_inner_wall_and_its_papillary_muscles_twist_alike(ventricles):
    first, last = ventricles.at(0), ventricles.at(ventricles.systole)
    assert math.radians(3) <= last.twist <= math.radians(9)
    assert first.twist == 0
    for (u, v, _), (w, z, _) in zip(first.papillaries, last.papillaries, strict=True):
        turned = (math.atan2(z, w) - math.atan2(v, u)) % (2 * math.pi)
        assert turned == pytest.approx(last.twist, abs=1e-6)
    angle = torch.linspace(0, 6, 50)
    depths = [
        ventricles.left_depth(
            now, now.cavity * (angle + now.twist).cos(), now.cavity * (angle + now.twist).sin()
        )[0]
        / now.cavity
        for now in (first, last)
    ]
    torch.testing.assert_close(depths[0], depths[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("phase", [0.0, 0.37])
def test_the_outline_holds_all_of_the_heart_and_little_more(seed, phase):
    heart = draw(seed)
    now = heart.at(phase)
    u, v = torch.meshgrid([torch.arange(-90.0, 90.0)] * 2, indexing="ij")
    inside = (heart.left_depth(now, u, v)[1] > 0) | (heart.right_depth(now, u, v)[1] > 0)
    outline = heart.outline(now).numpy()
    assert outline[0] == pytest.approx(outline[-1], abs=1e-3)
    share = torch.atan2(v, u - heart.middle).numpy() % (2 * math.pi)
    radius = torch.hypot(u - heart.middle, v).numpy()
    around = radius < np.interp(share, np.linspace(0, 2 * math.pi, len(outline)), outline)
    assert (inside.numpy() & ~around).sum() < 0.005 * inside.sum()
    assert around.sum() < 1.08 * inside.sum()


def test_the_right_ventricle_wraps_the_left_one_as_a_crescent(ventricles, plane):
    now = ventricles.at(0)
    u, v = torch.broadcast_tensors(*plane)
    right = (ventricles.right_depth(now, *plane)[0] > 0) & (
        ventricles.left_depth(now, *plane)[1] < 0
    )
    assert counted(right) > 600
    assert u[right].mean() > 0.85 * now.epicardium
    assert v[right].abs().max() > 0.8 * now.epicardium


@pytest.mark.parametrize("turn", [0.0, 60.0])
def test_fractions_of_the_chest_sum_to_one_and_are_none_negative(turn):
    fractions = chest_fractions(axes(), generator(2), place(turn))
    assert fractions.shape == (len(HEART_TISSUES), 120, 100)
    assert fractions.min() > -1e-6
    torch.testing.assert_close(fractions.sum(0), torch.ones(120, 100))


def test_the_body_turns_counter_clockwise_on_a_screen():
    """From lying on its back, as axial slices are shown: spine below, patient's left at right."""
    fractions = chest_fractions(axes(), generator(2), place(60.0))
    _, y, x = axes()
    spot = {}
    for name in ("csf", "spleen", "liver"):
        weight = fractions[HEART_INDEX[name]]
        weight = weight / weight.sum()
        spot[name] = (weight.sum(1) @ y).item() - 5.0, (weight.sum(0) @ x).item() + 3.0
    sine = math.sin(math.radians(60))
    assert spot["csf"] == pytest.approx((77 * 0.5, 77 * sine), abs=6)
    assert spot["spleen"][0] < spot["csf"][0]  # towards the patient's left, which is up
    assert spot["liver"][0] > 20
    assert spot["liver"][1] < 0


def test_frames_of_body_and_heart_keep_their_handedness_and_scale():
    placement = place()
    y, x = torch.tensor([-30.0, -20.0]), torch.tensor([-10.0, 15.0])
    u, v = placement.heart_frame(y, x)
    assert (u[0], v[0]) == (0, 0)
    assert math.hypot(u[1], v[1]) == pytest.approx(math.hypot(10, 25))
    assert placement.from_heart_frame(u[1].item(), v[1].item()) == pytest.approx((-20, 15))
    towards = placement.from_heart_frame(1.0, 0.0)
    angle = math.degrees(math.atan2(towards[0] + 30, towards[1] + 10))
    assert angle == pytest.approx(160)


def test_nothing_has_moved_at_end_diastole_and_nothing_moves_at_the_windows_edge(ventricles):
    heart = beating(ventricles)
    _, y, x = axes()
    rows, columns = heart.window
    still = (
        torch.stack(
            torch.broadcast_tensors(2 * columns_of(x)[columns], 2 * columns_of(y)[rows, None]), -1
        )
        - 1
    )
    torch.testing.assert_close(heart.origins(ventricles.at(0))[0], still, rtol=0, atol=1e-5)
    moved = heart.origins(ventricles.at(ventricles.systole))[0] - still
    assert moved.abs().max() > 0.02
    for edge in (moved[0], moved[-1], moved[:, 0], moved[:, -1]):
        assert edge.abs().max() < 1e-3


def columns_of(axis):
    """Places along an axis, from 0 to 1."""
    return (axis - axis[0]) / (axis[-1] - axis[0])


def test_tissue_next_to_the_heart_keeps_its_order(ventricles):
    """Origins grow along a row and down a column: nothing folds over."""
    for phase in (0.2, ventricles.systole):
        origins = beating(ventricles).origins(ventricles.at(phase))[0]
        assert origins[..., 0].diff(dim=1).min() > 0
        assert origins[..., 1].diff(dim=0).min() > 0


@pytest.mark.parametrize(("step", "rows"), [(2, 120), (2, 122), (3, 120)])
def test_the_window_starts_on_the_coarser_grid(ventricles, step, rows):
    grid = axes(rows)
    heart = BeatingHeart(ventricles, place(), grid, step, generator(5))
    for part, axis in zip(heart.window, grid[1:], strict=True):
        assert (part.start - len(axis) // 2) % step == 0


def test_fractions_of_the_heart_sum_to_one_and_leave_the_rest_to_the_chest(ventricles):
    heart = beating(ventricles)
    now = ventricles.at(0.2)
    shape = heart.origins(now).shape[1:3]
    fractions = heart.fractions(now, torch.zeros(shape))
    torch.testing.assert_close(fractions.sum(0), torch.ones(shape))
    painted = {name for name, i in HEART_INDEX.items() if fractions[i].max() > 0.5}
    assert painted == {"air", "myocardium", "left ventricle", "right ventricle", "fat"}
    muscle = heart.fractions(now, torch.full(shape, 3.0))[HEART_INDEX["myocardium"]]
    assert muscle.sum() > 1.2 * fractions[HEART_INDEX["myocardium"]].sum()  # trabeculae
