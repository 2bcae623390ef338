import math

import pytest
import torch

from physics.knee_anatomy import KNEE_TISSUES, TISSUE_INDEX, knee_fractions
from physics.knee_bones import blend, profiles, section
from physics.knee_frame import KneeGrid, KneePlacement

STEP = 1.0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def line(low, high, step=STEP):
    return torch.arange(low, high + step / 2, step)


def volume_axes():
    return line(-62, 62, 2.0), line(-70, 70), line(-75, 65)


@pytest.fixture(scope="module")
def fractions():
    return knee_fractions(volume_axes(), seeded())


def where(fractions, *names):
    """Where one of these tissues prevails."""
    labels = fractions.argmax(0)
    return sum((labels == TISSUE_INDEX[name] for name in names), torch.zeros_like(labels)) > 0


def columns(labels, position):
    """Tissue names from head to foot at this index of (z, x)."""
    return [KNEE_TISSUES[label].name for label in labels[position[0], :, position[1]].tolist()]


def runs(names):
    """Consecutive equal names as (name, first, length)."""
    found = []
    for index, name in enumerate(names):
        if found and found[-1][0] == name:
            found[-1][2] += 1
        else:
            found.append([name, index, 1])
    return found


def test_fractions_lie_between_0_and_1_and_sum_to_1(fractions):
    assert fractions.shape == (len(KNEE_TISSUES), 63, 141, 141)
    assert fractions.dtype == torch.float32
    assert fractions.min() >= -1e-6
    torch.testing.assert_close(fractions.sum(0), torch.ones(63, 141, 141))


def test_every_tissue_prevails_somewhere_in_a_volume(fractions):
    assert set(fractions.argmax(0).unique().tolist()) == set(range(len(KNEE_TISSUES)))


def test_a_plane_of_a_volume_equals_the_plane_evaluated_alone(fractions):
    z, y, x = volume_axes()
    for index in (10, 31, 42):
        alone = knee_fractions((z[index : index + 1], y, x), seeded())
        torch.testing.assert_close(alone[:, 0], fractions[:, index], atol=1e-3, rtol=0)


