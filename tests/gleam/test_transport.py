"""States, weights and batches on their way between processes."""

from collections import OrderedDict
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from gleam.batch import Batch
from gleam.parallel.transport import pack, to_arrays, to_tensors, unpack
from tests.gleam import tiny
from tests.helpers import make_batch, normal, uniform


class State(NamedTuple):
    image: Tensor
    kspace: Tensor


def assert_same_batch(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        assert tiny.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.int64]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_come_back_with_type_shape_and_values(kind: torch.dtype, shape: tuple[int, ...]):
    tensor = (10 * uniform(*shape)).to(kind)
    array = to_arrays(tensor)
    assert isinstance(array, np.ndarray)
    assert array.shape == shape
    assert np.array_equal(array, np.asarray(tensor.tolist()).reshape(shape).astype(array.dtype))
    assert tiny.equal(to_tensors(array), tensor)


def test_containers_and_plain_values_stay_what_they_are():
    tree: dict[str, Any] = {
        "state": State(normal(2, seed=1), normal(3, seed=2)),
        "list": [uniform(2), None, "adam"],
        "tuple": (1, 2.5, True),
        "ordered": OrderedDict(b=uniform(1), a=uniform(2)),
    }
    back = to_tensors(to_arrays(tree))
    assert tiny.equal(back, tree)
    assert isinstance(back["state"], State)
    assert list(back["ordered"]) == ["b", "a"]
    assert back["tuple"] == (1, 2.5, True)
    assert back["tuple"][2] is True


def test_nothing_is_copied_on_the_way_there_and_back():
    tensor = normal(4, 5)
    array = to_arrays(tensor)
    assert array.ctypes.data == tensor.data_ptr() == to_tensors(array).data_ptr()


def test_lazy_views_are_written_out():
    tensor = normal(3, 4)
    assert np.array_equal(to_arrays(tensor.conj()), np.conj(tensor.numpy()))
    assert np.array_equal(to_arrays(tensor.conj().imag), -tensor.numpy().imag)
    assert np.array_equal(to_arrays(tensor.mT), tensor.numpy().T)


def test_parameters_travel_without_their_gradients():
    weight = nn.Parameter(uniform(3))
    back = to_tensors(to_arrays({"weight": weight * 2}))["weight"]
    assert not back.requires_grad
    assert torch.equal(back, 2 * weight.detach())


def test_types_that_numpy_lacks_travel_as_tensors():
    half = uniform(3).bfloat16()
    arrays = to_arrays({"half": half})
    assert isinstance(arrays["half"], Tensor)
    assert tiny.equal(to_tensors(arrays), {"half": half})


def test_an_optimizers_state_travels_whole():
    weight = nn.Parameter(uniform(3))
    optimizer = Adam([weight], lr=0.1, amsgrad=True)
    weight.square().sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert tiny.equal(to_tensors(to_arrays(state)), state)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_batch_is_packed_whole(dynamic: bool):
    space = (3, 6, 5) if dynamic else (6, 5)
    batch = make_batch(*space, batch=2, dynamic=dynamic)
    assert_same_batch(unpack(pack(batch)), batch)
    scaled = batch.normalised()
    assert scaled.scale is not None
    assert_same_batch(unpack(pack(scaled)), scaled)
    assert_same_batch(
        unpack(pack(Batch(batch.kspace, batch.mask, batch.maps))),
        Batch(batch.kspace, batch.mask, batch.maps),
    )
