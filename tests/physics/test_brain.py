import json
import math

import numpy as np
import pytest
import torch

from physics.acquisition import SimulatedScan
from physics.brain import simulate_brain, simulate_brain_sequences
from physics.brain_anatomy import TISSUE_INDEX
from physics.brain_lesions import Lesion, draw_lesions
from physics.brain_protocol import Protocol, draw_tissues
from physics.brain_subject import Subject
from physics.receive import CoilArray, coil_maps
from physics.sequences import BRAIN_SEQUENCES, BRAIN_TISSUES, SpoiledGradientEcho

SIZE = (96, 80)


def tissue_signal(scan, name, but=None):
    """Median magnitude where this tissue prevails, outside a mask."""
    inside = scan.labels == TISSUE_INDEX[name]
    inside = inside if but is None else inside & ~but
    return scan.image.abs()[inside].median().item()


def head_stream(seed):
    """The generator that draws the subject of a scan."""
    first = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(first.item())


@pytest.fixture(scope="module")
def noiseless():
    return simulate_brain(3, SIZE, coils=5, snr=math.inf)


@pytest.fixture(scope="module")
def volume():
    return simulate_brain(8, (48, 64, 64), coils=4, contrast="T2w", snr=math.inf, lesions=3)


@pytest.fixture(scope="module")
def sequences():
    return simulate_brain_sequences(8, (192, 192), 4, snr=math.inf)


@pytest.fixture(scope="module")
def lesioned():
    return simulate_brain_sequences(8, (192, 192), 4, snr=math.inf, lesions=3)


def test_a_scan_has_the_documented_shapes_and_types(noiseless):
    assert noiseless.kspace.shape == (5, *SIZE)
    assert noiseless.image.shape == SIZE
    assert noiseless.maps.shape == (1, 5, *SIZE)
    assert noiseless.labels.shape == SIZE
    for tensor in (noiseless.kspace, noiseless.image, noiseless.maps):
        assert tensor.dtype == torch.complex64
    assert noiseless.labels.dtype == torch.uint8
    assert noiseless.tissues == tuple(tissue.name for tissue in BRAIN_TISSUES)
    assert noiseless.axes == (-2, -1)
    assert noiseless.lesions is None


def test_a_volume_has_the_documented_shapes_and_is_encoded_along_all_axes(volume):
    space = (48, 64, 64)
    assert (volume.kspace.shape, volume.maps.shape) == ((4, *space), (1, 4, *space))
    assert volume.image.shape == volume.labels.shape == volume.lesions.shape == space
    assert volume.axes == (-3, -2, -1)
    assert len(set(volume.parameters["voxel_size"])) == 1
    assert volume.lesions.dtype == torch.bool


@pytest.mark.parametrize("scan", ["noiseless", "volume"])
def test_kspace_without_noise_is_the_centred_fft_of_the_coil_images(scan, request):
    scan = request.getfixturevalue(scan)
    coils = scan.maps[0].numpy() * scan.image.numpy()
    expected = np.fft.ifftshift(coils, axes=scan.axes)
    expected = np.fft.fftshift(np.fft.fftn(expected, axes=scan.axes, norm="ortho"), axes=scan.axes)
    np.testing.assert_allclose(scan.kspace.numpy(), expected, atol=2e-4)


def test_the_noise_of_every_coil_follows_the_snr_asked_for(noiseless):
    noisy = simulate_brain(3, SIZE, coils=5, snr=25.0)
    assert torch.equal(noisy.image, noiseless.image)
    assert noisy.parameters["snr"] == 25.0
    noise = noisy.kspace - noiseless.kspace
    for part in (noise.real, noise.imag):
        torch.testing.assert_close(part.std(dim=(1, 2)), torch.full((5,), 0.04), rtol=0.05, atol=0)


