"""The peak of a training step split into its parts, against sums of sizes made by hand."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gleam.batch import Batch
from gleam.build import build_network, build_strategy
from gleam.config import load_config
from gleam.memory import PeakMemory
from gleam.strategies import STRATEGIES, Strategy
from tests.helpers import normal, random_mask, seeded

N = 1000
BYTES = 4 * N


class Gains(torch.nn.Module):
    """Multiplies the real part of the target by a weight of its size, BYTES bytes, in each step."""

    def __init__(self, device: str) -> None:
        super().__init__()
        ones = [torch.ones(1, 1, 25, 40, device=device) for _ in range(2)]
        self.steps = torch.nn.ModuleList(torch.nn.ParameterList([weight]) for weight in ones)

    def start(self, batch: Batch) -> torch.Tensor:
        return batch.target.real

    def step(self, index: int, state: torch.Tensor, batch: Batch) -> torch.Tensor:
        return state * self.steps[index][0]

    def image(self, state: torch.Tensor, batch: Batch) -> torch.Tensor:
        return state


def gains(name: str, modules: int = 1, device: str = "cpu") -> Strategy:
    return STRATEGIES[name](
        Gains(device),
        loss=lambda image, target: image.sum(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, fused=True),
        modules=modules,
    )


def measurements(device: str = "cpu") -> Batch:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, 25, 40, dtype=torch.complex64, device=device)

    mask = torch.ones(1, 1, 1, 40, device=device)
    return Batch(zeros(1, 1), mask, zeros(1, 1, 1), zeros(1, 1))


INPUTS = 3 * 8 * N + 4 * 40  # k-space, maps and target, complex; the mask
ADAM = 2 * BYTES + 4  # two moments and a counter for each of the two weights


def parts_of(strategy: Strategy, *batches: Batch) -> dict[str, int]:
    with PeakMemory("cpu", strategy, batches) as result:
        strategy.train_step(*batches)
    assert sum(result.parts.values()) == result.total
    return result.parts


def test_a_first_step_peaks_when_the_optimizer_has_made_its_state():
    # Beside gradients and state: the last image, the loss and the norm of the gradient.
    assert parts_of(gains("backprop"), measurements()) == {
        "parameters": 2 * BYTES,
        "gradients": 2 * BYTES,
        "optimizer": 2 * ADAM,
        "inputs": INPUTS,
        "activations": BYTES + 2 * 4,
    }


def test_a_second_step_peaks_before_the_first_gradient_of_a_parameter_is_there():
    strategy, batch = gains("backprop"), measurements()
    parts_of(strategy, batch)
    # Two images, the gradients of the last product's two factors; the loss, its unit gradient
    # and that of the sum before it is divided by the number of batches.
    wanted = {
        "parameters": 2 * BYTES,
        "gradients": 0,
        "optimizer": 2 * ADAM,
        "inputs": INPUTS,
        "activations": 4 * BYTES + 3 * 4,
    }
    assert parts_of(strategy, batch) == wanted
    assert parts_of(strategy, batch) == wanted


def test_new_memory_is_the_total_less_what_was_there():
    strategy, batch = gains("backprop"), measurements()
    with PeakMemory("cpu", strategy, [batch]) as first:
        strategy.train_step(batch)
    assert first.bytes == 2 * BYTES + 2 * ADAM + BYTES + 8
    assert first.total == first.bytes + 2 * BYTES + INPUTS
    with PeakMemory("cpu", strategy, [batch]) as second:
        strategy.train_step(batch)
    assert second.bytes == 4 * BYTES + 12
    assert second.total == second.bytes + 2 * BYTES + INPUTS + 2 * ADAM


def test_gradients_of_the_first_batch_are_there_while_the_second_goes_through():
    strategy, first, second = gains("backprop"), measurements(), measurements()
    parts_of(strategy, first, second)
    assert parts_of(strategy, first, second) == {
        "parameters": 2 * BYTES,
        "gradients": 2 * BYTES,
        "optimizer": 2 * ADAM,
        "inputs": 2 * INPUTS,
        "activations": 4 * BYTES + 4 * 4,  # the loss of the first batch is kept
    }


def test_greedy_frees_the_gradients_of_a_module_before_the_next():
    strategy, batch = gains("greedy", modules=2), measurements()
    # The second module's update. The last image; losses and norms of two modules.
    assert parts_of(strategy, batch) == {
        "parameters": 2 * BYTES,
        "gradients": BYTES,
        "optimizer": 2 * ADAM,
        "inputs": INPUTS,
        "activations": BYTES + 4 * 4,
    }
    # The second module's backward pass. Two images and the gradient of the weight; loss and norm
    # of the first module, loss of the second, its unit gradient and that of the sum.
    assert parts_of(strategy, batch) == {
        "parameters": 2 * BYTES,
        "gradients": 0,
        "optimizer": 2 * ADAM,
        "inputs": INPUTS,
        "activations": 3 * BYTES + 5 * 4,
    }


def test_gradients_left_from_before_count_until_they_are_freed():
    strategy, batch = gains("backprop"), measurements()
    parts_of(strategy, batch)
    for parameter in strategy.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert parts_of(strategy, batch)["gradients"] == 2 * BYTES
    assert parts_of(strategy, batch)["gradients"] == 0


def test_batches_that_share_tensors_count_them_once_and_what_they_computed_is_input():
    batch = measurements()
    assert parts_of(gains("backprop"), batch, batch.to("cpu"))["inputs"] == INPUTS
    image = batch.zero_filled  # and the operator's maps, phases and pairs of squared weights
    assert parts_of(gains("backprop"), batch)["inputs"] == INPUTS + 3 * 8 * N + 2 * 4 * 40
    assert image.shape == (1, 1, 25, 40)


def test_without_a_strategy_all_that_is_new_counts_as_activations():
    strategy, batch = gains("backprop"), measurements()
    with PeakMemory() as result:
        strategy.train_step(batch)
    assert result.parts == {
        "parameters": 0,
        "gradients": 0,
        "optimizer": 0,
        "inputs": 0,
        "activations": result.total,
    }
    assert result.total == result.bytes == 2 * BYTES + 2 * ADAM + BYTES + 8


def test_parts_are_the_same_for_fake_tensors(monkeypatch):
    monkeypatch.setattr("gleam.strategies.end_to_end.report", lambda losses, norms: {})

    def measure() -> list[dict[str, int]]:
        strategy = gains("backprop")
        return [parts_of(strategy, measurements()) for _ in range(2)]

    with FakeTensorMode():
        fake = measure()
    assert fake == measure()


def test_no_hook_is_left_behind():
    strategy, batch = gains("backprop"), measurements()
    parts_of(strategy, batch)
    optimizer = strategy.modules[0].optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    for parameter in strategy.network.parameters():
        assert not parameter._post_accumulate_grad_hooks


def test_measuring_changes_no_parameter():
    watched, alone = gains("backprop"), gains("backprop")
    parts_of(watched, measurements())
    alone.train_step(measurements())
    for ours, theirs in zip(watched.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["backprop", "checkpoint", "greedy"])
@pytest.mark.parametrize("step", ["pgd", "modl"])
def test_the_count_agrees_with_the_record_of_the_allocator(name, step):
    config = load_config({"network": {"step": step, "steps": 4}, "strategy": {"name": name}})
    with seeded():
        strategy = build_strategy(config, build_network(config.network, config.data))
    maps = normal(1, 1, 4, 48, 48, seed=1) / 2
    mask = random_mask(1, 1, 1, 48)
    batch = Batch(normal(1, 4, 48, 48), mask, maps, normal(1, 1, 48, 48, seed=2))
    strategy.train_step(batch)
    with torch.profiler.profile(profile_memory=True) as profile:
        strategy.train_step(batch)
    held = highest = 0
    for change in allocations(profile):
        held += change
        highest = max(highest, held)
    with PeakMemory("cpu", strategy, [batch]) as result:
        strategy.train_step(batch)
    # The allocator's contains what a kernel takes and frees before it returns.
    assert 0.98 * highest <= result.bytes <= highest


def allocations(profile: torch.profiler.profile) -> list[int]:
    """Bytes taken (negative: freed) in the order in which it happened."""
    waiting = list(profile.profiler.kineto_results.experimental_event_tree())
    found = []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag.name == "Allocation":
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    return [size for _, size in sorted(found, key=lambda pair: pair[0])]


def test_on_cuda_the_parts_are_known_sizes_and_the_rest_is_activations(monkeypatch):
    # Fake tensors have sizes on a device that is not there; only the allocator is made up.
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 150_000)
    with FakeTensorMode():
        strategy, batch = gains("backprop", device="cuda"), measurements("cuda")
        with PeakMemory("cuda", strategy, [batch]) as result:
            for parameter in strategy.network.parameters():
                parameter.grad = torch.ones_like(parameter)
            strategy.modules[0].optimizer.step()
            strategy.modules[0].optimizer.zero_grad(set_to_none=True)
    assert result.parts == {
        "parameters": 2 * BYTES,
        "gradients": 2 * BYTES,
        "optimizer": 2 * ADAM,
        "inputs": INPUTS,
        "activations": 150_000 - 4 * BYTES - 2 * ADAM - INPUTS,
    }
    assert (result.bytes, result.total) == (50_000, 150_000)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_step_has_the_same_known_parts():
    strategy, batch = gains("backprop", device="cuda"), measurements("cuda")
    strategy.train_step(batch)
    with PeakMemory("cuda", strategy, [batch]) as result:
        strategy.train_step(batch)
    assert result.total == torch.cuda.max_memory_allocated()
    assert sum(result.parts.values()) == result.total
    known = {kind: size for kind, size in result.parts.items() if kind != "activations"}
    assert known == {
        "parameters": 2 * BYTES,
        "gradients": 2 * BYTES,
        "optimizer": 2 * ADAM,
        "inputs": INPUTS,
    }
