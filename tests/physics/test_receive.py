import math

import pytest
import torch

from physics.receive import CoilArray, add_noise, coil_maps, noise_correlation


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def axes(points=40, spacing=6.0, planes=1):
    across = (torch.arange(points) - points // 2) * spacing
    return (torch.arange(planes) - planes // 2) * spacing, across, across


def peak_angles(array, seed=0):
    """Where on a circle inside the array each coil is strongest [degrees]."""
    grid = axes(81, 2.0)
    maps, _ = coil_maps(grid, array, seeded(seed))
    y, x = grid[1][:, None], grid[2]
    ring = (torch.hypot(y, x) - 70).abs() < 2
    strength = torch.where(ring, maps[:, 0].abs(), torch.zeros(()))
    best = strength.flatten(1).argmax(1)
    rows, columns = best // 81, best % 81
    return torch.atan2(grid[1][rows], grid[2][columns]).rad2deg() % 360


@pytest.mark.parametrize(("coils", "rings"), [(1, 1), (4, 1), (16, 2)])
def test_coil_maps_are_normalised_and_smooth(coils, rings):
    maps, shading = coil_maps(axes(), CoilArray(coils, rings), seeded())
    assert maps.shape == (coils, 1, 40, 40)
    assert maps.dtype == torch.complex64
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(1, 40, 40))
    assert shading.mean().item() == pytest.approx(1, abs=1e-4)
    assert (maps[:, 0, 8:32, 9:32] - maps[:, 0, 8:32, 8:31]).abs().max() < 0.5


def test_a_plane_of_a_volume_has_the_maps_of_the_plane_alone():
    array = CoilArray(6, 2)
    volume, shading = coil_maps(axes(planes=5), array, seeded())
    plane, alone = coil_maps(axes(), array, seeded())
    torch.testing.assert_close(volume[:, 2:3], plane)
    ratio = shading[2:3] / alone
    torch.testing.assert_close(ratio, ratio.mean().expand(1, 40, 40))


def test_the_field_on_the_axis_is_that_of_a_current_loop():
    # One coil of a ring in the y-x plane; along its axis, Biot-Savart: r^2 / (d^2 + r^2)^1.5.
    # Normalisation divides out of the ratio to the coil opposite.
    arcs = ((-80.0, 80.0), (100.0, 260.0))
    array = CoilArray(2, 1, (100.0, 100.0), 40.0, arcs=arcs, jitter=0.0)
    x = torch.linspace(-60.0, 60.0, 25)
    maps, _ = coil_maps((torch.zeros(1), torch.tensor([0.0, 1.0]), x), array, seeded())
    right, left = (1600 / ((100 - side * x) ** 2 + 1600) ** 1.5 for side in (1, -1))
    torch.testing.assert_close(maps[0, 0, 0].abs() / maps[1, 0, 0].abs(), right / left)


def test_a_regular_ring_is_rotationally_symmetric():
    maps, shading = coil_maps(axes(41), CoilArray(4, jitter=0.0), seeded())
    turned = torch.rot90(maps.abs(), 1, (2, 3))  # a quarter turn takes each coil to a neighbour
    errors = [min((turned[i] - maps[j].abs()).abs().max() for j in range(4)) for i in range(4)]
    assert max(errors) < 1e-4
    torch.testing.assert_close(torch.rot90(shading, 1, (1, 2)), shading)


def test_a_regular_ring_has_its_coils_at_equal_angles():
    angles = peak_angles(CoilArray(6, jitter=0.0)).sort().values
    gaps = torch.diff(angles, append=angles[:1] + 360)
    torch.testing.assert_close(gaps, torch.full((6,), 60.0), atol=4, rtol=0)


def test_coils_lie_on_the_arcs_asked_for():
    arcs = ((45.0, 135.0), (225.0, 315.0))
    angles = peak_angles(CoilArray(6, arcs=arcs, jitter=0.0, loop_radius=30.0))
    shares = [((angles > low - 8) & (angles < high + 8)).sum().item() for low, high in arcs]
    assert shares == [3, 3]


@pytest.mark.parametrize("turn", [40.0, -70.0])
def test_a_turned_array_is_the_array_seen_from_a_turned_head(turn, monkeypatch):
    """Its loops and their axes, against rotation matrices; y goes down on a screen."""
    placed = {}
    for degrees in (0.0, turn):
        seen = placed.setdefault(degrees, [])

        def record(axes, position, normal, radius, seen=seen):
            seen.append((position, normal))
            return torch.ones(1, 2, 2), torch.ones(1, 2, 2)

        monkeypatch.setattr("physics.receive._loop", record)
        coil_maps(axes(2), CoilArray(5, 1, (90.0, 140.0), turn=degrees), seeded())
    turning = torch.tensor(turn).deg2rad()
    cosine, sine = turning.cos().item(), turning.sin().item()
    # On a screen, up is -y: counter-clockwise takes +x towards -y.
    rotation = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    straight, turned = (torch.tensor(placed[degrees]) for degrees in (0.0, turn))
    torch.testing.assert_close(turned, straight @ rotation.T, rtol=1e-4, atol=1e-4)


def test_an_array_on_one_side_shades_the_image_towards_that_side():
    _, shading = coil_maps(axes(41), CoilArray(4, arcs=((60.0, 120.0),)), seeded())
    assert shading[0, 35, 20] > 5 * shading[0, 5, 20]


def test_coils_of_a_flexible_array_see_different_sides():
    angles = peak_angles(CoilArray(8)).sort().values
    assert torch.diff(angles, append=angles[:1] + 360).max() < 120


def test_every_ring_sees_its_own_height():
    z = torch.linspace(-80, 80, 17)
    across = torch.linspace(-90.0, 90.0, 19)
    array = CoilArray(8, 2, ring_distance=100.0, jitter=0.0)
    maps, _ = coil_maps((z, across, across), array, seeded())
    power = maps.abs().square().sum((2, 3))
    heights = (power * z).sum(1) / power.sum(1)
    assert ((heights > 10).sum(), (heights < -10).sum()) == (4, 4)


def test_jitter_moves_the_coils():
    regular, flexible = (CoilArray(4, jitter=jitter) for jitter in (0.0, 1.0))
    angles = peak_angles(flexible).sort().values
    gaps = torch.diff(angles, append=angles[:1] + 360)
    assert (gaps - 90).abs().max() > 5
    assert not torch.equal(peak_angles(regular, 0), peak_angles(regular, 1))  # turned at random


@pytest.mark.parametrize(("coils", "rings"), [(0, 1), (4, 0), (4, 5)])
def test_impossible_arrays_are_refused(coils, rings):
    with pytest.raises(ValueError, match=rf"got {coils} coils on {rings} rings"):
        coil_maps(axes(), CoilArray(coils, rings), seeded())


def test_noise_is_white_and_equal_in_both_parts():
    noise = add_noise(torch.zeros(2, 200, 200, dtype=torch.complex64), 0.5, seeded())
    assert noise.real.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.imag.std().item() == pytest.approx(0.5, rel=0.02)
    assert abs((noise.real * noise.imag).mean().item()) < 0.01
    assert abs((noise[:, 1:] * noise[:, :-1].conj()).mean().item()) < 0.01
    assert abs((noise[0] * noise[1].conj()).mean().item()) < 0.01


def test_noise_is_added_in_place_in_blocks_that_differ():
    kspace = torch.ones(1, 6, 200, 200, dtype=torch.complex64)  # more than one block
    assert add_noise(kspace, 0.1, seeded()) is kspace
    assert kspace.mean().item() == pytest.approx(1, abs=1e-3)
    planes = kspace[0].flatten(1) - 1
    overlap = (planes @ planes.mH).abs() / planes.abs().square().sum(1)
    torch.testing.assert_close(overlap, torch.eye(6), atol=0.03, rtol=0)


def test_no_noise_leaves_kspace_as_it_is():
    kspace = torch.ones(1, 4, 4, dtype=torch.complex64)
    assert torch.equal(add_noise(kspace, 0.0, seeded()), torch.ones(1, 4, 4))


def test_noise_follows_the_correlation_between_coils():
    correlation = torch.tensor([[1, 0.3 + 0.4j], [0.3 - 0.4j, 1]])
    noise = add_noise(torch.zeros(2, 300, 300, dtype=torch.complex64), 1.0, seeded(), correlation)
    noise = noise.flatten(1)
    measured = noise @ noise.mH / noise.shape[1] / 2
    torch.testing.assert_close(measured, correlation, atol=0.02, rtol=0)


@pytest.mark.parametrize("sigma", [-1.0, math.nan])
def test_negative_noise_is_refused(sigma):
    with pytest.raises(ValueError, match=f"must not be negative, got {sigma}"):
        add_noise(torch.zeros(1, 4, 4, dtype=torch.complex64), sigma, seeded())


def test_body_noise_correlates_coils_that_see_the_same_and_stays_of_unit_variance():
    maps, _ = coil_maps(axes(), CoilArray(6), seeded())
    correlation = noise_correlation(maps, torch.ones(1, 40, 40, dtype=torch.bool), seeded())
    torch.testing.assert_close(correlation.diagonal(), torch.ones(6, dtype=torch.complex64))
    torch.testing.assert_close(correlation, correlation.mH)
    assert torch.linalg.eigvalsh(correlation).min() > 0.4
    assert correlation[0, 1].abs() > correlation[0, 3].abs()


def test_the_correlation_of_a_large_body_is_that_of_all_its_points():
    grid = axes(400, 0.5)
    maps, _ = coil_maps(grid, CoilArray(4), seeded())
    body = torch.hypot(grid[1][:, None], grid[2])[None] < 60
    seen = maps[:, body].to(torch.complex128)
    covariance = seen @ seen.mH
    scale = covariance.diagonal().real.sqrt()
    expected = covariance / (scale[:, None] * scale)
    correlation = noise_correlation(maps, body, seeded())
    share = (correlation[0, 1] / expected[0, 1]).real
    off = ~torch.eye(4, dtype=torch.bool)
    assert 0 < share < 0.5
    torch.testing.assert_close(
        correlation[off], (share * expected[off]).to(torch.complex64), atol=2e-3, rtol=0
    )
