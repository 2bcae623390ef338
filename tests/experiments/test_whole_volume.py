"""The limit under which a volume is trained on, and what is done beyond it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.whole_volume import COILS, SIZE, settings, write_scans
from gleam.data import open_scan
from gleam.planning import plan

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, torch
from experiments.whole_volume import MIB, run_limited
results = [run_limited(256 * MIB, lambda: torch.ones({megabytes} * MIB // 4).sum())]
print(json.dumps(results))
"""


def limited(megabytes: int) -> dict[str, Any]:
    """How it goes to fill a tensor of so many MiB where 256 are allowed, in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(megabytes=megabytes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)[0]


def test_what_is_beyond_the_limit_is_out_of_memory_and_what_is_below_is_done():
    fits, not_so = limited(64), limited(512)
    assert fits["outcome"] == "done"
    assert 60 * 2**20 < fits["resident"] < 120 * 2**20
    assert not_so["outcome"] == "out of memory"
    assert not_so["resident"] < 60 * 2**20


def test_greedy_training_is_planned_below_the_limit_and_backprop_above(tmp_path: Path):
    write_scans(tmp_path)
    scan = open_scan(tmp_path / "scans" / "train" / "train.h5")
    assert scan.shape == (SIZE[0], COILS, *SIZE[1:])
    measured = np.load(tmp_path / "kspace.npy", mmap_mode="r")
    sampled = (measured != 0).any((0, 1)).mean()
    assert 0.2 < sampled < 0.3
    rows = {row.strategy: row.bytes for row in plan(settings(tmp_path, "backprop")).rows}
    assert rows["greedy"] < rows["checkpoint"] < 640 * 2**20 < rows["backprop"]
