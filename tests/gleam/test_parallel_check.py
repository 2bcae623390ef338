"""The comparison of greedy-parallel with serial training that the reproductions print."""

import pytest
import torch
import yaml

from experiments.memory_problems import Parallel, Problem
from experiments.parallel_check import (
    as_parallel,
    as_serial,
    compare_parallel,
    parallel_claims,
)
from experiments.reproduction import CONFIGS
from gleam.config import load_config


def test_parallel_training_is_that_of_the_same_modules_and_back():
    config = load_config({"network": {"steps": 4}, "strategy": {"name": "greedy", "modules": 2}})
    parallel = as_parallel(config)
    assert (parallel.strategy.name, parallel.modules) == ("greedy-parallel", 2)
    assert as_serial(load_config(parallel, strategy={"workers": 2})) == config
    backprop = load_config({"strategy": "backprop"})
    assert as_parallel(backprop) is backprop
    assert as_serial(backprop) is backprop


@pytest.mark.usefixtures("ray_session")
def test_workers_are_compared_with_serial_training_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    settings = yaml.safe_load((CONFIGS / "knee2d.yaml").read_text())["presets"]["quick"]["pgd-R4"]
    settings["config"]["data"] |= {"size": [32, 32], "train": 2}
    settings["config"]["network"]["features"] = 2
    problem = Problem.model_validate(settings)
    found = compare_parallel(problem, Parallel(variant="greedy-4x2", workers=[2], iterations=7))
    assert [row["workers"] for row in found["rows"]] == [0, 2]
    assert [row["equal"] for row in found["rows"]] == [True, True]
    assert found["rows"][0]["speed"] == 1
    assert torch.get_num_threads() == 1


def test_time_must_fall_with_every_worker_and_weights_must_be_the_same():
    def found(*seconds: float, equal: bool = True) -> list[bool]:
        rows = [{"workers": n, "seconds": s, "equal": equal} for n, s in enumerate(seconds)]
        return [c["met"] for c in parallel_claims({"variant": "x", "iterations": 9, "rows": rows})]

    assert found(9.0, 3.0, 2.0, 1.0) == [True, True]
    assert found(9.0, 3.0, 1.0, 2.0) == [True, False]
    assert found(9.0, 3.0, 2.0, equal=False) == [False, True]