@pytest.mark.parametrize("scan", ["noiseless", "volume"])
def test_the_95th_percentile_of_the_head_is_1_and_air_is_dark(scan, request):
    scan = request.getfixturevalue(scan)
    head = scan.labels > 0
    assert np.percentile(scan.image.abs()[head].numpy(), 95) == pytest.approx(1, abs=5e-3)
    assert scan.image.abs()[~head].median() < 0.02


@pytest.mark.parametrize("scan", ["noiseless", "volume"])
def test_the_squared_maps_sum_to_1(scan, request):
    total = request.getfixturevalue(scan).maps.abs().square().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("size", [(64, 64), (32, 40, 40)])
def test_the_same_seed_gives_the_same_scan_bit_for_bit(size):
    first, second = (simulate_brain(11, size, coils=4, lesions=2) for _ in range(2))
    for name in ("kspace", "image", "maps", "labels", "lesions"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.parameters == second.parameters


def test_other_seeds_give_other_heads_coils_and_protocols():
    scans = [simulate_brain(seed, (64, 64), coils=4) for seed in range(8)]
    assert len({scan.parameters["contrast"] for scan in scans}) > 1
    assert len({scan.parameters["echo_time"] for scan in scans}) == 8
    for other in scans[1:]:
        assert (scans[0].image - other.image).abs().mean() > 0.05
        assert (scans[0].maps - other.maps).abs().mean() > 0.05


@pytest.mark.parametrize("seed", [8, 12, 13])  # slices through the ventricles
def test_tissues_of_a_scan_are_ordered_as_its_contrast_demands(seed):
    scans = simulate_brain_sequences(seed, (192, 192), 8, snr=math.inf)
    t1, t2, flair = (scans[name] for name in ("T1w", "T2w", "FLAIR"))
    assert tissue_signal(t1, "white") > tissue_signal(t1, "gray") > tissue_signal(t1, "csf")
    assert tissue_signal(t2, "csf") > tissue_signal(t2, "gray") > tissue_signal(t2, "white")
    assert tissue_signal(flair, "csf") < 0.5 * tissue_signal(flair, "white")


def test_co_registered_scans_show_one_head_through_one_array(sequences):
    scans = list(sequences.values())
    assert list(sequences) == list(BRAIN_SEQUENCES)
    for name, scan in sequences.items():
        assert scan.parameters["contrast"] == name
        assert torch.equal(scan.labels, scans[0].labels)
        assert torch.equal(scan.maps, scans[0].maps)


def test_a_scan_of_one_contrast_is_that_of_the_co_registered_ones(sequences):
    alone = simulate_brain(8, (192, 192), 4, "FLAIR", math.inf)
    assert torch.equal(alone.kspace, sequences["FLAIR"].kspace)
    assert alone.parameters == sequences["FLAIR"].parameters


def signal_equation(parameters, t1, t2, proton_density):
    """Ernst's formula, and a spin echo's with or without inversion; ms and degrees."""
    repetition, echo = parameters["repetition_time"], parameters["echo_time"]
    decay = proton_density * math.exp(-echo / t2)
    if "flip_angle" in parameters:
        flip, e1 = math.radians(parameters["flip_angle"]), math.exp(-repetition / t1)
        return decay * math.sin(flip) * (1 - e1) / (1 - math.cos(flip) * e1)
    lost = 2 * math.exp(-(repetition - echo / 2) / t1) - math.exp(-repetition / t1)
    if "inversion_time" in parameters:
        return decay * (1 - 2 * math.exp(-parameters["inversion_time"] / t1) + lost)
    return decay * (1 - lost)


@pytest.mark.parametrize("contrast", list(BRAIN_SEQUENCES))
def test_the_signal_of_tissues_follows_the_equation_of_the_sequence(sequences, contrast):
    scan = sequences[contrast]
    white, deep, fluid = (
        signal_equation(
            scan.parameters,
            *(
                scan.parameters[f"tissue_{key}"][TISSUE_INDEX[name]]
                for key in ("t1", "t2", "proton_density")
            ),
        )
        for name in ("white", "deep gray", "csf")
    )
    # Where the tissue is alone, in the middle of the head: shading is alike there.
    seen = {}
    for name in ("white", "deep gray", "csf"):
        alone = (scan.labels == TISSUE_INDEX[name]).float()[None]
        alone = 1 - torch.nn.functional.max_pool2d(1 - alone, 5, 1, 2)[0]
        seen[name] = scan.image.abs()[60:132, 60:132][alone[60:132, 60:132] > 0].median().item()
    assert seen["deep gray"] / seen["white"] == pytest.approx(deep / white, rel=0.15)
    assert seen["csf"] / seen["white"] == pytest.approx(abs(fluid) / white, rel=0.15, abs=0.07)


def test_parameters_are_plain_values_that_reproduce_the_scan():
    scan = simulate_brain(9, (48, 48), coils=3, lesions=1)
    assert json.loads(json.dumps(scan.parameters)) == scan.parameters
    again = simulate_brain(
        scan.parameters["seed"],
        (48, 48),
        coils=3,
        contrast=scan.parameters["contrast"],
        snr=scan.parameters["snr"],
        lesions=[
            Lesion(**{key: tuple(v) if isinstance(v, list) else v for key, v in lesion.items()})
            for lesion in scan.parameters["lesions"]
        ],
    )
    assert torch.equal(again.lesions, scan.lesions)
    assert torch.equal(again.kspace, scan.kspace)
    assert again.parameters == scan.parameters


def test_parameters_tell_sequence_and_voxels_in_physical_units(sequences, volume):
    t1 = sequences["T1w"].parameters
    assert t1["sequence"] == SpoiledGradientEcho.__name__
    assert 50 < t1["flip_angle"] < 90  # degrees
    assert 2000 < sequences["FLAIR"].parameters["inversion_time"] < 3000  # ms
    assert 150 < 192 * t1["voxel_size"][0] < 350  # mm
    assert len(volume.parameters["voxel_size"]) == 3
    assert 0.5 <= t1["slice_thickness"] <= 4
    assert volume.parameters["slice_thickness"] == 0


def test_a_slice_is_a_plane_of_the_volume_of_the_same_head(volume):
    plane = simulate_brain(8, (64, 64), coils=4, contrast="T2w", snr=math.inf)
    spacing = volume.parameters["voxel_size"][0]
    assert plane.parameters["voxel_size"] == [spacing, spacing]
    above = plane.parameters["slice_height"] - volume.parameters["slice_height"]
    index = round(24 + above / spacing)
    assert 24 + above / spacing == pytest.approx(index, abs=1e-3)
    # Labels differ only where the slice's thickness blurs a fold.
    assert (volume.labels[index] == plane.labels).float().mean() > 0.97
    assert (volume.labels[index + 2] == plane.labels).float().mean() < 0.95
    skull = torch.isin(plane.labels, torch.tensor([0, 5, 6, 7, 8, 9], dtype=torch.uint8))
    assert torch.equal(volume.labels[index][skull], plane.labels[skull])


def test_a_volume_shows_the_whole_head_or_as_much_as_it_can():
    heights = {"bottom": [], "top": []}
    for planes in (32, 120):
        z = Subject.draw((planes, 96, 96), torch.Generator().manual_seed(5)).axes[0]
        placement = Subject.draw((96, 96), torch.Generator().manual_seed(5)).placement
        heights["bottom"].append(z[0].item() - placement.centre[0])
        heights["top"].append(z[-1].item() - placement.centre[0])
        assert z.abs().min() == 0  # the slice's plane
    assert heights["bottom"][1] < -90 < heights["bottom"][0]
    assert heights["top"][1] > 90 > heights["top"][0]


@pytest.mark.parametrize("seed", range(8))
def test_a_volume_thinner_than_the_head_stays_inside_it_and_holds_the_slice(seed):
    subject = Subject.draw((64, 96, 96), torch.Generator().manual_seed(seed))
    z, scale = subject.axes[0], subject.placement.scale[0]
    heights = (z - subject.placement.centre[0]) / scale
    assert z.abs().min() == 0
    assert heights.min() > -100
    assert heights.max() < 100


def test_the_head_fits_the_field_of_view_in_nearly_all_scans():
    cut = 0
    for seed in range(10):
        labels = simulate_brain(seed, (64, 48), coils=1).labels
        border = torch.cat((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
        cut += (border > 0).float().mean().item() > 0.1
    assert cut <= 1


def offset_of_image_from_labels(scan, axis):
    """In voxels: where a parabola through the likeness at shifts of -1, 0 and 1 is highest."""
    weights = torch.tensor([tissue.proton_density for tissue in BRAIN_TISSUES])
    weights[TISSUE_INDEX["bone"]] = 0  # its signal is gone before the echo
    expected = weights[scan.labels.long()].flatten()
    shifted = (scan.image.abs().roll(shift, axis).flatten() for shift in (1, 0, -1))
    before, here, after = (torch.corrcoef(torch.stack((s, expected)))[0, 1] for s in shifted)
    return ((before - after) / (2 * (before - 2 * here + after))).item()


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_image_and_labels_lie_on_the_same_voxels(size):
    scans = [simulate_brain(seed, size, 1, "PDw", math.inf) for seed in range(5, 15)]
    for axis in scans[0].axes:
        offsets = [offset_of_image_from_labels(scan, axis) for scan in scans]
        assert np.mean(offsets) == pytest.approx(0, abs=0.2)  # single ones: shading pulls


def test_image_and_labels_of_volumes_of_odd_and_even_sizes_lie_alike():
    odd, even = (
        simulate_brain(5, size, 1, "PDw", math.inf) for size in ((33, 33, 41), (32, 32, 40))
    )
    for axis in odd.axes:
        offset = offset_of_image_from_labels(even, axis)
        assert offset_of_image_from_labels(odd, axis) == pytest.approx(offset, abs=0.15)


def test_partial_fourier_leaves_the_end_of_the_last_axis_empty():
    full = simulate_brain(3, SIZE, 2, snr=math.inf)
    part = simulate_brain(3, SIZE, 2, snr=math.inf, partial_fourier=0.7)
    assert torch.equal(part.kspace[..., :56], full.kspace[..., :56])
    assert torch.count_nonzero(part.kspace[..., 56:]) == 0
    assert part.parameters["partial_fourier"] == 0.7


def test_a_coil_array_is_used_as_it_is():
    array = CoilArray(6, arcs=((60.0, 120.0),), jitter=0.0)
    scan = simulate_brain(3, (64, 64), array)
    subject = Subject.draw((64, 64), head_stream(3))
    _, down, aside = subject.placement.centre
    around = (subject.axes[0], subject.axes[1] - down, subject.axes[2] - aside)
    expected, _ = coil_maps(around, array, torch.Generator().manual_seed(0))
    torch.testing.assert_close(scan.maps[0].abs(), expected[:, 0].abs())


@pytest.mark.parametrize("size", [(200, 60), (60, 200)])
def test_a_head_lies_at_most_40_mm_off_the_middle_of_a_long_field_of_view(size):
    offsets = []
    for seed in range(40):
        placement = Subject.draw(size, torch.Generator().manual_seed(seed)).placement
        offsets += [abs(offset) for offset in placement.centre[1:]]
    assert 30 < max(offsets) <= 40


def test_flair_suppresses_fluid_at_all_sites():
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        tissues = draw_tissues(generator)
        sequence = Protocol.draw("FLAIR", tissues, generator).sequence
        parameters = vars(sequence)
        fluid, white = (
            signal_equation(parameters, *tissues[:, TISSUE_INDEX[name]].tolist())
            for name in ("csf", "white")
        )
        assert abs(fluid) < 0.4 * white
        null = BRAIN_TISSUES[TISSUE_INDEX["csf"]]
        times = [parameters["inversion_time"] * share for share in (0.96, 1.04)]
        early, late = (
            signal_equation(
                {**parameters, "inversion_time": time}, null.t1, null.t2, null.proton_density
            )
            for time in times
        )
        assert early < 0 < late


@pytest.mark.parametrize("scan", ["lesioned", "volume"])
def test_lesions_lie_in_the_brain_and_are_masked(scan, request):
    scan = request.getfixturevalue(scan)
    scan = scan["T2w"] if isinstance(scan, dict) else scan
    assert len(scan.parameters["lesions"]) == 3
    brain = [TISSUE_INDEX[name] for name in ("white", "gray", "deep gray")]
    inside = torch.isin(scan.labels, torch.tensor(brain, dtype=torch.uint8))
    assert scan.lesions.sum() > 10
    assert (scan.lesions & ~inside).sum() <= 0.03 * scan.lesions.sum()  # mixed voxels


def test_lesions_are_bright_on_t2w_and_flair_and_dark_on_t1w(lesioned):
    for contrast, brighter in (("T2w", True), ("FLAIR", True), ("T1w", False)):
        scan = lesioned[contrast]
        lesion = scan.image.abs()[scan.lesions].median()
        white = tissue_signal(scan, "white", scan.lesions)
        assert lesion > 1.1 * white if brighter else lesion < 0.95 * white


def test_lesions_change_neither_head_nor_coils_nor_protocol(sequences, lesioned):
    for name, plain in sequences.items():
        assert torch.equal(lesioned[name].labels, plain.labels)
        assert torch.equal(lesioned[name].maps, plain.maps)
        same = {"lesions"} ^ plain.parameters.keys()
        assert all(lesioned[name].parameters[key] == plain.parameters[key] for key in same)
        away = ~torch.nn.functional.max_pool2d(lesioned[name].lesions[None].float(), 31, 1, 15)[
            0
        ].bool()
        ratio = (lesioned[name].image / plain.image)[away & (plain.labels == TISSUE_INDEX["white"])]
        assert (ratio / ratio.mean() - 1).abs().median() < 0.01


def test_position_and_size_of_a_lesion_are_recovered_from_its_mask():
    lesion = Lesion((30.0, 10.0, 22.0), (9.0, 8.0, 6.0), irregularity=0.0)
    size = (64, 64, 64)
    scan = simulate_brain(2, size, 1, "PDw", lesions=[lesion])
    subject = Subject.draw(size, head_stream(2))
    grid = subject.head.coordinates(subject.axes)
    white = scan.labels[scan.lesions] == TISSUE_INDEX["white"]
    for coordinate, middle, radius in zip(grid, lesion.position, lesion.size, strict=True):
        inside = coordinate[scan.lesions]
        assert inside.mean().item() == pytest.approx(middle, abs=2)
        assert inside.max().item() == pytest.approx(middle + radius, abs=3)
        assert inside.min().item() == pytest.approx(middle - radius, abs=3)
    assert white.float().mean() > 0.5
    found = scan.lesions.sum() * scan.parameters["voxel_size"][0] ** 3
    stretch = math.prod(subject.placement.scale)
    full = 4 / 3 * math.pi * math.prod(lesion.size) * stretch
    assert 0.7 * full < found < 1.1 * full


def test_lesions_of_a_slice_are_in_the_slice():
    for seed in range(4):
        scan = simulate_brain(seed, (96, 96), 1, "FLAIR", lesions=2)
        assert scan.lesions.any()
        positions = [lesion["position"] for lesion in scan.parameters["lesions"]]
        assert len({tuple(position) for position in positions}) == 2


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (32, 32, 32), (192, 192)])
def test_lesions_are_found_deep_in_the_white_matter_of_scans_of_any_size(size):
    for seed in range(30 if len(size) == 2 else 10):
        generator = torch.Generator().manual_seed(seed)
        subject = Subject.draw(size, generator)
        white = subject.tissue("white")
        lesions = draw_lesions(subject.head, subject.axes, white, 3, generator)
        positions = {lesion.position for lesion in lesions}
        assert len(positions) == 3
        assert all(-25 < position[0] < 70 for position in positions)
        assert all(math.hypot(*position) < 80 for position in positions)


def test_a_plane_is_searched_for_white_matter_once(monkeypatch):
    subject = Subject.draw((64, 64), torch.Generator().manual_seed(0))
    paint, painted = subject.head.paint, []
    monkeypatch.setattr(subject.head, "paint", lambda axes: painted.append(1) or paint(axes))
    draw_lesions(subject.head, subject.axes, (900.0, 70.0, 0.7), 9, torch.Generator())
    assert len(painted) == 1


def test_a_scan_above_the_head_shows_no_white_matter():
    subject = Subject.draw((64, 64), torch.Generator().manual_seed(0))
    axes = (subject.axes[0] + 300, *subject.axes[1:])
    with pytest.raises(ValueError, match="no white matter"):
        draw_lesions(subject.head, axes, (900.0, 70.0, 0.7), 1, torch.Generator())


def test_a_number_of_lesions_may_be_numpys():
    scans = [simulate_brain(1, (48, 48), 1, lesions=count) for count in (2, np.int64(2))]
    assert scans[0].parameters == scans[1].parameters
    assert len(scans[0].parameters["lesions"]) == 2


def test_arguments_of_the_wrong_type_are_refused_with_what_is_right():
    with pytest.raises(TypeError, match="sequence of names, got the string 'T1w'"):
        simulate_brain_sequences(0, (48, 48), contrasts="T1w")
    for lesions in (1.5, [(1.0, 2.0, 3.0)], "2"):
        with pytest.raises(TypeError, match="whole number or a sequence of Lesion"):
            simulate_brain(0, (48, 48), lesions=lesions)


def test_a_lesion_of_no_size_or_no_time_is_refused():
    with pytest.raises(ValueError, match="must be positive, got Lesion"):
        Lesion((0.0, 0.0, 0.0), size=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="must be positive, got Lesion"):
        Lesion((0.0, 0.0, 0.0), t1=-1.0)


@pytest.mark.slow
def test_a_volume_takes_less_than_three_times_the_memory_of_its_kspace():
    from gleam.memory import PeakMemory

    simulate_brain(0, (32, 32), coils=1)
    with PeakMemory() as peak:
        scan = simulate_brain(0, (32, 96, 96), coils=8)
    assert peak.bytes < 3 * scan.kspace.nbytes
    assert peak.bytes > 2 * scan.kspace.nbytes  # k-space and maps at least: it was measured


def test_simulation_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    simulate_brain(0, (48, 48), coils=2, lesions=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrast": "T3w"}, "one of T1w, T2w, PDw, FLAIR, got 'T3w'"),
        ({"size": (256, 16)}, r"at least 32, got \(256, 16\)"),
        ({"size": (64,)}, r"\(y, x\) or \(z, y, x\)"),
        ({"coils": 0}, "at least one coil"),
        ({"snr": -0.1}, "must be positive .*, got -0.1"),
        ({"snr": math.nan}, "must be positive .*, got nan"),
        ({"lesions": -1}, "must not be negative, got -1"),
        ({"partial_fourier": 0.4}, "above 0.5 and up to 1"),
    ],
)
def test_impossible_scans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_brain(0, **{"size": (48, 48), **arguments})


def test_a_scan_cannot_be_changed_by_accident(noiseless):
    assert isinstance(noiseless, SimulatedScan)
    with pytest.raises(AttributeError, match="cannot assign"):
        noiseless.labels = noiseless.labels + 1
