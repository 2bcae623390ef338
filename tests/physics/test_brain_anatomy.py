import math

import pytest
import torch

from physics.acquisition import prevailing
from physics.brain_anatomy import TISSUE_INDEX, Placement
from physics.brain_head import Head
from physics.sequences import BRAIN_TISSUES
from physics.shapes import Canvas, ellipsoid, tube
from physics.texture import Sheets, Waves, random_waves


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plane(height=10.0, points=120, spacing=2.0):
    across = (torch.arange(points) - points // 2) * spacing
    return torch.tensor([height]), across, across


@pytest.fixture(scope="module")
def fractions():
    return Head(seeded()).fractions(plane())


def share(fractions, name):
    return fractions[TISSUE_INDEX[name], 0]


def test_fractions_lie_between_0_and_1_and_sum_to_1(fractions):
    assert fractions.shape == (len(BRAIN_TISSUES), 1, 120, 120)
    assert fractions.min() >= -1e-6
    torch.testing.assert_close(fractions.sum(0), torch.ones(1, 120, 120))


def test_a_plane_of_a_volume_equals_the_slice_at_its_height(fractions):
    _, y, x = plane()
    volume = Head(seeded()).fractions((torch.tensor([-20.0, 10.0, 40.0]), y, x))
    torch.testing.assert_close(volume[:, 1:2], fractions, atol=1e-4, rtol=0)


def test_a_part_of_a_plane_shows_the_same_head(fractions):
    z, y, x = plane()
    part = Head(seeded()).fractions((z, y[20:90], x[50:]))
    torch.testing.assert_close(part, fractions[:, :, 20:90, 50:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("height", [-100.0, -50.0, -20.0, 20.0, 70.0])
def test_the_painted_rectangle_holds_the_whole_head(height):
    for seed in range(3):
        tile = Head(seeded(seed)).paint(plane(height))
        air = tile.canvas.fractions[0]
        assert min(air[0].min(), air[-1].min(), air[:, 0].min(), air[:, -1].min()) == 1
        assert air.min() == 0
        assert tile.rows.start % 2 == tile.columns.start % 2 == 0


def test_a_plane_beyond_the_head_is_air():
    fractions = Head(seeded()).fractions(plane(height=300.0))
    assert (fractions[0] == 1).all()
    assert (fractions[1:] == 0).all()


def test_a_head_that_leaves_the_field_of_view_is_cut_and_not_moved(fractions):
    z, y, x = plane()
    cut = Head(seeded()).fractions((z, y[:61], x[33:90]))
    torch.testing.assert_close(cut, fractions[:, :, :61, 33:90], atol=1e-3, rtol=0)
    assert (cut[0, 0, -1] < 0.5).any()


def test_thick_slices_blur_folds_that_slant_and_nothing_else(fractions):
    thick = Head(seeded(), thickness=8.0).fractions(plane())
    changed = (thick - fractions).abs().amax(0) > 0.05
    brain = fractions[[TISSUE_INDEX[name] for name in ("csf", "gray", "white")]].sum(0) > 0.01
    assert changed.sum() > 300
    assert (changed & ~brain).sum() == 0


def test_the_rotation_of_a_placement_takes_scanner_axes_to_those_of_the_head():
    rotation = Placement(angle=0.3, tilt=-0.2).rotation().double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), atol=1e-6, rtol=0)
    turned = Placement(angle=math.pi / 2).rotation() @ torch.tensor([0.0, 0.0, -1.0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_coordinates_of_the_head_are_those_of_its_placement_but_for_a_slight_warp():
    placement = Placement((5.0, 20.0, -10.0), 0.3, -0.2, (1.1, 0.9, 1.0))
    axes = plane()
    grid = torch.stack(Head(seeded(), placement).coordinates(axes)).flatten(1)
    points = torch.stack([p.flatten() for p in torch.meshgrid(*axes, indexing="ij")])
    offset = points - torch.tensor(placement.centre)[:, None]
    expected = placement.rotation() @ offset / torch.tensor(placement.scale)[:, None]
    assert (grid - expected).abs().max() < 8
    assert (grid - expected).std() > 0.5


def test_the_head_moves_with_its_placement(fractions):
    moved = Head(seeded(), Placement(centre=(0.0, 20.0, -10.0))).fractions(plane())
    inside = 1 - moved[0, 0]
    axis = plane()[1]
    still = 1 - share(fractions, "air")
    for weights, shift in ((axis[:, None], 20.0), (axis, -10.0)):
        centre = (weights * inside).sum() / inside.sum() - (weights * still).sum() / still.sum()
        assert centre.item() == pytest.approx(shift, abs=3)


def test_a_quarter_turn_swaps_the_length_and_the_width_of_the_head(fractions):
    turned = Head(seeded(), Placement(angle=math.pi / 2)).fractions(plane())

    def extents(head):
        inside = head[0, 0] < 0.5
        return inside.any(1).sum().item(), inside.any(0).sum().item()

    length, width = extents(fractions)
    assert length > 1.1 * width
    assert extents(turned) == pytest.approx((width, length), abs=4)


@pytest.mark.parametrize("seed", range(3))
def test_a_head_has_the_sizes_of_an_adult(seed):
    fractions = Head(seeded(seed)).fractions(plane())
    area = {tissue: share(fractions, tissue).sum().item() * 4 / 100 for tissue in TISSUE_INDEX}
    brain = area["gray"] + area["white"] + area["deep gray"]  # cm2
    assert 110 < brain < 185
    assert 0.4 < area["gray"] / area["white"] < 2.0
    assert 4 < area["csf"] < 50
    assert 3 < area["deep gray"] < 20
    for tissue in ("bone", "marrow", "fat", "connective"):
        assert area[tissue] > 3


def test_layers_come_in_the_order_of_anatomy_from_outside_to_the_brain(fractions):
    labels = prevailing(fractions)[0]
    column = [BRAIN_TISSUES[label].name for label in labels[:, 75].tolist()]
    first = {name: column.index(name) for name in ("air", "fat", "bone", "gray", "white")}
    assert list(first) == sorted(first, key=lambda name: first[name])


def test_most_of_the_csf_borders_gray_matter_and_not_white(fractions):
    fine = Head(seeded()).fractions(plane(points=256, spacing=0.8))
    labels = prevailing(fine)[0].long()
    pairs = torch.stack((labels[:, :-1].flatten(), labels[:, 1:].flatten()))

    def borders(first, second):
        a, b = TISSUE_INDEX[first], TISSUE_INDEX[second]
        return (((pairs[0] == a) & (pairs[1] == b)) | ((pairs[0] == b) & (pairs[1] == a))).sum()

    assert borders("csf", "gray") > 3 * borders("csf", "white")
    assert borders("gray", "white") > 300


def test_the_same_seed_gives_the_same_head_and_another_seed_another(fractions):
    assert torch.equal(Head(seeded()).fractions(plane()), fractions)
    assert (Head(seeded(1)).fractions(plane()) - fractions).abs().mean() > 0.01


def test_below_the_brain_come_face_and_neck_with_two_eyes_and_a_cord():
    def areas(height):
        labels = prevailing(Head(seeded()).fractions(plane(height)))[0]
        return {name: (labels == TISSUE_INDEX[name]) for name in TISSUE_INDEX}

    neck = areas(-110.0)
    assert neck["gray"].sum() == neck["deep gray"].sum() == 0
    assert 30 < neck["white"].sum() * 4 < 200  # mm2 of spinal cord
    assert neck["muscle"].sum() + neck["fat"].sum() > 0.6 * (~neck["air"]).sum()
    eyes = areas(-52.0)["csf"][:40]  # in front
    for side in (eyes[:, :60], eyes[:, 60:]):
        assert 200 < side.sum() * 4 < 600  # mm2


def test_the_brain_ends_at_the_base_of_the_skull():
    y = torch.arange(-120.0, 120.0, 4.0)
    z = torch.arange(-130.0, -60.0, 10.0)
    fractions = Head(seeded()).fractions((z, y, y))
    gray = fractions[TISSUE_INDEX["gray"]].sum((1, 2))
    assert gray[z < -85].max() < 1 < gray[-1]


def test_a_grid_without_a_spacing_is_refused():
    z, y, _ = plane()
    with pytest.raises(ValueError, match="at least 2 points"):
        Head(seeded()).fractions((z, y, torch.zeros(1)))


def test_the_distance_into_a_sphere_is_exact_near_its_surface():
    x = torch.linspace(8.0, 12.0, 9)
    distance = ellipsoid((torch.zeros(1), torch.zeros(1), x), (0.0, 0.0, 0.0), (10.0, 10.0, 10.0))
    torch.testing.assert_close(distance, 10 - x)


def test_the_distance_into_a_tube_follows_its_line_and_its_radius():
    grid = (torch.zeros(3), torch.tensor([0.0, 5.0, 14.0]), torch.tensor([0.0, 3.0, 0.0]))
    distance = tube(grid, ((0.0, 0.0, 0.0), (0.0, 10.0, 0.0)), (2.0, 4.0))
    torch.testing.assert_close(distance, torch.tensor([2.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="at least two points, got 1"):
        tube(grid, ((0.0, 0.0, 0.0),), (2.0,))


def test_what_is_painted_first_hides_what_is_painted_later():
    canvas = Canvas(3, (4,), softness=1.0)
    canvas.paint(1, torch.tensor([9.0, 0.25, -9.0, -9.0]))
    canvas.paint(2, torch.tensor([9.0, 9.0, 0.0, -9.0]))
    expected = torch.tensor([[0, 0, 0.5, 1], [1, 0.75, 0, 0], [0, 0.25, 0.5, 0]])
    torch.testing.assert_close(canvas.fractions, expected)


def test_random_waves_have_unit_variance_and_the_wavelengths_asked_for():
    x = torch.arange(-200.0, 200.0)
    field = random_waves((torch.zeros(1), x, x), 20.0, 40.0, seeded(), 400)[0]
    assert field.std().item() == pytest.approx(1, abs=0.1)
    power = torch.fft.fft2(field * torch.outer(torch.hann_window(400), torch.hann_window(400)))
    power = power.abs().square()
    frequency = torch.hypot(torch.fft.fftfreq(400)[:, None], torch.fft.fftfreq(400))
    assert power[frequency > 1 / 19].sum() < 1e-3 * power.sum()


def test_random_waves_do_not_depend_on_the_grid_they_are_seen_on():
    coarse, fine = torch.arange(-40.0, 40.0, 4.0), torch.arange(-40.0, 40.0, 2.0)
    z = torch.tensor([3.0])
    field = random_waves((z, fine, fine), 10.0, 50.0, seeded())[:, ::2, ::2]
    again = random_waves((z, coarse, coarse), 10.0, 50.0, seeded())
    torch.testing.assert_close(field, again, atol=1e-4, rtol=0)


def test_sheets_keep_their_spacing_and_their_distance_grows_as_one_walks_away():
    x = torch.arange(-100.0, 100.0, 0.5)
    distance, normal = Sheets.draw(10.0, seeded())((torch.zeros(1), x, x), torch.eye(3))
    assert distance.min() >= 0
    assert distance.max() <= 5.0 + 1e-4
    near = (distance < 2) & (distance > 0.5)
    slope = torch.stack(torch.gradient(distance[0], spacing=0.5))
    in_plane = normal[1:, 0].norm(dim=0)
    error = (slope.norm(dim=0) - in_plane)[near[0]].abs()
    assert error.median() < 0.1
    # parallel sheets 10 mm apart, seen by a line in a random direction: one per 20 mm on average
    crossings = (distance[0] < 0.5).float().mean().item()
    assert 0.05 < crossings < 0.2


def test_waves_are_the_sum_of_cosines_they_promise_and_slopes_their_derivatives():
    waves = Waves.draw(10.0, 50.0, seeded(), 16)
    axes = (
        torch.tensor([1.0, 4.0]),
        torch.arange(-30.0, 30.0, 7.0),
        torch.arange(-20.0, 20.0, 3.0),
    )
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).double()
    angle = points @ waves.vectors.double().T + waves.phases.double()
    expected = math.sqrt(2 / 16) * angle.cos().sum(-1)
    torch.testing.assert_close(waves(axes).double(), expected, atol=1e-4, rtol=0)
    directions = torch.linalg.qr(torch.randn(3, 3, generator=seeded())).Q
    field, slopes = waves.with_slopes(axes, directions)
    torch.testing.assert_close(field.double(), expected, atol=1e-4, rtol=0)
    along = (waves.vectors @ directions.T).double()
    expected = -math.sqrt(2 / 16) * torch.einsum("zyxn,nd->zdyx", angle.sin(), along)
    torch.testing.assert_close(slopes.double(), expected, atol=1e-4, rtol=0)


def test_a_window_of_a_canvas_shares_its_memory():
    canvas = Canvas(2, (3, 4), softness=1.0)
    canvas.window(slice(1, 2), slice(2, 4)).paint(1, torch.full((1, 2), 9.0))
    expected = torch.zeros(3, 4)
    expected[1, 2:] = 1
    assert torch.equal(canvas.fractions, torch.stack((1 - expected, expected)))
