import itertools
import math

import numpy as np
import pytest
import torch

from gleam.memory import PeakMemory
from physics.heart import simulate_heart
from physics.heart_anatomy import HEART_INDEX
from physics.receive import CoilArray

SIZE = (20, 192, 160)
SEEDS = range(4)


@pytest.fixture(scope="module")
def hearts():
    return [simulate_heart(seed, SIZE, coils=2, snr=math.inf) for seed in SEEDS]


@pytest.fixture(scope="module")
def scan():
    return simulate_heart(3, (5, 65, 48), coils=5, snr=math.inf)


def area(scan, name):
    """Pixels of a tissue in every frame."""
    return (scan.labels == HEART_INDEX[name]).sum((1, 2)).numpy().astype(float)


def interior(mask):
    """Pixels whose eight neighbours are in the mask too."""
    inside = mask.clone()
    for shift in itertools.product((-1, 0, 1), repeat=2):
        inside &= mask.roll(shift, (0, 1))
    return inside


def distance_from_heart(scan):
    """Distance [mm] of every pixel from the nearest one that is ever heart."""
    heart = torch.zeros(scan.labels.shape[1:], dtype=torch.bool)
    for name in ("myocardium", "left ventricle", "right ventricle"):
        heart |= (scan.labels == HEART_INDEX[name]).any(0)
    pixels = torch.ones_like(heart).nonzero().float()
    nearest = torch.cdist(pixels, heart.nonzero().float()).amin(1)
    return nearest.reshape(heart.shape) * scan.parameters["voxel_size"][0]


def frame_of_systole(scan):
    return scan.parameters["end_systolic_frame"]


def wall_thickness(scan, frame):
    """Muscle [pixels] from the left cavity's middle away from the right one, averaged."""
    labels = scan.labels[frame]
    left, right = (
        (labels == HEART_INDEX[f"{side} ventricle"]).nonzero().float().mean(0).numpy()
        for side in ("left", "right")
    )
    away = math.atan2(*(left - right))
    thickness = []
    # Between the papillary muscles, and beside them.
    for turn in (-95, -85, -25, 25, 85, 95):
        angle = away + math.radians(turn)
        steps = np.arange(0, 25, 0.05)[:, None]
        ray = np.rint(left + steps * np.array([math.sin(angle), math.cos(angle)])).astype(int)
        muscle = labels.numpy()[tuple(ray.T)] == HEART_INDEX["myocardium"]
        start = int(muscle.argmax())
        thickness.append((~muscle[start:]).argmax() * 0.05)
    return float(np.median(thickness))


def test_a_scan_has_the_documented_shapes_and_types(scan):
    assert scan.kspace.shape == (5, 5, 65, 48)
    assert scan.image.shape == scan.labels.shape == (5, 65, 48)
    assert scan.maps.shape == (1, 5, 1, 65, 48)
    for tensor in (scan.kspace, scan.image, scan.maps):
        assert tensor.dtype == torch.complex64
    assert scan.labels.dtype == torch.uint8
    assert scan.axes == (-2, -1)
    assert scan.tissues[0] == "air"
    assert {scan.tissues[index] for index in scan.labels.unique()} >= {
        *("lung", "myocardium", "left ventricle", "right ventricle", "vessel"),
        *("muscle", "fat", "liver", "bone", "marrow", "connective"),
    }


def test_the_ejection_fraction_is_recovered_from_the_labels(hearts):
    for scan in hearts:
        blood = area(scan, "left ventricle")
        shortening = scan.parameters["longitudinal_shortening"]
        recovered = 1 - blood[frame_of_systole(scan)] * (1 - shortening) / blood[0]
        assert recovered == pytest.approx(scan.parameters["ejection_fraction"], abs=0.02)
        assert 0.5 < recovered < 0.7


def test_the_left_cavity_is_largest_at_first_and_smallest_near_end_systole(hearts):
    for scan in hearts:
        blood = area(scan, "left ventricle")
        assert blood[0] >= 0.99 * blood.max()
        assert blood[frame_of_systole(scan)] <= blood.min() * 1.03
        assert 0.35 <= frame_of_systole(scan) / SIZE[0] <= 0.45
        assert scan.parameters["end_diastolic_frame"] == 0


