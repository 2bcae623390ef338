"""Networks that ship: their files, their names wherever a checkpoint is taken, their warnings."""

import ast
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

import gleam
from gleam import shipped
from gleam.checkpoint import CheckpointError, read_checkpoint
from gleam.config import load_config
from gleam.data import write_scan
from physics.brain import simulate_brain
from tests.gleam import tiny
from tests.gleam.test_cli import fail, run
from tests.helpers import weights_of

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"acceleration": [1.5, 4], "matrix": [32, 48], "coils": [2, 4], "SNR": [10, 500]}


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"network": {"step": "modl", "shared": True}, "strategy": "backprop"}
    return tiny.train(tmp_path_factory.mktemp("runs") / "run", **changes).best


@pytest.fixture(scope="module")
def folder(best: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in place of those that ship."""
    out = tmp_path_factory.mktemp("weights")
    shipped.write_weights(out / "general-2d.safetensors", read_checkpoint(best), LIMITS)
    return out


@pytest.fixture(autouse=True)
def _instead_of_those_that_ship(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", folder)


def brain(size: tuple[int, int] = (32, 32), coils: int = 3, snr: float = 50.0) -> Tensor:
    return simulate_brain(9, size, coils, snr=snr).kspace


KSPACE = brain() * torch.from_numpy(tiny.columns())


def test_weights_come_back_bit_for_bit_under_the_name(best: Path):
    network = gleam.pretrained("general-2d")
    assert not network.training
    assert all(map(torch.equal, weights_of(network), weights_of(gleam.load(best))))
    wanted = gleam.reconstruct(best, KSPACE)
    assert torch.equal(gleam.reconstruct("general-2d", KSPACE), wanted)
    assert torch.equal(gleam.reconstruct(shipped.locate("general-2d"), KSPACE), wanted)
    assert shipped.shipped_networks() == ["general-2d"]


def test_a_file_holds_the_configuration_and_no_more_than_the_weights(best: Path, folder: Path):
    with safe_open(folder / "general-2d.safetensors", framework="pt") as file:
        described = json.loads(file.metadata()["gleam"])
        assert set(file.keys()) == set(read_checkpoint(best)["network"])
    assert described["config"] == read_checkpoint(best)["config"]
    assert described["limits"] == LIMITS
    assert described.keys() == {"format", "config", "versions", "iteration", "progress", "limits"}
    assert [path.name for path in folder.iterdir()] == ["general-2d.safetensors"]


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no network 'other' .* \['general-2d'\]"):
        gleam.pretrained("other")
    with pytest.raises(CheckpointError, match=r"no such checkpoint: other; .*: general-2d"):
        gleam.load("other")
    with pytest.raises(CheckpointError, match=r"no such checkpoint: .*none\.pt$"):
        gleam.load(tmp_path / "none.pt")


def test_a_file_of_the_same_name_goes_first(best: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general-2d").mkdir()  # a folder is no checkpoint
    assert shipped.locate("general-2d").parent == shipped.FOLDER
    (tmp_path / "general-2d").rmdir()
    (tmp_path / "general-2d").write_bytes(best.read_bytes())
    assert shipped.locate("general-2d") == Path("general-2d")
    assert "limits" not in read_checkpoint("general-2d")


def test_a_damaged_or_foreign_file_is_refused(folder: Path, tmp_path: Path):
    from safetensors.torch import save_file

    whole = (folder / "general-2d.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated, damaged or no checkpoint"):
        gleam.load(tmp_path / "short.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
        gleam.load(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("kspace", "mask", "said"),
    [
        (KSPACE, None, None),
        (torch.stack([KSPACE, KSPACE]), None, None),
        (brain(), np.ones((1, 1)), "acceleration 1 is outside 1.5 to 4$"),
        (brain((32, 64)), tiny.columns(64), "matrix 64 is outside 32 to 48$"),
        (brain(coils=5), tiny.columns(), "coils 5 is outside 2 to 4$"),
        (brain(snr=1.5), tiny.columns(), "general-2d was not .* SNR .* is outside 10 to 500$"),
    ],
)
def test_it_warns_of_measurements_unlike_its_training_and_only_then(best, kspace, mask, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gleam.reconstruct("general-2d", kspace, mask)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == (said is not None)
    if said:
        with pytest.warns(UserWarning, match=said):
            gleam.reconstruct("general-2d", kspace, mask)
    gleam.reconstruct(best, kspace, mask)  # a checkpoint knows no limits: a warning would raise


def test_it_is_evaluated_and_described_under_its_name(best: Path, tmp_path: Path, capsys):
    summary = gleam.evaluate("general-2d").summary
    assert summary == gleam.evaluate(best).summary
    facts = yaml.safe_load(run(capsys, "info", "general-2d"))
    assert facts["limits"] == LIMITS
    assert facts["config"]["network"]["features"] == 4


def test_the_command_uses_it_where_no_checkpoint_is_named(best: Path, tmp_path: Path, capsys):
    write_scan(tmp_path / "scan.h5", KSPACE[None].numpy())
    wanted = gleam.reconstruct(best, KSPACE).numpy()
    for words in ([tmp_path / "scan.h5"], ["general-2d", tmp_path / "scan.h5"]):
        printed = run(capsys, "reconstruct", *words)
        assert "general-2d is for research only: it is no medical device" in printed
        assert "warning" not in printed
        assert np.array_equal(np.load(tmp_path / "scan_reconstruction.npy")[0], wanted)
    np.save(tmp_path / "whole.npy", brain().numpy())
    printed = run(capsys, "reconstruct", tmp_path / "whole.npy")
    lines = [line for line in printed.splitlines() if "warning: " in line]
    assert len(lines) == 1
    assert lines[0].endswith("acceleration 1 is outside 1.5 to 4")
    assert "medical" not in run(capsys, "reconstruct", best, tmp_path / "whole.npy")
    assert "[CHECKPOINT] FILE" in fail(capsys, "reconstruct", best, best, best)


def test_frames_of_a_dynamic_scan_are_reconstructed_as_images(tmp_path: Path, capsys):
    cine = np.stack([KSPACE.numpy(), 2 * KSPACE.numpy()], 1)
    write_scan(tmp_path / "cine.h5", cine[None])
    run(capsys, "reconstruct", tmp_path / "cine.h5")
    images = np.load(tmp_path / "cine_reconstruction.npy")
    assert images.shape == (2, 32, 32)
    assert np.allclose(images[1], 2 * images[0], rtol=1e-3, atol=1e-3 * abs(images[1]).max())


def test_the_wheel_holds_every_network_with_its_card_and_configuration():
    home = ROOT / "gleam"
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    [patterns] = [
        ast.literal_eval(word.value)["gleam"]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "package_data"
    ]
    packed = {path for pattern in patterns for path in home.glob(pattern)}
    networks = list((home / "weights").glob("*.safetensors"))
    assert home / "weights" / "general-2d.safetensors" in networks
    for path in networks:
        assert {path, path.with_suffix(".md"), home / "configs" / f"{path.stem}.yaml"} <= packed
        assert path.stat().st_size < 2e6
        content = shipped.read_weights(path)
        committed = load_config(home / "configs" / f"{path.stem}.yaml", out="x", device="cpu")
        assert load_config(json.loads(content["config"]), out="x", device="cpu") == committed
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        for word in ("no medical device", "simulated", "L1-wavelet", "commit "):
            assert word in card
        for low, high in content["limits"].values():
            assert f"{low:g} to {high:g}" in card
