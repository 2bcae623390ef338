import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gleam.storages import (
    ACTIVATIONS,
    GRADIENTS,
    INPUTS,
    KINDS,
    OPTIMIZER,
    PARAMETERS,
    LiveStorages,
)
from models.resnet import ConvNet
from tests.helpers import seeded

N = 1000
BYTES = 4 * N


def parts(**sizes: int) -> list[int]:
    return [sizes.get(kind, 0) for kind in KINDS]


def test_known_tensors_count_in_the_total_and_not_as_new():
    weight, data = torch.ones(N), torch.ones(2 * N)
    with LiveStorages({PARAMETERS: [weight], INPUTS: [data]}) as live:
        weight.exp()
    assert (live.peak, live.total) == (BYTES, 4 * BYTES)
    assert live.parts == parts(parameters=BYTES, inputs=2 * BYTES, activations=BYTES)


def test_a_storage_counts_once_under_the_first_kind_it_is_given_as():
    data = torch.ones(10, N)
    with LiveStorages({PARAMETERS: [data[0], data[1]], INPUTS: [data, data.T]}) as live:
        pass
    assert live.parts == parts(parameters=10 * BYTES)
    assert live.total == 10 * BYTES


def test_known_memory_borrowed_from_numpy_counts():
    data = torch.from_numpy(torch.ones(N).numpy())
    with LiveStorages({INPUTS: [data]}) as live:
        data + 1
    assert live.parts == parts(inputs=BYTES, activations=BYTES)


def test_the_total_falls_when_something_known_is_freed_and_the_peak_of_the_new_does_not():
    gradient = [torch.ones(2 * N)]
    with LiveStorages({GRADIENTS: gradient}) as live:
        gradient.clear()
        kept = torch.ones(N)
        kept.exp()
    assert live.total == live.peak == 2 * BYTES
    # Both instants have the same size; the first one stands.
    assert live.parts == parts(gradients=2 * BYTES)


def test_parts_are_those_of_the_instant_of_the_peak_whatever_comes_after():
    with LiveStorages() as live:
        first, second = torch.ones(N), torch.ones(N)
        live.move(first, GRADIENTS)
        third = torch.ones(N)
        del second
        live.move(third, OPTIMIZER)
        torch.ones(N - 1)
    assert live.parts == parts(gradients=BYTES, activations=2 * BYTES)


def test_what_was_moved_is_freed_from_where_it_is_now():
    with LiveStorages() as live:
        moved = torch.ones(3 * N)
        live.move(moved, GRADIENTS)
        del moved
        torch.ones(4 * N)
    assert live.parts == parts(activations=4 * BYTES)


def test_moving_what_is_not_counted_does_nothing():
    old = torch.ones(N)
    with LiveStorages() as live:
        live.move(old, GRADIENTS)
        torch.ones(N)
    assert live.parts == parts(activations=BYTES)


def test_new_storages_count_as_the_kind_that_is_set():
    with LiveStorages() as live:
        live.kind = OPTIMIZER
        state = torch.ones(N)
        live.kind = ACTIVATIONS
        state.exp()
    assert live.parts == parts(optimizer=BYTES, activations=BYTES)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.split(10),
        lambda x: x.unbind(),
        lambda x: x.view(10, -1),
        lambda x: torch.ops.aten._unsafe_view(x, [10, -1]),
        lambda x: x.detach(),
        lambda x: x.relu_(),
        lambda x: torch.add(x, 1, out=x),
        lambda x: torch._foreach_add_([x], 1),
        lambda x: x.sum().item(),
        lambda x: x.to(torch.float32).contiguous(),
    ],
)
def test_views_of_old_tensors_and_operations_in_place_make_nothing(make):
    old = torch.ones(N)
    with LiveStorages() as live:
        made = make(old)
    assert live.peak <= 4  # of the sum
    del made


def test_results_in_lists_count_once_each():
    old = [torch.ones(N), torch.ones(2 * N)]
    with LiveStorages() as live:
        made = torch._foreach_add(old, 1)
    assert live.peak == 3 * BYTES
    with LiveStorages() as live:
        made = torch.sort(old[0])  # values and int64 indices
    assert live.peak == BYTES + 8 * N
    del made


def test_sparse_tensors_have_no_storage_to_count():
    with LiveStorages() as live:
        torch.ones(N).to_sparse()
    # What it is made from: the dense tensor, int64 indices and values have storages.
    assert BYTES <= live.peak <= 5 * BYTES


def test_tensors_on_other_devices_do_not_count():
    with LiveStorages() as live:
        torch.ones(N, device="meta").exp()
    assert live.total == 0


def test_nothing_is_watched_behind_the_block():
    with LiveStorages() as live:
        kept = torch.ones(N)
    watched = weakref.ref(live)
    assert weakref.getweakrefcount(kept.untyped_storage()) == 0
    del live
    assert watched() is None


def test_fake_tensors_count_as_those_they_stand_for():
    def step() -> tuple[int, list[int]]:
        network = ConvNet(channels=2, features=4, layers=4)
        image = torch.ones(1, 2, 16, 16)
        with LiveStorages({PARAMETERS: network.parameters(), INPUTS: [image]}) as live:
            network(image).square().sum().backward()
        return live.peak, live.parts

    with seeded():
        real = step()
    with FakeTensorMode():
        fake = step()
    assert fake == real
    assert real[0] > 3 * 4 * 4 * 256  # the hidden images that are stored


def test_fake_tensors_take_no_memory():
    with FakeTensorMode(), LiveStorages() as live:
        terabyte = torch.ones(1 << 38)
        terabyte.exp()
    assert live.peak == 2 << 40
