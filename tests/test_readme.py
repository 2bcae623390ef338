"""What the README says must stay true, and what it says to run must run."""

import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import join
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import gleam
from gleam.config import Config, load_config
from gleam.data import write_scan
from gleam.losses import complex_l1
from gleam.strategies import Greedy
from tests.gleam import tiny
from tests.gleam.adapted import batch_of
from tests.gleam.peers import varnet
from tests.gleam.raw import raw_kspace
from tests.gleam.readers.layouts import write_fastmri
from tests.helpers import make_network, seeded
from tests.snippets import blocks_of, cut_down, run

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text(encoding="utf-8")

NOT_RUN = {
    "pip install": ".ci/run does, in a new environment",
    "python -m experiments": "tests/experiments run them small",
    "gleam.export(": "tests/gleam/test_exporting.py, a quarter of a minute",
    "python -m sphinx": "tests/test_docs.py builds the site",
    "gleam plan": "tests/test_docs.py plans a volume, tests/gleam/test_planning.py much more",
    "gleam train my_run.yaml strategy=greedy-parallel": "tests/gleam/test_parallel_docs.py",
    "gleam train my_run.yaml strategy.name=greedy-parallel": "the same",
    "export RAY_AUTH_MODE": "tests/gleam/test_parallel_cluster.py starts such a cluster",
    "ray start": "the same",
}
"""Beginnings of commands and code that are not run here, and who does."""


def test_the_readme_lists_every_setting_with_its_default():
    block = re.search(r"^```yaml\n(.*?)^```", README, re.S | re.M)
    assert block is not None
    settings = yaml.safe_load(block.group(1))
    assert load_config(settings) == Config()
    assert settings.keys() == Config.model_fields.keys()
    for section in ("data", "network", "strategy", "training"):
        assert settings[section].keys() == type(getattr(Config(), section)).model_fields.keys()


def test_the_readme_has_two_set_up_commands():
    assert len(re.findall(r"^```sh set-up\n", README, re.M)) == 2


def test_every_file_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (HOME / link).exists()] == []


def undersampled(kspace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K-space with the central columns and every third one, and which these are."""
    columns = np.zeros(kspace.shape[-1], dtype=bool)
    columns[::3] = columns[kspace.shape[-1] // 2 - 12 :][:24] = True
    return kspace * columns, columns


def given(folder: Path) -> dict[str, Any]:
    """What a reader is taken to have: scans, a trained network, and names in Python."""
    kspace, columns = undersampled(raw_kspace(2, 8, (256, 128)))
    for name in ("scan.h5", "undersampled_scan.h5"):
        write_fastmri(folder / name, kspace, mask=columns)
    np.save(folder / "kspace.npy", undersampled(raw_kspace(1, 8, (128, 128)))[0][0])
    (folder / "raw_scans").mkdir()
    write_fastmri(folder / "raw_scans" / "one.h5", raw_kspace(1, 8, (128, 64), seed=9))
    write_fastmri(folder / "file1000001.h5", raw_kspace(12, 2, (32, 32)))
    for number, split in enumerate(("train", "validate", "test")):
        (folder / "my_data" / split).mkdir(parents=True)
        write_scan(folder / "my_data" / split / f"{split}.h5", raw_kspace(seed=number))
    settings = {**tiny.SETTINGS, "out": "runs/new", "network": {"steps": 8, "features": 4}}
    (folder / "my_run.yaml").write_text(yaml.safe_dump(settings))
    gleam.train(settings, out="runs/mine", strategy="greedy", quiet=True)
    network, batch = make_network(), batch_of()
    return {
        "gleam": gleam,
        "kspace": torch.from_numpy(np.load(folder / "kspace.npy")),
        "network": network,
        "batch": batch,
        "strategy": Greedy(network, complex_l1, partial(torch.optim.Adam, lr=1e-3), modules=4),
        "varnet": varnet("stand-in", cascades=12),
        "sequence": torch.nn.Sequential(torch.nn.Identity()),
        # What the loaders of fastMRI give.
        "masked_kspace": torch.view_as_real(batch.kspace * batch.mask),
        "mask": batch.mask[..., None],
        "target": batch.zero_filled[:, 0].abs(),
    }


@pytest.mark.slow
def test_what_the_readme_says_to_run_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cut_down(monkeypatch)
    names = given(tmp_path)
    for block in blocks_of(HOME / "README.md"):
        # Its commands are examples, each by itself.
        commands = map(join, block.commands) if block.language == "sh" else [block.text]
        for text in commands:
            shutil.rmtree("runs/new", ignore_errors=True)
            with seeded():
                run([replace(block, text=text)], names, [*NOT_RUN])
