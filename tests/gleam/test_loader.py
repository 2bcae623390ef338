"""Batches as a pure function of seed and position: order, masks, slabs, shapes, bad files."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gleam.batch import Batch, collate
from gleam.data import DataError, Example, Feed, Loader
from gleam.data.loader import mask_drawer
from physics.masks import acceleration, calibration_size, poisson_disc
from tests.helpers import normal

ROOT = Path(__file__).resolve().parents[2]


def scans(count: int = 5, slices: int = 1, size: tuple[int, int] = (32, 36)) -> "Scans":
    return Scans(count, slices, size)


class Scans:
    """Examples with nothing but noise; every slice of scan ``n`` is called ``scan-n``."""

    def __init__(self, count: int, slices: int, size: tuple[int, int]) -> None:
        self.scans = [f"scan-{number}" for number in range(count)]
        maps = normal(1, 2, *size, seed=99)
        self.examples = [
            Example.from_maps(normal(2, *size, seed=n * slices + s), maps, self.scans[n])
            for n in range(count)
            for s in range(slices)
        ]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(example.kspace.shape) for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def loader(source: Scans, seed: int = 3, accelerations=(2.0,), **settings) -> Loader:
    return Loader(source, mask_drawer(["random_columns"], accelerations, 8), seed, **settings)


def which(source: Scans, batch: Batch) -> list[int]:
    """The examples that a batch is made of."""
    targets = batch.rescale(batch.target)
    return [
        min(range(len(source)), key=lambda n: float((source[n].target - target).norm()))
        for target in targets
    ]


def same_batches(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("kspace", "mask", "maps", "target", "scale")
    )


def test_training_batches_are_a_pure_function_of_seed_and_iteration():
    source = scans()
    settings = {"slab": 20, "accelerations": (2.0, 3.0)}
    one, other = loader(source, **settings), loader(source, **settings)
    forward = [one.training(iteration, 2, 2) for iteration in range(8)]
    backward = [other.training(iteration, 2, 2) for iteration in reversed(range(8))]
    for left, right in zip(forward, reversed(backward), strict=True):
        assert same_batches(left, right)
    assert not same_batches(forward[0], loader(source, seed=4, **settings).training(0, 2, 2))


def test_every_epoch_visits_each_example_once_in_a_new_order():
    source = scans(6)
    order = [
        number
        for iteration in range(6)
        for batch in loader(source).training(iteration, 2, 2)
        for number in which(source, batch)
    ]
    epochs = [tuple(order[first : first + 6]) for first in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_batches_that_straddle_epochs_skip_nothing():
    source = scans(5)
    made = [loader(source).training(iteration, 3) for iteration in range(5)]
    order = [number for batches in made for number in which(source, batches[0])]
    assert sorted(order) == sorted(3 * list(range(5)))


def test_every_visit_draws_a_fresh_mask():
    one = loader(scans(1))
    masks = {tuple(one.training(n)[0].mask.flatten().tolist()) for n in range(20)}
    assert len(masks) == 20


def test_slow_masks_come_from_a_pool():
    pooled, fresh = loader(scans(1), mask_pool=3), loader(scans(1))
    masks = [pooled.training(n)[0].mask for n in range(9)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 3
    assert torch.equal(masks[0], fresh.training(0)[0].mask)


def test_accelerations_of_a_list_are_all_drawn():
    one = loader(scans(2), accelerations=(2.0, 3.0))
    found = [acceleration(one.training(n)[0].mask[0, 0]) for n in range(40)]
    assert {round(value) for value in found} == {2, 3}
    assert 8 < sum(value < 2.5 for value in found) < 32


def test_masks_keep_their_calibration_lines():
    mask = loader(scans(1)).training(0)[0].mask[0, 0]
    assert calibration_size(mask, (32, 36))[1] >= 8


def test_batches_are_normalised_and_hold_only_what_was_sampled():
    batch = loader(scans()).training(0, 3)[0]
    assert torch.equal(batch.kspace, batch.kspace * batch.mask)
    levels = batch.zero_filled.abs().flatten(1).kthvalue(1 + round(0.95 * (32 * 36 - 1))).values
    assert torch.allclose(levels, torch.ones(3), atol=1e-5)


def test_fixed_masks_are_the_same_for_all_slices_of_a_scan_and_differ_between_scans():
    masks: dict[str, list[Tensor]] = {}
    for example, batch in loader(scans(4, slices=3)).fixed():
        masks.setdefault(example.scan, []).append(batch.mask)
    assert [len(group) for group in masks.values()] == [3, 3, 3, 3]
    assert all(torch.equal(group[0], mask) for group in masks.values() for mask in group)
    assert len({tuple(group[0].flatten().tolist()) for group in masks.values()}) == 4


def test_fixed_masks_depend_on_nothing_but_the_name_of_the_scan():
    one = [batch.mask for _, batch in loader(scans(3)).fixed()]
    again = [batch.mask for _, batch in loader(scans(3), seed=55).fixed()]
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_batches_are_the_same_in_every_process():
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
torch.set_num_threads(1)
from tests.gleam.test_loader import loader, scans
one = loader(scans(2), accelerations=(2.0, 3.0), slab=20)
masks = [batch.mask for _, batch in one.fixed()] + [one.training(n)[0].mask for n in range(4)]
kspace = [one.training(n)[0].kspace.abs().double().sum().item() for n in range(4)]
print([mask.flatten().int().tolist() for mask in masks], kspace)
"""
    results = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1
    own = [batch.mask for _, batch in loader(scans(2), accelerations=(2.0, 3.0)).fixed()]
    assert results.pop().startswith(str([m.flatten().int().tolist() for m in own])[:-1])