def test_a_part_of_a_plane_equals_the_part_evaluated_alone(fractions):
    z, y, x = volume_axes()
    alone = knee_fractions((z[31:32], y[40:100], x[20:90]), seeded())
    whole = fractions[:, 31:32, 40:100, 20:90]
    torch.testing.assert_close(alone, whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_a_leg_from_head_to_foot_is_femur_cartilage_tibia(seed):
    """Through the middle of either compartment, where the thigh bears on the leg."""
    z, x = torch.tensor([-20.0, 20.0]), torch.tensor([-1.0, 0.0, 1.0])
    labels = knee_fractions((z, line(-40, 30, 0.1), x), seeded(seed)).argmax(0)
    for side in (0, 1):
        order = [name for name, _, length in runs(columns(labels, (side, 1))) if length > 3]
        order = [name for name in order if name != "fluid"]
        joint = order.index("cartilage")
        assert order[joint - 2 : joint] == ["marrow", "bone"]
        last = len(order) - order[::-1].index("cartilage")
        assert order[last : last + 2] == ["bone", "marrow"]
        assert set(order[joint:last]) <= {"cartilage", "meniscus"}


@pytest.mark.parametrize("seed", range(4))
def test_cartilage_between_femur_and_tibia_is_as_thick_as_two_layers(seed):
    z, x = torch.tensor([-20.0, 20.0]), torch.tensor([-2.0, 0.0, 2.0])
    labels = knee_fractions((z, line(-40, 30, 0.1), x), seeded(seed)).argmax(0)
    for side in (0, 1):
        for column in range(3):
            names = columns(labels, (side, column))
            assert 3.0 < 0.1 * names.count("cartilage") < 8.0


@pytest.mark.parametrize("seed", range(4))
def test_cartilage_behind_the_patella_and_on_the_trochlea_is_3_to_10_mm_thick_in_all(seed):
    z, y, x = torch.tensor([6.0]), line(-38, -32), line(-70, 0, 0.1)
    labels = knee_fractions((z, y, x), seeded(seed)).argmax(0)
    names = [KNEE_TISSUES[label].name for label in labels[0, 3].tolist()]
    layers = [0.1 * length for name, _, length in runs(names) if name == "cartilage"]
    patella = names.index("marrow")
    assert "tendon" not in names[patella : names.index("cartilage")]
    assert 3.0 < sum(layers) < 10.0
    assert names[-1] == "marrow"  # the femur


@pytest.mark.parametrize("seed", range(4))
def test_cartilage_lies_between_bone_and_the_joint(seed):
    """Below the cartilage of the femur there is joint, above it bone; and so for the tibia."""
    fractions = knee_fractions(
        (torch.tensor([-20.0]), line(-40, 30, 0.5), line(-8, 8)), seeded(seed)
    )
    solid = where(fractions, "bone", "marrow")[0]
    covered = where(fractions, "cartilage")[0]
    assert covered.any(0).all()
    first = covered.float().argmax(0)
    last = len(covered) - 1 - covered.flip(0).float().argmax(0)
    for column in range(covered.shape[1]):
        assert solid[: first[column] - 1, column].float().mean() > 0.95
        assert solid[last[column] + 2 :, column].float().mean() > 0.95


def test_menisci_are_wedges_between_femur_and_tibia(fractions):
    z, y, x = volume_axes()
    menisci = where(fractions, "meniscus")
    place = menisci.nonzero()
    heights = y[place[:, 1]]
    assert -14 < heights.min() < heights.max() < 5
    assert z[place[:, 0]].min() < -20
    assert z[place[:, 0]].max() > 20
    for side in (-20.0, 20.0):  # in front and behind, with a gap in the middle
        plane = menisci[int((side - z[0]) / 2)]
        columns_with = x[plane.any(0)]
        assert columns_with.min() < -10
        assert columns_with.max() > 10
        assert not plane[:, (x.abs() < 3)].any()
    # Thicker at the rim than at the inner edge.
    posterior = menisci[int((20 - z[0]) / 2)].sum(0)[x > 5]
    thick = posterior[posterior > 0]
    assert thick[0] < thick.max()


def test_the_femur_is_above_the_tibia_and_the_patella_in_front(fractions):
    _, y, x = volume_axes()
    marrow = where(fractions, "marrow")[31]  # the middle plane
    assert marrow[y < -45][:, (x > -28) & (x < 0)].float().mean() > 0.6
    assert marrow[y > 25][:, (x > -15) & (x < 5)].float().mean() > 0.9
    front = marrow[:, x < -38]
    assert front.sum() > 300  # mm2
    rows = y[front.any(1)]
    assert rows.max() < 0
    assert rows.min() < -45


def test_the_patellar_tendon_joins_patella_and_tibia(fractions):
    _, y, x = volume_axes()
    tendon = where(fractions, "tendon")[31]
    for height in range(-8, 28, 4):
        row = tendon[int(height - y[0])]
        assert row[(x > -62) & (x < -28)].any(), height


def test_cruciate_ligaments_cross_in_the_notch(fractions):
    z, y, x = volume_axes()
    notch = (y > -28) & (y < 5)
    tendon = where(fractions, "tendon")[:, notch]
    inside = tendon[:, :, (x > -12) & (x < 30)]
    assert inside[int((4 - z[0]) / 2)].sum() > 20  # the anterior one, lateral
    assert inside[int((-4 - z[0]) / 2)].sum() > 20  # the posterior one, medial


def test_muscles_lie_behind_and_in_front_above_and_fat_below_the_skin(fractions):
    _, y, x = volume_axes()
    muscle = where(fractions, "muscle")
    assert muscle[:, y > 20][:, :, x > 20].float().mean() > 0.15
    assert muscle[:, y < -55][:, :, x < -20].float().mean() > 0.1
    for row in fractions[:, 31].argmax(0)[::20]:
        names = [KNEE_TISSUES[label].name for label in row.tolist() if label]
        order = list(dict.fromkeys(names))
        assert order[0] == "skin"
        assert order[1] in ("fat", "tendon")


def test_the_fibula_is_lateral_on_either_side():
    z = line(-45, 45)
    for left, sign in ((True, 1), (False, -1)):
        placement = KneePlacement(left=left)
        axes = z, torch.tensor([30.0, 31.0]), line(5, 35)
        fractions = knee_fractions(axes, seeded(), placement)
        bony = where(fractions, "marrow")[:, 0].any(1)
        outermost = z[bony][(z[bony] * sign).argmax()]
        assert 30 < outermost * sign < 43


@pytest.mark.parametrize("seed", range(3))
def test_a_knee_has_the_sizes_of_an_adult(seed):
    axes = line(-50, 50), torch.tensor([5.0, 6.0]), line(-40, 40)
    tibia = where(knee_fractions(axes, seeded(seed)), "bone", "marrow")[:, 0]
    width = tibia.any(1).sum().item()
    depth = tibia[25:76].any(0).sum().item()
    assert 68 < width < 84  # mm
    assert 44 < depth < 60


def test_the_knee_moves_with_its_placement():
    z, y, x = torch.zeros(1), line(-60, 60), line(-90, 90)
    moved = knee_fractions((z, y, x), seeded(), KneePlacement(centre=(0.0, 10.0, -8.0)))
    still = knee_fractions((z, y - 10, x + 8), seeded())
    # The random fields stay where they are, so only the large shapes agree.
    same = where(moved, "marrow") == where(still, "marrow")
    assert same.float().mean() > 0.95
    assert (moved - knee_fractions((z, y, x), seeded())).abs().mean() > 0.02


def test_thicker_fat_and_larger_scale_make_a_larger_leg():
    axes = line(-90, 90, 2.0), torch.tensor([0.0, 1.0]), line(-90, 90, 2.0)

    def area(placement):
        return (1 - knee_fractions(axes, seeded(), placement)[0, :, 0]).sum().item() * 4

    normal = area(KneePlacement())
    assert 8000 < normal < 13000  # mm2
    assert area(KneePlacement(fat=14.0)) > 1.1 * normal
    scaled = area(KneePlacement(scale=(1.1, 1.0, 1.1)))
    assert scaled == pytest.approx(1.21 * normal, rel=0.03)


def test_flexion_brings_the_thigh_back():
    axes = torch.zeros(1), torch.tensor([-85.0, -84.0]), line(-60, 60, 0.5)

    def middle(flexion):
        placement = KneePlacement(flexion=flexion)
        shaft = where(knee_fractions(axes, seeded(), placement), "marrow")[0, 0]
        return axes[2][shaft].mean().item()

    assert middle(0.1) - middle(0.0) == pytest.approx(0.1 * 61, abs=1.0)


def test_the_same_seed_gives_the_same_knee_and_another_seed_another(fractions):
    z, y, x = volume_axes()
    plane = (z[31:32], y, x)
    first, second, other = (knee_fractions(plane, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert (first - other).abs().mean() > 0.01


def test_a_turn_takes_the_scanner_axes_to_the_knee_axes():
    axes = torch.tensor([0.0]), torch.tensor([-40.0, 0.0, 40.0]), torch.tensor([-40.0, 0.0, 40.0])
    placement = KneePlacement(turn=(math.pi / 6, 0.0, 0.0))
    turned = KneeGrid(axes, placement, seeded()).grid
    straight = KneeGrid(axes, KneePlacement(), seeded()).grid
    y, x = axes[1][:, None], axes[2]
    cosine, sine = math.cos(math.pi / 6), math.sin(math.pi / 6)
    torch.testing.assert_close(turned[1] - straight[1], (cosine * y + sine * x - y)[None])
    torch.testing.assert_close(turned[2] - straight[2], (cosine * x - sine * y - x)[None])


def test_windows_hold_every_point_of_their_box():
    axes = line(-60, 60, 3.0), line(-70, 70, 3.0), line(-70, 70, 3.0)
    placement = KneePlacement(
        (3.0, -5.0, 8.0), (0.1, -0.08, 0.06), (1.1, 0.9, 1.0), 0.2, 7.0, False
    )
    knee = KneeGrid(axes, placement, seeded(2))
    lower, upper = (-44.0, -68.0, -20.0), (10.0, -40.0, 0.0)
    inside = torch.ones(knee.grid[0].shape, dtype=torch.bool)
    for coordinate, low, high in zip(knee.grid, lower, upper, strict=True):
        inside &= (coordinate > low) & (coordinate < high)
    window = knee.window(lower, upper)
    assert inside[window].sum() == inside.sum() > 0
    assert inside[window].numel() < 0.5 * inside.numel()


def test_a_section_without_corner_is_a_circle_or_an_ellipse():
    across, along = line(-30, 30)[:, None], line(-30, 30)
    ten = torch.tensor(10.0)
    circle = section(across, along, (ten, ten))
    exact = 10 - torch.hypot(across, along)
    outside = exact < 9
    torch.testing.assert_close(circle[outside], exact[outside], atol=1e-3, rtol=0)
    level = (across / 20).square() + (along / 10).square()
    clear = (level - 1).abs() > 1e-3
    inside = section(across, along, (2 * ten, ten)) > 0
    assert torch.equal(inside[clear], (level < 1)[clear])


def test_a_section_with_corners_lies_between_an_ellipse_and_its_rectangle():
    across, along = line(-90, 90)[:, None], line(-90, 90)
    radii = torch.tensor(20.0), torch.tensor(10.0)
    inside = section(across, along, radii, 0.35) > 0
    ellipse = (across / 20).square() + (along / 10).square() < 0.999
    rectangle = (across.abs() <= 20) & (along.abs() <= 10)
    assert (inside | ~ellipse).all()
    assert (rectangle | ~inside).all()
    assert inside.sum() > 1.05 * ellipse.sum()


def test_a_blend_is_a_union_that_fills_only_where_the_bodies_meet():
    first, second = torch.tensor([5.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 4.0])
    torch.testing.assert_close(blend(first, second, 2.0), torch.tensor([5.0, 0.5, 4.0]))


def test_profiles_pass_through_straight_lines_and_stay_constant_beyond():
    heights = torch.tensor([-200.0, -50.0, 25.0, 60.0, 200.0])
    rising, flat = profiles(heights, ((-100.0, 0.0, 3.0), (100.0, 20.0, 3.0)))
    expected = torch.tensor([0.0, 5.0, 12.5, 16.0, 20.0])
    torch.testing.assert_close(rising, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(flat, torch.full((5,), 3.0))


def test_a_grid_without_a_spacing_is_refused():
    with pytest.raises(ValueError, match="at least 2 points"):
        knee_fractions((torch.zeros(1), line(-5, 5), torch.zeros(1)), seeded())
