"""What brain, knee and heart have in common."""

import math

import numpy as np
import pytest

from physics import receive
from physics.brain import simulate_brain
from physics.heart import simulate_heart
from physics.knee import simulate_knee
from physics.receive import CoilArray

SIMULATORS = {"brain": simulate_brain, "knee": simulate_knee, "heart": simulate_heart}


@pytest.fixture
def loops(monkeypatch):
    """Axes and centre, both z, y, x [mm], of every loop of which the field is computed."""
    seen, field = [], receive._loop

    def spy(axes, position, normal, radius):
        seen.append((axes, position))
        return field(axes, position, normal, radius)

    monkeypatch.setattr(receive, "_loop", spy)
    return seen


def is_inside(body, axes, position):
    """Whether the point of bool ``(z, y, x)`` that is next to a position is marked."""
    index = [
        round((at - axis[0].item()) / (axis[1] - axis[0]).item()) if len(axis) > 1 else 0
        for axis, at in zip(axes, position, strict=True)
    ]
    held = all(0 <= i < n for i, n in zip(index, body.shape, strict=True))
    return held and bool(body[tuple(index)])


@pytest.mark.parametrize(
    ("simulate", "size"),
    [
        *((simulate_brain, size) for size in ((64, 64), (96, 48), (48, 96), (48, 32, 64))),
        *((simulate_heart, size) for size in ((1, 64, 64), (1, 96, 48), (1, 48, 96))),
    ],
)
def test_no_coil_lies_inside_the_body(simulate, size, loops):
    seeds = range(40, 60) if len(size) == 2 or size[0] == 1 else range(4)
    for seed in seeds:
        body = simulate(seed, size, 12).labels > 0
        body = body[None] if body.ndim == 2 else body
        assert len(loops) == 12
        assert not any(is_inside(body, *loop) for loop in loops), seed
        loops.clear()


def test_a_slice_of_a_knee_is_nearer_to_the_coil_on_its_side_of_the_leg():
    # A coil on the patient's left, +z, and one on the right; rings run along the leg.
    sides = CoilArray(2, arcs=((80.0, 100.0), (260.0, 280.0)), jitter=0.0)
    for seed in range(6):
        scan = simulate_knee(seed, (32, 32), sides)
        left, right = scan.maps[0].abs().mean((1, 2)).tolist()
        outwards = 1 if scan.parameters["side"] == "left" else -1
        assert (left > right) == (outwards * scan.parameters["slice_position"] > 0), seed


@pytest.mark.parametrize(
    ("anatomy", "painting"), [("brain", "_see"), ("knee", "_scan"), ("heart", "_frames")]
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coils": 0}, "at least one coil"),
        ({"snr": -1.0}, "SNR must be positive"),
        ({"partial_fourier": 0.5}, "above 0.5"),
        ({"partial_fourier": 0.51}, "keep the central of the 32 lines"),
    ],
)
def test_impossible_scans_are_refused_before_anything_is_painted(
    anatomy, painting, arguments, message, monkeypatch
):
    def paint(*_):
        raise AssertionError("painted first")

    monkeypatch.setattr(f"physics.{anatomy}.{painting}", paint)
    size = (1, 40, 32) if anatomy == "heart" else (40, 32)
    with pytest.raises(ValueError, match=message):
        SIMULATORS[anatomy](0, **{"size": size, "coils": 2, **arguments})


@pytest.mark.parametrize(
    ("anatomy", "size", "coils"),
    [
        *((name, (32, 32), coils) for name in ("brain", "knee") for coils in (1, 64)),
        *(("heart", (1, 32, 32), coils) for coils in (1, 64)),
        *(("brain", size, 3) for size in ((33, 97), (128, 32), (33, 32, 35))),
        *(("knee", size, 3) for size in ((33, 97), (128, 32), (8, 33, 45), (48, 32, 32))),
        *(("heart", size, 3) for size in ((2, 33, 97), (1, 128, 32))),
    ],
)
def test_scans_of_extreme_sizes_are_finite_and_show_a_body(anatomy, size, coils):
    scan = SIMULATORS[anatomy](7, size, coils)
    assert scan.kspace.shape == (coils, *size)
    for tensor in (scan.kspace, scan.image, scan.maps):
        assert tensor.isfinite().all()
    body = scan.image.abs()[scan.labels > 0].numpy()
    assert len(body) > 0.1 * scan.labels.numel()
    assert np.percentile(body, 95) == pytest.approx(1, abs=0.03)
    numbers = [v for v in scan.parameters.values() if isinstance(v, int | float)]
    assert all(math.isfinite(value) for value in numbers)


@pytest.mark.parametrize("simulate", SIMULATORS.values(), ids=SIMULATORS)
def test_voxel_size_has_one_number_for_each_spatial_axis(simulate):
    size = (2, 32, 40) if simulate is simulate_heart else (32, 40)
    voxel_size = simulate(0, size, 1).parameters["voxel_size"]
    assert len(voxel_size) == 2
    assert min(voxel_size) > 0