def test_slabs_move_and_are_cut_for_training_only():
    one = loader(scans(1), slab=12)
    batches = [one.training(n)[0] for n in range(10)]
    assert {batch.target.shape for batch in batches} == {(1, 1, 12, 36)}
    scaled = {round(float(batch.rescale(batch.target).abs().sum()), 2) for batch in batches}
    assert len(scaled) > 3
    assert next(iter(one.fixed()))[1].target.shape == (1, 1, 32, 36)


def test_slabs_without_signal_are_not_drawn():
    source = scans(1)
    source.examples[0].maps[:, :, :28] = 0
    source.examples[0].target[:, :28] = 0
    for iteration in range(20):
        assert loader(source, slab=3).training(iteration)[0].target.any()


def test_slabs_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="a slab of 40 rows does not fit images of 32 rows"):
        loader(scans(1), slab=40).training(0)

    def disc(shape, seed: int) -> Tensor:
        return poisson_disc(shape, 2, 8, seed=1)

    with pytest.raises(ValueError, match=r"slabs need a readout: .* does not vary along it"):
        Loader(scans(1), disc, 3, slab=8).training(0)


def several_shapes() -> Scans:
    source = scans(7)
    for number, size in ((1, (32, 40)), (4, (32, 40)), (6, (24, 36))):
        source.examples[number] = scans(number + 1, size=size).examples[number]
    return source


def test_batches_hold_one_shape_and_visit_all_examples_equally_often():
    source = several_shapes()
    one = loader(source)
    visits: list[int] = []
    for iteration in range(7):  # batches of 3: three epochs
        batch = one.training(iteration, 3)[0]
        shape = tuple(batch.kspace.shape[1:])
        alike = [n for n in range(7) if source.shapes[n] == shape]
        visits += which_of(source, batch, alike)
    assert sorted(visits) == sorted(3 * list(range(7)))


def which_of(source: Scans, batch: Batch, numbers: list[int]) -> list[int]:
    targets = batch.rescale(batch.target)
    return [
        min(numbers, key=lambda n: float((source[n].target - target).norm())) for target in targets
    ]


def test_shapes_take_turns_in_an_order_of_their_own_each_epoch():
    one = loader(several_shapes())
    widths = [tuple(one.training(n)[0].kspace.shape[-2:]) for n in range(21)]
    epochs = [tuple(widths[first : first + 7]) for first in (0, 7, 14)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs)) > 1


class Damaged(Scans):
    """Some examples cannot be read."""

    bad: tuple[int, ...] = (1, 3)

    def __getitem__(self, index: int) -> Example:
        if index in self.bad:
            raise DataError(f"scan {index} is damaged")
        return super().__getitem__(index)


def test_a_bad_example_stops_training_unless_it_is_to_be_skipped():
    source = Damaged(5, 1, (32, 36))
    with pytest.raises(DataError, match=r"scan [13] is damaged"):
        [loader(source).training(n) for n in range(5)]
    with pytest.raises(DataError, match="scan 1 is damaged"):
        list(loader(source).fixed())


