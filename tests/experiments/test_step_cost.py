"""The benchmark measures what it says; its long runs are not repeated here."""

import time

import pytest
import torch

from experiments import step_cost
from experiments.provenance import as_markdown, provenance
from gleam.config import load_config
from gleam.strategies import STRATEGIES
from tests.helpers import same, weights_of


def test_runs_take_turns_and_the_first_two_rounds_do_not_count():
    order = []
    pauses = {"slow": [0.05, 0.05, 0.004, 0.004, 0.04], "fast": [0.0] * 5}
    left = {name: iter(values) for name, values in pauses.items()}

    def run(name: str) -> None:
        order.append(name)
        time.sleep(next(left[name]))

    runs = {name: lambda name=name: run(name) for name in pauses}
    times = step_cost.alternate(runs, repeats=3, device="cpu")
    assert order == ["slow", "fast"] * 5
    assert [len(values) for values in times.values()] == [3, 3]
    assert min(times["slow"]) >= 0.004


def test_a_ratio_compares_within_rounds():
    times = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 4.0]}
    assert step_cost.ratio(times, "a", "b") == 0.5


def test_the_measurements_are_the_same_every_time_and_normalised():
    one, other = (step_cost.make_batch((24, 96), 3, "cpu") for _ in range(2))
    assert torch.equal(one.kspace, other.kspace)
    assert one.target.shape == (1, 1, 24, 96)
    assert one.mask.shape == (1, 1, 1, 96)
    squares = one.maps.abs().square().sum(2)
    assert torch.allclose(squares, torch.ones_like(squares), atol=1e-5)


def test_all_strategies_start_from_the_same_weights_and_leave_the_random_state():
    before = torch.get_rng_state()
    config = load_config({"network": {"steps": 2, "features": 4}})
    networks = [
        step_cost.make_strategy(load_config(config, strategy=name), "cpu").network
        for name in step_cost.STRATEGIES
    ]
    assert all(same(weights_of(networks[0]), weights_of(other)) for other in networks)
    assert torch.equal(before, torch.get_rng_state())
    assert set(step_cost.STRATEGIES) <= set(STRATEGIES)


@pytest.mark.parametrize("step", ["pgd", "modl"])
def test_greedy_allocates_less_than_backprop_and_no_more_when_deeper(step: str):
    batch = step_cost.make_batch((24, 96), 3, "cpu")

    def peak(strategy: str, steps: int) -> int:
        settings = {"network": {"step": step, "steps": steps, "features": 8}, "strategy": strategy}
        return step_cost.peak_memory(
            step_cost.make_strategy(load_config(settings), "cpu"), batch, "cpu"
        )

    greedy = peak("greedy", 4)
    assert greedy == peak("greedy", 4)
    assert greedy < 0.5 * peak("backprop", 4)
    # But for the gradient norms that are reported, a few bytes a module.
    assert peak("greedy", 12) < 1.05 * greedy


def test_numbers_carry_commit_machine_and_versions():
    facts = provenance()
    assert {"commit", "cpu", "torch", "numpy", "python", "threads"} <= facts.keys()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert as_markdown({"a": "1", "b": "2"}) == "a 1, b 2\n"