def test_the_right_ventricle_contracts_too(hearts):
    for scan in hearts:
        blood = area(scan, "right ventricle")
        assert 0.3 < 1 - blood[frame_of_systole(scan)] / blood[0] < 0.65


def test_the_area_of_muscle_grows_as_the_heart_gets_shorter(hearts):
    ratios = []
    for scan in hearts:
        muscle = area(scan, "myocardium")
        length = 1 - scan.parameters["longitudinal_shortening"]
        ratios.append(muscle[frame_of_systole(scan)] * length / muscle[0])
    assert ratios == pytest.approx([1] * len(ratios), abs=0.08)
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)


def test_the_wall_thickens_in_systole_as_the_parameters_say(hearts):
    for scan in hearts:
        first, last = (
            wall_thickness(scan, frame) * scan.parameters["voxel_size"][0]
            for frame in (0, frame_of_systole(scan))
        )
        said = [scan.parameters[f"wall_thickness_{when}"] for when in ("diastole", "systole")]
        assert 1.2 < said[1] / said[0] < 1.6
        assert [first, last] == pytest.approx(said, abs=1.3)  # half a pixel and the wall's ripple


def test_the_last_frame_passes_smoothly_into_the_first(hearts):
    for scan in hearts:
        steps = (scan.image - scan.image.roll(1, 0)).abs().mean((1, 2))
        assert 0 < steps[0] < steps.max()
        blood = area(scan, "left ventricle")
        changes = np.abs(blood - np.roll(blood, 1))
        assert changes[0] < 0.5 * changes.max()


def test_twice_the_frames_show_the_same_beat_at_twice_the_rate():
    few, many = (simulate_heart(4, (t, 64, 48), coils=1, snr=math.inf) for t in (5, 10))
    assert torch.equal(many.labels[::2], few.labels)
    assert many.parameters["frame_duration"] == few.parameters["frame_duration"] / 2
    # Their 95th percentiles, over all frames, differ a little.
    ratio = many.image[::2].abs().sum() / few.image.abs().sum()
    torch.testing.assert_close(many.image[::2], ratio * few.image, rtol=1e-4, atol=1e-5)


def test_what_lies_far_from_the_heart_stands_still(hearts):
    for scan in hearts:
        far = distance_from_heart(scan) > 35
        assert far.float().mean() > 0.3
        labels = scan.labels[:, far]
        assert torch.equal(labels, labels[:1].expand_as(labels))
        # The band limit's ringing reaches everywhere, as it does in a scanner.
        deviation = (scan.image - scan.image.mean(0)).abs()
        assert deviation[:, far].square().mean().sqrt() < 0.004
        assert deviation[:, distance_from_heart(scan) == 0].square().mean().sqrt() > 0.1


def test_every_frame_shows_the_same_chest_around_the_heart(hearts):
    for scan in hearts:
        for name in ("lung", "liver", "vessel", "fat"):
            pixels = area(scan, name)
            assert pixels[0] > 100
            np.testing.assert_allclose(pixels, pixels[0], rtol=0.2)
        assert area(scan, "air").std() == 0


def test_bones_hardly_move_with_the_heart(hearts):
    for scan in hearts:
        bone = scan.labels == HEART_INDEX["bone"]
        assert bone.all(0).sum() > 0.97 * bone[0].sum()
        assert bone.any(0).sum() < 1.03 * bone[0].sum()


def test_blood_outshines_muscle_as_the_balanced_ssfp_formula_demands():
    def signal(density, name, parameters):
        flip = math.radians(parameters["flip_angle"])
        e1, e2 = (
            math.exp(-parameters["repetition_time"] / parameters[f"{time}_{name}"])
            for time in ("t1", "t2")
        )
        value = density * math.sin(flip) * math.sqrt(e2) * (1 - e1)
        return value / (1 - (e1 - e2) * math.cos(flip) - e1 * e2)

    deviations = []
    for seed in range(8):
        scan = simulate_heart(seed, (5, 192, 160), coils=1, snr=math.inf)
        parameters, frame = scan.parameters, frame_of_systole(scan)  # when walls are thick
        image, labels = scan.image[frame].abs(), scan.labels[frame]
        assert parameters["echo_time"] == parameters["repetition_time"] / 2
        blood, muscle = (
            image[interior(interior(labels == HEART_INDEX[name]))].median().item()
            for name in ("left ventricle", "myocardium")
        )
        said = signal(0.9, "blood", parameters) / signal(0.8, "myocardium", parameters)
        deviations.append(math.log(blood / muscle / said))
    # Texture and the fields of coils and transmitter.
    assert np.abs(deviations).max() < 0.2
    assert abs(np.mean(deviations)) < 0.05