def test_bad_examples_are_replaced_and_listed_when_they_are_to_be_skipped():
    source = Damaged(5, 1, (32, 36))
    one = loader(source, skip_bad=True)
    found = [n for i in range(5) for n in which_of(source, one.training(i)[0], [0, 2, 4])]
    assert sorted(found) == [0, 2, 2, 4, 4]  # 1 becomes 2, 3 becomes 4
    assert sorted(one.skipped) == ["scan 1 is damaged", "scan 3 is damaged"]
    assert [example.scan for example, _ in one.fixed()] == ["scan-0", "scan-2", "scan-4"]


def test_nothing_but_bad_examples_is_an_error_that_says_why():
    source = Damaged(2, 1, (32, 36))
    source.bad = (0, 1)
    with pytest.raises(DataError, match=r"no example of shape .* scan 0 is damaged"):
        loader(source, skip_bad=True).training(0)
    with pytest.raises(DataError, match="no example can be used; scan 0 is damaged; scan 1"):
        list(loader(source, skip_bad=True).fixed())


def test_examples_may_differ_in_what_was_acquired():
    source = scans(2)
    rows = torch.ones(32, 1)
    rows[25:] = 0
    source.examples[1] = replace(source.examples[1], acquired=rows)
    batch = loader(source).training(0, 2)[0]
    assert batch.mask.shape == (2, 1, 32, 36)
    place = which(source, batch).index(1)
    assert not batch.mask[place, 0, 25:].any()
    assert batch.mask[1 - place, 0, 25:].any()
    assert torch.equal(batch.kspace, batch.kspace * batch.mask)


def test_some_examples_can_be_asked_for():
    found = [example.scan for example, _ in loader(scans(4)).fixed([3, 1])]
    assert found == ["scan-3", "scan-1"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_deliver_the_same_batches_in_the_same_order(workers: int):
    source = several_shapes()
    wanted = [loader(source, slab=8).training(n, 2, 2) for n in range(3, 8)]
    got = list(loader(source, slab=8).stream(3, 8, 2, 2, workers))
    assert len(got) == 5
    assert all(same_batches(a, b) for a, b in zip(got, wanted, strict=True))


def test_errors_and_skipped_scans_come_back_from_workers():
    source = Damaged(5, 1, (32, 36))
    with pytest.raises(DataError, match=r"^scan [13] is damaged$"):
        list(loader(source).stream(0, 5, workers=1))
    one = loader(source, skip_bad=True)
    assert len(list(one.stream(0, 5, workers=1))) == 5
    assert sorted(one.skipped) == ["scan 1 is damaged", "scan 3 is damaged"]


class Interrupted(Scans):
    """Sends its process what Ctrl-C sends to all processes of a terminal."""

    def __getitem__(self, index: int) -> Example:
        os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


def test_interrupts_are_left_to_the_process_that_trains():
    assert len(list(loader(Interrupted(2, 1, (32, 36))).stream(0, 2, workers=1))) == 2


@pytest.mark.parametrize("frames", [False, True])
def test_slabs_of_volumes_and_cines_run_along_their_readout(frames: bool):
    source = scans(1)
    size = (1, 32, 36) if frames else (6, 32, 36)
    maps = normal(1, 2, *size, seed=3)
    source.examples[0] = Example.from_maps(normal(2, 6, 32, 36), maps, "a")
    shape = loader(source, slab=4).training(0)[0].kspace.shape
    assert shape == ((1, 2, 6, 4, 36) if frames else (1, 2, 4, 32, 36))


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 4), (4, 1), (4, 3), (2, 2)])
def test_shares_together_are_the_whole(batch_size: int, accumulate: int):
    """Whole batches where they can be divided by the two shares, else half of every batch."""
    whole = Feed(loader(scans()), batch_size, accumulate)
    shares = [list(whole.shared(number, 2)(3, 5)) for number in range(2)]
    for iteration, batches in enumerate(whole(3, 5)):
        halves = [share[iteration] for share in shares]
        if accumulate % 2 == 0:
            assert same_batches([*halves[0], *halves[1]], batches)
        else:
            assert same_batches([collate(pair) for pair in zip(*halves, strict=True)], batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_shares_that_are_not_equal_are_refused(workers: int):
    feed = Feed(loader(scans()), batch_size=3, accumulate=1, workers=workers).shared(0, 2)
    with pytest.raises(ValueError, match=r"2 replicas need equal shares.* 1, or of images .*\[3\]"):
        next(feed(0, 1))
