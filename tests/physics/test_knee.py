import math

import numpy as np
import pytest
import torch

from gleam.memory import PeakMemory
from physics.knee import KNEE_SEQUENCES, simulate_knee
from physics.knee_anatomy import KNEE_TISSUES, TISSUE_INDEX
from physics.knee_frame import KneePlacement
from physics.receive import CoilArray

SIZE = (96, 80)
VOLUME = (24, 48, 40)


def median(scan, name):
    """Median magnitude inside this tissue, a pixel away from its borders."""
    inside = scan.labels == TISSUE_INDEX[name]
    for axis in (0, 1):
        inside = inside & inside.roll(1, axis) & inside.roll(-1, axis)
    return scan.image.abs()[inside].median().item()


def ratio(scans, first, second):
    """Of the medians of two tissues, the middle one of several scans: coils shade each."""
    return np.median([median(scan, first) / median(scan, second) for scan in scans])


def numpy_kspace(scan):
    coils = scan.maps[0].numpy() * scan.image.numpy()
    shifted = np.fft.ifftshift(coils, axes=scan.axes)
    return np.fft.fftshift(np.fft.fftn(shifted, axes=scan.axes, norm="ortho"), axes=scan.axes)


@pytest.fixture(scope="module")
def noiseless():
    return simulate_knee(3, SIZE, coils=5, snr=math.inf)


@pytest.fixture(scope="module")
def volume():
    return simulate_knee(3, VOLUME, coils=4, contrast="PD", snr=math.inf)


@pytest.fixture(scope="module")
def pairs():
    """Knees in both contrasts, in slices through a condyle, and its menisci."""
    return {
        name: [simulate_knee(seed, (320, 320), 8, name, math.inf) for seed in (2, 4, 13)]
        for name in KNEE_SEQUENCES
    }


def test_a_slice_has_the_documented_shapes_and_types(noiseless):
    assert noiseless.kspace.shape == (5, *SIZE)
    assert noiseless.image.shape == SIZE
    assert noiseless.maps.shape == (1, 5, *SIZE)
    assert noiseless.labels.shape == SIZE
    assert noiseless.axes == (-2, -1)
    assert noiseless.tissues == tuple(tissue.name for tissue in KNEE_TISSUES)
    for tensor in (noiseless.kspace, noiseless.image, noiseless.maps):
        assert tensor.dtype == torch.complex64
    assert noiseless.labels.dtype == torch.uint8


def test_a_volume_has_the_documented_shapes_and_is_encoded_along_three_axes(volume):
    assert volume.kspace.shape == (4, *VOLUME)
    assert volume.image.shape == VOLUME
    assert volume.maps.shape == (1, 4, *VOLUME)
    assert volume.labels.shape == VOLUME
    assert volume.axes == (-3, -2, -1)
    assert volume.image.is_contiguous()
    assert volume.maps.is_contiguous()


@pytest.mark.parametrize("name", ["noiseless", "volume"])
def test_kspace_without_noise_is_the_centred_fft_of_the_coil_images(name, request):
    scan = request.getfixturevalue(name)
    np.testing.assert_allclose(scan.kspace.numpy(), numpy_kspace(scan), atol=2e-4)


@pytest.mark.parametrize("name", ["noiseless", "volume"])
def test_maps_are_normalised_and_the_leg_is_bright_at_the_95th_percentile(name, request):
    scan = request.getfixturevalue(name)
    total = scan.maps.abs().square().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    body = scan.image.abs()[scan.labels > 0]
    assert np.percentile(body.numpy(), 95) == pytest.approx(1, abs=2e-3)
    assert scan.image.abs()[scan.labels == 0].median() < 0.03


def test_the_noise_has_the_standard_deviation_of_the_snr():
    clean, noisy = (simulate_knee(3, SIZE, coils=5, contrast="PD", snr=s) for s in (math.inf, 25.0))
    assert torch.equal(noisy.image, clean.image)
    noise = noisy.kspace - clean.kspace
    for part in (noise.real, noise.imag):
        torch.testing.assert_close(part.std(dim=(1, 2)), torch.full((5,), 0.04), rtol=0.05, atol=0)