def test_all_blood_is_of_one_kind(monkeypatch):
    """Without texture and shading, both ventricles and the vessels are equally bright."""
    monkeypatch.setattr("physics.heart._TEXTURE", dict.fromkeys(HEART_INDEX, 0.0))
    monkeypatch.setattr(
        "physics.heart.transmit_field", lambda axes, generator: torch.ones(1, *SIZE[1:])
    )
    far = CoilArray(1, semi_axes=(1e5, 1e5), loop_radius=1e5)
    for seed in SEEDS:
        scan = simulate_heart(seed, (1, *SIZE[1:]), far, math.inf)
        image, labels = scan.image[0].abs(), scan.labels[0]
        left, right, vessel = (
            image[interior(interior(labels == HEART_INDEX[name]))].median().item()
            for name in ("left ventricle", "right ventricle", "vessel")
        )
        assert [right, vessel] == pytest.approx([left, left], rel=0.03)  # the band rings


def test_tissues_are_as_bright_as_in_a_cine(hearts):
    for scan in hearts:
        image = scan.image.abs()[0]
        level = {
            name: image[scan.labels[0] == HEART_INDEX[name]].median()
            for name in ("left ventricle", "right ventricle", "fat", "myocardium", "lung", "air")
        }
        assert level["left ventricle"] > 2 * level["myocardium"]
        assert level["fat"] > 1.3 * level["myocardium"]
        assert level["myocardium"] > 2 * level["lung"]
        assert level["lung"] < 0.15
        assert level["air"] < 0.02
        assert 0.6 < level["right ventricle"] / level["left ventricle"] < 1.7


def test_fat_is_in_opposed_phase_to_water_so_that_their_borders_are_dark(hearts):
    for scan in hearts:
        fat, water = (interior(scan.labels[0] == HEART_INDEX[name]) for name in ("fat", "muscle"))
        turned = scan.image[0, 6:] * scan.image[0, :-6].conj()
        unlike = (fat[6:] & water[:-6]) | (water[6:] & fat[:-6])
        alike = fat[6:] & fat[:-6]
        assert turned.real[unlike].mean() < -0.6 * turned.abs()[unlike].mean()
        assert turned.real[alike].mean() > 0.6 * turned.abs()[alike].mean()


def test_the_95th_percentile_of_the_body_is_1(hearts):
    for scan in hearts:
        body = scan.image.abs()[scan.labels > 0].numpy()
        assert np.percentile(body, 95) == pytest.approx(1, abs=1e-3)


def test_kspace_without_noise_is_the_centred_fft_of_every_frame(scan):
    coils = scan.maps[0].numpy() * scan.image.numpy()
    expected = np.fft.ifftshift(coils, axes=(2, 3))
    expected = np.fft.fftshift(np.fft.fft2(expected, norm="ortho"), axes=(2, 3))
    np.testing.assert_allclose(scan.kspace.numpy(), expected, atol=1e-4)


def test_the_noise_has_the_strength_asked_for_and_differs_between_frames(scan):
    noisy = simulate_heart(3, (5, 65, 48), coils=5, snr=20.0)
    assert torch.equal(noisy.image, scan.image)
    assert noisy.parameters["snr"] == 20.0
    noise = noisy.kspace - scan.kspace
    torch.testing.assert_close(noise.real.std((1, 2, 3)), torch.full((5,), 0.05), rtol=0.05, atol=0)
    frames = torch.corrcoef(noise.real.transpose(0, 1).flatten(1))
    assert (frames - torch.eye(5)).abs().max() < 0.05


def test_partial_fourier_leaves_the_end_of_the_x_axis_empty(scan):
    partial = simulate_heart(3, (5, 65, 48), coils=5, snr=math.inf, partial_fourier=0.75)
    assert torch.equal(partial.kspace[..., :36], scan.kspace[..., :36])
    assert not partial.kspace[..., 36:].any()
    assert torch.equal(partial.image, scan.image)


