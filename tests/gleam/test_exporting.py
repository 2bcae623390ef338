"""Trained networks without what trained them: as programs of torch, and in a light process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gleam
from gleam.batch import Batch
from gleam.build import build_network
from gleam.checkpoint import save_checkpoint
from gleam.config import dump_config
from tests.gleam import tiny
from tests.helpers import make_batch, perturb, relative, seeded

ROOT = Path(__file__).resolve().parents[2]
SPACE = (24, 20)


def checkpoint(path: Path, **network) -> Path:
    """Of a network with weights that matter, as if it had been trained."""
    config = tiny.settings(path.parent, network=network)
    with seeded():
        weights = perturb(build_network(config.network, config.data)).state_dict()
    empty = {"strategy": {}, "iteration": 0, "progress": {}, "random": {}}
    content = {"config": json.dumps(dump_config(config)), "network": weights, **empty}
    save_checkpoint(path, content)
    return path


def run_without(blocked: list[str], code: str, folder: Path, *arguments: str) -> None:
    """Run code in a process in which these modules cannot be imported."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block + code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


RUN = """
import torch
for name in sys.argv[1:]:
    arguments = torch.load(f"{name}.inputs")
    torch.save(torch.export.load(f"{name}.pt2").module()(*arguments).detach(), f"{name}.image")
"""


@pytest.mark.slow
def test_a_program_gives_the_image_of_reconstruct_in_a_process_without_this_library(tmp_path):
    """Fully sampled, so that conjugate gradients would stop before their last iteration."""
    wanted = {}
    for step in ("pgd", "modl"):
        trained = checkpoint(tmp_path / f"{step}.pt", step=step, cg_iterations=4)
        batch = make_batch(*SPACE, batch=2, seed=5)
        mask = torch.ones(2, 1, *SPACE) if step == "modl" else batch.mask.expand(2, 1, *SPACE)
        inputs = (1e3 * batch.kspace * mask, mask.contiguous(), batch.maps)
        torch.save(inputs, tmp_path / f"{step}.inputs")
        written = gleam.export(trained, tmp_path / f"{step}.pt2", SPACE, coils=3, slices=2)
        assert written == tmp_path / f"{step}.pt2"
        wanted[step] = gleam.reconstruct(trained, inputs[0], mask[:, 0], batch.maps)
    run_without(["gleam", "models", "physics"], RUN, tmp_path, *wanted)
    for step, image in wanted.items():
        assert relative(torch.load(tmp_path / f"{step}.image")[:, 0], image) < 1e-5


def test_what_cannot_be_a_program_is_refused(tmp_path):
    trained = checkpoint(tmp_path / "residual.pt", regularizer="residual")
    with pytest.raises(ValueError, match=r"can be undone \(network.regularizer: residual\).*load"):
        gleam.export(trained, tmp_path / "residual.pt2", SPACE, coils=3)
    with pytest.raises(ValueError, match=r"2 axes of space, got \(4, 24, 20\)"):
        gleam.export("general-2d", tmp_path / "volume.pt2", (4, *SPACE), coils=3)
    assert not [*tmp_path.glob("*.pt2*")]


LIGHT = """
import torch, gleam
from gleam.batch import Batch
torch.set_num_threads(1)
for name in sys.argv[1:]:
    batch = Batch(*torch.load("inputs"), axes=(-2, -1)).normalised()
    torch.save(gleam.load(name)(batch).detach(), f"{name.removesuffix('.pt')}.image")
"""


def test_networks_load_and_run_without_ray_matplotlib_and_sigpy(tmp_path):
    trained = checkpoint(tmp_path / "trained.pt", step="modl")
    batch = make_batch(*SPACE)
    torch.save((batch.kspace, batch.mask, batch.maps), tmp_path / "inputs")
    run_without(["ray", "matplotlib", "sigpy"], LIGHT, tmp_path, "trained.pt", "general-2d")

    def here(name: Path | str) -> Tensor:
        same = Batch(batch.kspace, batch.mask, batch.maps, axes=(-2, -1)).normalised()
        return gleam.load(name)(same)

    assert torch.equal(torch.load(tmp_path / "trained.image"), here(trained))
    assert torch.equal(torch.load(tmp_path / "general-2d.image"), here("general-2d"))
