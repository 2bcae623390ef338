"""Memory that a strategy's tensors free stays with the process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
import resource, torch
from gleam.losses import complex_l1
from gleam.strategies import Greedy
from tests.helpers import make_network
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        for megabytes in (1, 30, 200):
            torch.zeros(megabytes << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
Greedy(make_network("pgd", 1), complex_l1, torch.optim.Adam)
faults()  # gets the memory to keep
print(first, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_the_system_maps_and_clears_freed_memory_only_once():
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, after = map(int, run.stdout.split())
    assert before > 500  # at least one a huge page
    assert after < before / 20
