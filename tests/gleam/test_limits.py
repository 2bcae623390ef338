"""Measurements outside what a network was trained on are named, with value and range."""

import math
from dataclasses import replace

import pytest
import torch

from gleam.batch import Batch
from gleam.limits import departures, facts
from physics.acquisition import draw_snr
from physics.brain import simulate_brain
from physics.masks import uniform_random
from tests.helpers import normal

LIMITS = {"acceleration": [2, 8], "matrix": [96, 320], "coils": [4, 16], "SNR": [33, 500]}
INSIDE = {"acceleration": [4.0], "matrix": [160.0, 128.0], "coils": [8.0], "SNR": [100.0]}


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("acceleration", [8.3], None),
        ("acceleration", [8.5], "acceleration 8.5 is outside 2 to 8"),
        ("acceleration", [1.95], None),
        ("acceleration", [1.0], "acceleration 1 is outside 2 to 8"),
        ("matrix", [96.0, 320.0], None),
        ("matrix", [95.0, 160.0], "matrix 95 is outside 96 to 320"),
        ("matrix", [160.0, 321.0], "matrix 321 is outside 96 to 320"),
        ("coils", [4.0], None),
        ("coils", [16.0], None),
        ("coils", [17.0], "coils 17 is outside 4 to 16"),
        ("coils", [1.0], "coils 1 is outside 4 to 16"),
        ("SNR", [17.0], None),
        ("SNR", [12.34], "SNR 12.3 is outside 33 to 500"),
        ("SNR", [990.0], None),
        ("SNR", [math.inf], "SNR inf is outside 33 to 500"),
    ],
)
def test_what_is_outside_is_named_and_nothing_else(name: str, values: list[float], said):
    wanted = [] if said is None else [said]
    assert departures([INSIDE, {**INSIDE, name: values}], LIMITS) == wanted
    assert departures([{**INSIDE, name: values}], {"matrix": (1, 1000)}) == []


def test_of_several_images_the_farthest_value_is_named():
    found = [{**INSIDE, "SNR": [value], "coils": [40.0]} for value in (20.0, 5.0, 10.0)]
    assert departures(found, LIMITS) == [
        "coils 40 is outside 4 to 16",
        "SNR 5 is outside 33 to 500",
    ]


def test_the_facts_of_a_simulated_scan_are_those_it_was_made_with():
    scan = simulate_brain(3, (64, 80), 5, snr=25.0)
    mask = uniform_random((64, 80), 3, 12, seed=1)
    batch = Batch(scan.kspace[None] * mask, mask[None, None], scan.maps[None], axes=(-2, -1))
    found = facts(batch.normalised())
    assert found["acceleration"] == [pytest.approx(3, rel=1e-3)]
    assert found["matrix"] == [64, 80]
    assert found["coils"] == [5]
    level = batch.zero_filled.abs().flatten().kthvalue(1 + round(0.95 * (64 * 80 - 1))).values
    assert found["SNR"] == [pytest.approx(25 * float(level), rel=0.15)]
    small = replace(batch, kspace=1e-4 * batch.kspace).normalised()
    assert facts(small)["SNR"] == [pytest.approx(found["SNR"][0], rel=1e-4)]


def test_an_edge_of_kspace_without_anything_has_an_endless_snr():
    kspace = torch.zeros(1, 2, 32, 32, dtype=torch.complex64)
    kspace[..., 12:20, 12:20] = normal(1, 2, 8, 8)
    maps = torch.ones(1, 1, 2, 32, 32, dtype=torch.complex64)
    batch = Batch(kspace, torch.ones(1, 1, 1, 1), maps, axes=(-2, -1))
    assert facts(batch.normalised())["SNR"] == [math.inf]


def test_simulated_scans_have_the_snr_that_the_limits_of_shipped_networks_name():
    from experiments.pretrain import SNR

    random = torch.Generator().manual_seed(0)
    drawn = [draw_snr(None, random) for _ in range(2000)]
    assert min(drawn) == pytest.approx(SNR[0], rel=0.02)
    assert max(drawn) == pytest.approx(SNR[1], rel=0.02)