def test_the_same_seed_gives_the_same_scan_and_others_differ():
    first, second, other = (simulate_knee(seed, (48, 48), coils=3) for seed in (5, 5, 6))
    for name in ("kspace", "image", "maps", "labels"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.parameters == second.parameters
    assert (first.image - other.image).abs().mean() > 0.05
    assert (first.maps - other.maps).abs().mean() > 0.05


def test_the_contrast_changes_the_signal_and_not_the_knee(pairs):
    for plain, suppressed in zip(pairs["PD"], pairs["PDFS"], strict=True):
        assert torch.equal(plain.labels, suppressed.labels)
        assert torch.equal(plain.maps, suppressed.maps)
        assert plain.parameters["contrast"] == "PD"
        assert suppressed.parameters["contrast"] == "PDFS"


def test_both_contrasts_show_tissues_of_the_same_properties(pairs):
    names = ("tissue_t1", "tissue_t2", "tissue_proton_density")
    plain, suppressed = (
        [scan.parameters[name] for scan in scans for name in names] for scans in pairs.values()
    )
    assert plain == suppressed
    assert len(plain[0]) == len(KNEE_TISSUES)
    for number, name in enumerate(("t1", "t2", "proton_density")):
        nominal = np.array([getattr(tissue, name) for tissue in KNEE_TISSUES])
        drawn = np.array(plain[number::3])
        np.testing.assert_allclose(drawn, np.broadcast_to(nominal, drawn.shape), rtol=0.25)
        assert (drawn[0] != drawn[1])[1:].all()


def test_both_contrasts_show_muscle_of_the_same_texture(pairs):
    """Muscle, away from its borders and divided by what is smooth: shading and transmit field."""
    for plain, suppressed in zip(pairs["PD"], pairs["PDFS"], strict=True):
        inside = torch.nn.functional.avg_pool2d(
            (plain.labels == TISSUE_INDEX["muscle"]).float()[None], 7, 1, 3
        )[0]
        inside = inside > 0.999
        detail = []
        for scan in (plain, suppressed):
            weights = torch.stack((inside * scan.image.abs(), inside.float()))
            signal, count = torch.nn.functional.avg_pool2d(weights, 21, 1, 10)
            detail.append((scan.image.abs() * count / signal)[inside])
        assert torch.corrcoef(torch.stack(detail))[0, 1] > 0.7


@pytest.mark.parametrize("contrast", KNEE_SEQUENCES)
def test_cartilage_to_muscle_is_as_the_parameters_say(pairs, contrast):
    deviations = []
    for scan in pairs[contrast]:
        values = scan.parameters
        tr, te = values["repetition_time"], values["echo_time"]
        said = {}
        for name in ("cartilage", "muscle"):
            t1, t2, density = (
                values[f"tissue_{key}"][TISSUE_INDEX[name]]
                for key in ("t1", "t2", "proton_density")
            )
            recovery = 1 - 2 * math.exp(-(tr - te / 2) / t1) + math.exp(-tr / t1)
            said[name] = density * recovery * math.exp(-te / t2)
        seen = median(scan, "cartilage") / median(scan, "muscle")
        deviations.append(math.log(seen * said["muscle"] / said["cartilage"]))
    assert np.median(deviations) == pytest.approx(0, abs=0.2)


def test_both_contrasts_are_drawn():
    drawn = {simulate_knee(seed, (32, 32), coils=1).parameters["contrast"] for seed in range(8)}
    assert drawn == {"PD", "PDFS"}


def test_tissues_are_ordered_as_proton_density_demands(pairs):
    scans = pairs["PD"]
    assert ratio(scans, "fat", "cartilage") > 1.25
    assert ratio(scans, "marrow", "cartilage") > 1.25
    assert ratio(scans, "cartilage", "muscle") > 1
    assert ratio(scans, "cartilage", "meniscus") > 2


def test_fat_suppression_leaves_less_than_a_tenth_of_fat_and_marrow(pairs):
    for name in ("fat", "marrow"):
        kept = ratio(pairs["PDFS"], name, "cartilage") / ratio(pairs["PD"], name, "cartilage")
        assert 0.01 < kept < 0.1
    assert ratio(pairs["PDFS"], "cartilage", "marrow") > 5
    assert ratio(pairs["PDFS"], "cartilage", "meniscus") > 2
    for plain, suppressed in zip(pairs["PD"], pairs["PDFS"], strict=True):
        assert plain.parameters["fat_signal"] == 1.0
        assert 0.01 < suppressed.parameters["fat_signal"] < 0.06


def nominal_signal(sequence):
    """PD exp(-TE/T2) (1 - 2 exp(-(TR - TE/2)/T1) + exp(-TR/T1)) of every tissue."""
    signal = {}
    tr, te = sequence.repetition_time, sequence.echo_time
    for tissue in KNEE_TISSUES:
        recovery = 1 - 2 * math.exp(-(tr - te / 2) / tissue.t1) + math.exp(-tr / tissue.t1)
        signal[tissue.name] = tissue.proton_density * recovery * math.exp(-te / tissue.t2)
    return signal


@pytest.mark.parametrize("contrast", KNEE_SEQUENCES)
def test_the_nominal_tissues_have_the_contrast_of_a_knee_at_3_t(contrast):
    signal = nominal_signal(KNEE_SEQUENCES[contrast])
    assert signal["fluid"] > 1.3 * signal["cartilage"]
    assert signal["fat"] > signal["marrow"] > signal["cartilage"] > signal["muscle"]
    assert signal["muscle"] > 2.5 * signal["meniscus"] > 2.5 * signal["tendon"]
    assert signal["bone"] < 0.01


def test_fluid_and_tendon_are_the_brightest_and_the_darkest():
    """In slices through the middle, where there are pools of fluid and the patellar tendon."""
    scans = [simulate_knee(seed, (320, 320), 8, "PDFS", math.inf) for seed in (1, 8)]
    assert ratio(scans, "fluid", "cartilage") > 1.3
    assert ratio(scans, "cartilage", "tendon") > 5


def test_image_ratios_follow_the_signal_equation(pairs):
    """Fat to muscle as nominal tissues have it, within what subjects, texture and coils vary."""
    sequence = KNEE_SEQUENCES["PD"]
    expected = nominal_signal(sequence)["fat"] / nominal_signal(sequence)["muscle"]
    assert ratio(pairs["PD"], "fat", "muscle") == pytest.approx(expected, rel=0.3)


def test_a_volume_contains_every_tissue():
    scan = simulate_knee(4, (32, 96, 96), 1, "PD", math.inf)
    assert set(scan.labels.unique().tolist()) == set(range(len(KNEE_TISSUES)))


def test_rings_of_coils_go_round_the_leg_and_not_round_the_left_right_axis():
    scan = simulate_knee(1, (32, 64, 64), CoilArray(6, 1, (90.0, 90.0), 50.0, jitter=0.0), "PD")
    power = scan.maps[0].abs().square()
    spread = []
    for axis in range(3):
        line = power.sum([d + 1 for d in range(3) if d != axis])
        place = torch.arange(line.shape[1]) / line.shape[1]
        spread.append(((line * place).sum(1) / line.sum(1)).std().item())
    assert spread[0] > 5 * spread[1]
    assert spread[2] > 5 * spread[1]


@pytest.mark.parametrize("size", [(96, 96), (97, 121)])
def test_image_and_labels_lie_on_the_same_pixels(size):
    """Both edges of the leg: blur moves them apart, and only a shift moves them the same way."""
    shifts = []
    for seed in range(4):
        scan = simulate_knee(seed, size, coils=2, contrast="PD", snr=math.inf)
        rows = slice(size[0] // 3, 2 * size[0] // 3)  # away from the ends of the coil
        bodies = (scan.labels > 0)[rows], (scan.image.abs() > 0.1)[rows]
        edges = [(body.float().argmax(1), body.flip(1).float().argmax(1)) for body in bodies]
        (left, right), (bright_left, bright_right) = edges
        shifts.append((bright_left - left - (bright_right - right)).float().mean().item() / 2)
    assert abs(np.mean(shifts)) < 0.2


def test_a_volume_does_not_depend_on_how_many_points_are_painted_at_a_time(volume, monkeypatch):
    monkeypatch.setattr("physics.knee._SLAB", 3 * 4 * VOLUME[1] * VOLUME[2])
    again = simulate_knee(3, VOLUME, coils=4, contrast="PD", snr=math.inf)
    assert (again.labels != volume.labels).float().mean() < 1e-3
    torch.testing.assert_close(again.image, volume.image, atol=1e-3, rtol=0)


def test_parameters_are_plain_values_in_physical_units(noiseless, volume):
    for scan, count in ((noiseless, 2), (volume, 3)):
        spacing = scan.parameters["voxel_size"]
        assert len(spacing) == count
        assert all(type(value) is float for value in spacing)
        plain = (value for value in scan.parameters.values() if type(value) is not list)
        assert all(type(value) in (int, float, str) for value in plain)
        assert 110 < spacing[-1] * scan.image.shape[-1] < 180  # mm
        assert 20 < scan.parameters["echo_time"] < 45  # ms
        assert 2000 < scan.parameters["repetition_time"] < 4000  # ms
        assert -5 < scan.parameters["flexion"] < 10  # degrees
        assert scan.parameters["side"] in ("left", "right")
    assert 100 < volume.parameters["voxel_size"][0] * VOLUME[0] < 160
    assert -40 < noiseless.parameters["slice_position"] < 40
    assert "slice_position" not in volume.parameters


def test_the_leg_fits_the_field_of_view():
    for seed in range(8):
        labels = simulate_knee(seed, (64, 64), coils=1).labels
        sides = torch.stack((labels[:, 0], labels[:, -1]))
        assert (sides > 0).float().mean() < 0.15
    labels = simulate_knee(0, (16, 48, 48), coils=1).labels
    assert (labels[0] > 0).float().mean() < 0.1
    assert (labels[-1] > 0).float().mean() < 0.1


def test_partial_fourier_leaves_the_end_of_the_last_axis_empty():
    scan = simulate_knee(1, (48, 48), coils=2, partial_fourier=0.75)
    assert not scan.kspace[..., 36:].any()
    assert scan.kspace[..., 35].abs().min() > 0


def test_a_volume_takes_less_new_memory_than_three_times_its_kspace():
    with PeakMemory("cpu") as peak:
        scan = simulate_knee(0, (40, 96, 96), contrast="PDFS")
    assert peak.bytes < 3 * scan.kspace.numel() * scan.kspace.element_size()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrast": "T1w"}, "one of PD, PDFS, got 'T1w'"),
        ({"size": (256, 16)}, r"at least 32 each.*got \(256, 16\)"),
        ({"size": (4, 64, 64)}, r"at least 8 slices, got \(4, 64, 64\)"),
        ({"size": (64,)}, "size must be"),
        ({"size": (8, 64, 64, 64)}, "size must be"),
        ({"coils": 0}, "at least one coil"),
        ({"snr": 0.0}, "must be positive"),
        ({"snr": math.nan}, "must be positive"),
        ({"size": (32, 32), "partial_fourier": 0.4}, "above 0.5"),
    ],
)
def test_impossible_scans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_knee(0, **arguments)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("offset", [-33.0, 33.0])
def test_the_slice_position_counts_from_the_middle_to_the_fibula(side, offset, monkeypatch):
    """Bone at the lower end of a slice far from the middle is the fibula, on the lateral side."""
    axes = torch.zeros(1), torch.arange(-64, 64) * 1.2, torch.arange(-64, 64) * 1.1
    placement = KneePlacement(centre=(offset, 0.0, 0.0), left=side == "left")
    monkeypatch.setattr("physics.knee._place", lambda size, generator: (axes, placement))
    scan = simulate_knee(0, (128, 128), coils=1, contrast="PD")
    low = scan.labels[-20:]
    fibula = (low == TISSUE_INDEX["marrow"]) | (low == TISSUE_INDEX["bone"])
    assert scan.parameters["side"] == side
    assert abs(scan.parameters["slice_position"]) == 33.0
    assert (fibula.sum() > 20) == (scan.parameters["slice_position"] > 0)
