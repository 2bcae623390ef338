import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from gleam.memory import PeakMemory, process_peak_rss
from tests.helpers import seeded

N = 1000
BYTES = 4 * N


def peak(function) -> int:
    with PeakMemory() as result:
        function()
    return result.bytes


def chain(x: torch.Tensor, operations: int) -> torch.Tensor:
    for _ in range(operations):
        x = x.sigmoid()
    return x


@pytest.fixture
def x() -> torch.Tensor:
    return torch.ones(N)


@pytest.fixture
def w() -> torch.Tensor:
    return torch.ones(N, requires_grad=True)


def test_one_operation_costs_its_output(x):
    assert peak(lambda: x.exp()) == BYTES
    assert peak(lambda: x.to(torch.complex64)) == 2 * BYTES


def test_without_gradients_a_chain_holds_two_tensors_and_with_them_all(x, w):
    assert peak(lambda: chain(x, 10)) == 2 * BYTES
    assert peak(lambda: chain(w, 10)) == 10 * BYTES


def test_the_backward_pass_is_seen(w):
    # Ten saved outputs, the sum and its unit gradient (4 bytes each), one gradient under way.
    assert peak(lambda: torch.autograd.grad(chain(w, 10).sum(), w)) == 11 * BYTES + 8


def test_gradients_of_parameters_count_when_they_are_new_and_only_then(w):
    def accumulate() -> None:
        (2 * w).sum().backward()

    # 2w lives until sum is done; then the gradient 2, kept as w.grad.
    first = peak(accumulate)
    assert w.grad is not None
    assert first == BYTES + 8

    def keep_two() -> list[torch.Tensor]:
        w.grad = None
        accumulate()
        return [w.exp().detach()]

    assert peak(keep_two) == 2 * BYTES


def test_checkpointing_holds_segment_inputs_and_one_recomputed_segment(w):
    def checkpointed() -> None:
        h = w
        for _ in range(4):
            h = checkpoint(chain, h, 5, use_reentrant=False)
        h.sum().backward()

    plain = peak(lambda: chain(w, 20).sum().backward())
    w.grad = None
    # Four segment outputs, five recomputed activations, one gradient, the sum and its gradient.
    assert peak(checkpointed) == (4 + 5 + 1) * BYTES + 8
    assert plain == (20 + 1) * BYTES + 8


def test_a_convolution_saves_its_input_for_the_backward_pass():
    image = torch.ones(1, 2, 8, 8)
    with seeded():
        first = torch.nn.Conv2d(2, 4, 3, padding=1, bias=False)
        second = torch.nn.Conv2d(4, 1, 3, padding=1, bias=False)
    hidden, output = 4 * 4 * 64, 4 * 64

    def forward() -> torch.Tensor:
        return second(first(image))

    assert peak(forward) == hidden + output

    def three() -> None:
        kept = forward()
        kept.exp()

    assert peak(three) == hidden + 2 * output
    with torch.no_grad():
        assert peak(three) == hidden + output


def test_freed_tensors_are_subtracted(x):
    def one_after_the_other() -> None:
        for _ in range(5):
            y = x.exp()
            del y

    assert peak(one_after_the_other) == BYTES


def test_views_and_in_place_operations_count_nothing(x):
    assert peak(lambda: x.view(10, -1)[1:].T.detach()) == 0
    assert peak(lambda: x.add_(1).mul_(2)) == 0


def test_a_view_keeps_the_whole_storage_alive(x):
    def hold_a_view() -> None:
        view = x.exp()[:1]
        x[:10].exp()
        view.exp()

    assert peak(hold_a_view) == BYTES + 40


def test_a_tensor_from_outside_is_old_even_if_it_enters_late(x, w):
    def alias() -> torch.Tensor:
        chain(x, 2)
        return w.detach().view(10, -1)

    assert peak(alias) == 2 * BYTES


def test_freeing_what_was_there_before_is_no_credit():
    old = [torch.ones(N)]

    def swap() -> torch.Tensor:
        new = old[0].exp()
        old.clear()
        return new.exp()

    assert peak(swap) == 2 * BYTES


def test_an_address_that_is_used_again_counts_again():
    old = [torch.ones(N) for _ in range(50)]

    def swap() -> list[torch.Tensor]:
        for tensor in old:
            tensor.add_(1)
        del tensor
        old.clear()
        return [torch.ones(N) for _ in range(50)]

    assert peak(swap) == 50 * BYTES


def test_factories_and_copies_count_and_memory_borrowed_from_numpy_does_not():
    assert peak(lambda: torch.zeros(N)) == BYTES
    assert peak(lambda: torch.tensor([1.0] * N)) == BYTES
    assert peak(lambda: torch.tensor(np.zeros(N, np.float32))) == BYTES
    assert peak(lambda: torch.from_numpy(np.zeros(N, np.float32))) == 0


def test_the_number_is_the_same_on_every_run():
    with seeded():
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3)
        )

    def step() -> None:
        network.zero_grad(set_to_none=True)
        network(torch.ones(2, 1, 20, 20)).square().mean().backward()

    step()
    values = [peak(step)]
    ballast = [torch.ones(n) for n in range(100)]
    values.append(peak(step))
    del ballast
    gc.collect()
    values.append(peak(step))
    assert len(set(values)) == 1
    assert values[0] > 0


def test_measurements_can_be_nested_and_end_with_their_block(x):
    with PeakMemory() as outer:
        y = x.exp()
        with PeakMemory() as inner:
            z = y.exp()
    y + z
    assert inner.bytes == BYTES
    assert outer.bytes == 2 * BYTES


def test_the_source_travels_with_the_number(x):
    with PeakMemory("cpu") as result:
        assert result.bytes == 0
        x.exp()
    assert result.source == "live CPU storages"


def test_an_error_in_the_block_is_not_hidden_and_ends_the_measurement(x):
    def fail() -> None:
        x.exp()
        raise RuntimeError("mine")

    memory = PeakMemory()
    with pytest.raises(RuntimeError, match="mine"), memory:
        fail()
    assert peak(lambda: x.exp()) == BYTES


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="cpu or cuda"):
        PeakMemory("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_allocator_counts_what_is_new():
    old = torch.ones(1 << 20, device="cuda")
    with PeakMemory("cuda") as result:
        old.exp()
    assert result.bytes == 4 << 20
    assert result.source == "cuda max_memory_allocated"


def test_process_memory_is_plausible_in_bytes_and_comes_with_the_peak(x):
    before = process_peak_rss()
    with PeakMemory() as result:
        x.exp()
    assert 50e6 < before <= result.rss < 1e12


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_the_memory_of_the_process_that_started_this_one_does_not_count():
    large = torch.ones(1 << 28)  # 1 GiB, resident when the child starts
    code = "from gleam.memory import process_peak_rss; print(process_peak_rss())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < large.nbytes < process_peak_rss()
