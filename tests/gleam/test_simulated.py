"""Simulated subjects are scans like any other."""

import pickle

import numpy as np
import pytest

from gleam.data import SimulatedSubject
from gleam.data.examples import stable_seed
from physics.brain import simulate_brain
from physics.heart import simulate_heart
from physics.knee import simulate_knee


def make(name: str = "train-0001", seed: int = 1, **options) -> SimulatedSubject:
    return SimulatedSubject(name, seed, **{"size": (32, 32), "coils": 3, **options})


def test_a_subject_is_the_same_on_every_call_and_in_every_process():
    kspace = make().kspace()
    assert np.array_equal(kspace, make().kspace())
    assert np.array_equal(kspace, pickle.loads(pickle.dumps(make())).kspace())


def test_names_seeds_and_splits_give_other_subjects():
    kspace = make().kspace()
    others = [make("train-0002"), make("test-0001"), make(seed=2)]
    assert not any(np.array_equal(kspace, other.kspace()) for other in others)


@pytest.mark.parametrize(
    ("anatomy", "simulate", "options"),
    [
        ("brain", simulate_brain, {"contrast": "FLAIR", "snr": 50.0}),
        ("knee", simulate_knee, {"contrast": "PDFS", "snr": 50.0}),
    ],
)
def test_a_slice_is_that_of_the_simulator(anatomy: str, simulate, options):
    scan = make(anatomy=anatomy, **options)
    wanted = simulate(stable_seed(1, "train-0001"), (32, 32), 3, **options).kspace
    assert scan.shape == scan.kspace().shape == (1, 3, 32, 32)
    assert np.array_equal(scan.kspace()[0], wanted.numpy())


def test_the_readout_of_a_volume_runs_along_its_slices():
    scan = make(size=(32, 36, 40), snr=float("inf"))
    truth = simulate_brain(stable_seed(1, "train-0001"), (32, 36, 40), 3, snr=float("inf"))
    coil_images = (truth.maps[0] * truth.image).numpy()
    kspace = scan.kspace(slice(5, 7))
    assert scan.shape == (32, 3, 36, 40)
    axes = (-2, -1)
    images = np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho")
    images = np.fft.fftshift(images, axes=axes)
    wanted = coil_images[:, 5:7].swapaxes(0, 1)
    assert np.linalg.norm(images - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_a_heart_is_one_slice_over_time():
    scan = make(anatomy="heart", size=(4, 32, 36))
    wanted = simulate_heart(stable_seed(1, "train-0001"), (4, 32, 36), 3).kspace
    assert scan.dynamic
    assert scan.shape == scan.kspace().shape == (1, 3, 4, 32, 36)
    assert np.array_equal(scan.kspace()[0], wanted.numpy())


def test_it_says_that_it_is_simulated():
    assert make().header == {"simulated": True}


def test_a_slice_of_a_heart_is_one_of_four_frames():
    scans = [make(f"train-{number:04d}", anatomy="heart") for number in range(12)]
    frames = set()
    for scan in scans:
        kspace = scan.kspace()
        assert not scan.dynamic
        assert scan.shape == kspace.shape == (1, 3, 32, 32)
        beat = simulate_heart(stable_seed(1, scan.name), (4, 32, 32), 3).kspace.numpy()
        frames.add([np.array_equal(kspace[0], beat[:, frame]) for frame in range(4)].index(True))
    assert frames == {0, 1, 2, 3}
