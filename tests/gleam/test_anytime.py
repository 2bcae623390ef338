"""A network may be stopped after any step: the image is that of a network with fewer steps."""

from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gleam
from gleam.batch import Batch, collate
from gleam.evaluation import images_by_step, run_network
from models.unrolled import UnrolledNetwork
from physics.masks import random_columns
from tests.gleam import tiny
from tests.helpers import make_batch, make_network, same

STEPS = 6
CHANGES = {"network": {"step": "modl", "steps": 4}, "training": {"iterations": 3}}


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.train(tmp_path_factory.mktemp("runs") / "run", **CHANGES).best


@pytest.fixture(scope="module")
def slices() -> Tensor:
    """Two slices of which the second is sampled so well that steps hardly change it."""
    masks = [random_columns((32, 32), factor, 12, seed=5) for factor in (2.5, 1.02)]
    return torch.stack([tiny.brain_kspace(5) * mask for mask in masks])


def cut(network: UnrolledNetwork, steps: int) -> UnrolledNetwork:
    """The network of the first steps."""
    network.steps = network.steps[:steps]
    return network


@torch.no_grad()
def every_image(network: UnrolledNetwork, batch: Batch) -> list[Tensor]:
    return [*images_by_step(network, batch)]


def stops(images: list[Tensor], fraction: float) -> Tensor:
    """The first image that is closer to the one before it, or the last one: by definition."""
    for before, after in pairwise(images):
        if (after - before).norm() / after.norm() < fraction:
            return after
    return images[-1]


def place(image: Tensor, images: list[Tensor]) -> int:
    """Which of the images it is."""
    return next(k for k, other in enumerate(images) if torch.equal(image, other))


@pytest.mark.parametrize("hidden", [0, 2])
@pytest.mark.parametrize("kind", ["pgd", "modl"])
def test_the_image_after_each_step_is_that_of_a_network_that_ends_there(kind, hidden):
    batch = make_batch(8, 7, batch=2)
    images = every_image(make_network(kind, STEPS, hidden=hidden), batch)
    assert torch.equal(images[0], batch.zero_filled)
    with torch.no_grad():
        wanted = [
            cut(make_network(kind, STEPS, hidden=hidden), k)(batch) for k in range(1, STEPS + 1)
        ]
    assert same(images[1:], wanted)
    for before, after in pairwise(images):
        assert not torch.equal(before, after)


def test_steps_are_taken_when_their_image_is_asked_for():
    network, batch, taken = make_network(steps=STEPS), make_batch(8, 7), []
    for index, step in enumerate(network.steps):
        step.register_forward_hook(lambda *_, index=index: taken.append(index))
    [*islice(images_by_step(network, batch), 3)]
    assert taken == [0, 1]
    run_network(network, batch, steps=3)
    assert taken == [0, 1, 0, 1, 2]


@torch.no_grad()
@pytest.mark.parametrize("fraction", [1e-9, 0.065, 0.3, 10.0])
def test_every_image_of_a_batch_stops_by_itself(fraction):
    network = make_network("modl", STEPS)
    single = [make_batch(8, 7, seed=10 * number) for number in range(3)]
    images = [every_image(network, batch) for batch in single]
    wanted = [stops(each, fraction) for each in images]
    assert same([run_network(network, batch, stop_below=fraction) for batch in single], wanted)
    together = run_network(network, collate(single), stop_below=fraction)
    assert torch.allclose(together, torch.cat(wanted), rtol=1e-4, atol=1e-5)
    taken = {place(image, each) for image, each in zip(wanted, images, strict=True)}
    assert taken == {1e-9: {6}, 0.065: {5, 6}, 0.3: {2}, 10.0: {1}}[fraction]


def test_both_rules_may_stop_a_network():
    network, batch = make_network("modl", STEPS), make_batch(8, 7)
    images = every_image(network, batch)
    assert torch.equal(run_network(network, batch, 2, stop_below=1e-9), images[2])
    assert torch.equal(run_network(network, batch, 2, stop_below=10.0), images[1])
    assert torch.equal(run_network(network, batch, 0, stop_below=10.0), images[0])


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_a_reconstruction_stops_after_the_steps_asked_for(best: Path, slices: Tensor, steps: int):
    image = gleam.reconstruct(best, slices, steps=steps, device="cpu")
    other = gleam.reconstruct(best, slices, device="cpu")
    assert torch.equal(image, other) == (steps == 4)
    shorter = cut(gleam.load(best), steps), tiny.settings(best, **CHANGES)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("gleam.reconstruction.open_network", lambda *_: shorter)
        assert torch.equal(image, gleam.reconstruct(best, slices, device="cpu"))


def test_each_slice_of_a_reconstruction_stops_by_itself(best: Path, slices: Tensor):
    images = [gleam.reconstruct(best, slices, steps=k, device="cpu") for k in range(5)]
    each = [[image[number] for image in images] for number in range(2)]
    stopped = gleam.reconstruct(best, slices, stop_below=0.01, device="cpu")
    assert same([*stopped], [stops(images, 0.01) for images in each])
    assert [place(*pair) for pair in zip(stopped, each, strict=True)] == [4, 2]


def test_what_cannot_stop_a_network_is_refused(best: Path, slices: Tensor):
    for steps in (-1, 5):
        with pytest.raises(ValueError, match=f"steps must be from 0 to 4.*got {steps}"):
            gleam.reconstruct(best, slices, steps=steps, device="cpu")
    for fraction in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="stop_below must be a positive fraction"):
            gleam.reconstruct(best, slices, stop_below=fraction, device="cpu")