def test_the_same_seed_gives_the_same_scan_bit_for_bit():
    first, second = (simulate_heart(11, (3, 64, 48), coils=3) for _ in range(2))
    for name in ("kspace", "image", "maps", "labels"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.parameters == second.parameters


def test_other_seeds_give_other_hearts_coils_and_protocols(hearts):
    for name in ("ejection_fraction", "heart_rate", "flip_angle", "turn", "snr"):
        values = {simulate_heart(seed, (1, 32, 32), coils=1).parameters[name] for seed in SEEDS}
        assert len(values) == len(SEEDS)
    for other in hearts[1:]:
        assert (hearts[0].image - other.image).abs().mean() > 0.05
        assert (hearts[0].maps - other.maps).abs().mean() > 0.05


def test_parameters_are_plain_values_in_physiological_ranges(hearts):
    for scan in hearts:
        parameters = scan.parameters
        assert parameters["anatomy"] == "heart"
        assert parameters["sequence"] == "BalancedSSFP"
        assert 50 <= parameters["heart_rate"] <= 90
        duration = parameters["frame_duration"] * SIZE[0]
        assert duration == pytest.approx(60000 / parameters["heart_rate"])
        field_of_view = [v * n for v, n in zip(parameters["voxel_size"], SIZE[1:], strict=True)]
        assert 270 < max(field_of_view) < 400
        for value in parameters.values():
            assert type(value) in (int, float, str, list)


@pytest.mark.parametrize("size", [(2, 96, 80), (2, 80, 96), (2, 64, 64)])
def test_the_body_fits_the_field_of_view(size):
    for seed in range(5):
        labels = simulate_heart(seed, size, coils=1).labels[0] > 0
        edge = torch.cat((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
        assert edge.float().mean() < 0.02


@pytest.mark.parametrize("size", [(1, 128, 32), (1, 32, 128)])
def test_the_body_lies_near_the_middle_of_a_long_field_of_view(size):
    offsets = []
    for seed in range(20):
        scan = simulate_heart(seed, size, coils=1)
        rows, columns = (scan.labels[0] > 0).nonzero(as_tuple=True)
        places = rows - size[1] // 2, columns - size[2] // 2
        spacing = scan.parameters["voxel_size"][0]
        offsets += [abs((p.min() + p.max()).item()) / 2 * spacing for p in places]
    assert 25 < max(offsets) < 40 + 10  # a pixel


def test_the_coils_of_a_count_lie_in_front_of_the_chest_and_behind_it():
    scan = simulate_heart(5, (1, 96, 80), coils=8, snr=math.inf)
    turn = math.radians(scan.parameters["turn"])
    y, x = (torch.arange(n) - n // 2 for n in (96, 80))
    behind = math.cos(turn) * y[:, None] + math.sin(turn) * x
    weights = scan.maps[0, :, 0].abs().square()
    middles = (weights * behind).sum((1, 2)) / weights.sum((1, 2))
    assert (middles < -3).sum() == 4
    assert (middles > 3).sum() == 4


def test_an_array_of_ones_own_is_used():
    scan = simulate_heart(5, (1, 48, 40), CoilArray(3, semi_axes=(200.0, 200.0)))
    assert scan.kspace.shape == (3, 1, 48, 40)


def test_memory_stays_below_three_times_the_kspace():

    with PeakMemory() as peak:
        scan = simulate_heart(0, (20, 192, 160), coils=8)
    assert peak.bytes < 3 * scan.kspace.numel() * scan.kspace.element_size()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 64, 64)}, r"at least one frame .* got \(0, 64, 64\)"),
        ({"size": (4, 31, 64)}, "at least 32 pixels"),
        ({"size": (64, 64)}, r"got \(64, 64\)"),
        ({"coils": 0}, "at least one coil"),
        ({"coils": -2}, "at least one coil"),
        ({"snr": 0.0}, "SNR must be positive"),
        ({"snr": math.nan}, "SNR must be positive"),
        ({"partial_fourier": 0.5}, "above 0.5"),
        ({"partial_fourier": 1.1}, "up to 1"),
    ],
)
def test_scans_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_heart(0, **{"size": (1, 32, 32), "coils": 1, **arguments})
