"""Checkpoints survive full disks, and reading one never trusts it."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gleam
from gleam.build import build_network
from gleam.checkpoint import (
    CONTENT,
    FORMAT,
    CheckpointError,
    load_weights,
    read_checkpoint,
    read_config,
    save_checkpoint,
)
from gleam.config import load_config
from models.unrolled import UnrolledNetwork
from tests.gleam import tiny
from tests.helpers import seeded

ROOT = Path(__file__).resolve().parents[2]


def content(value: float = 1.0, size: int = 2000) -> dict:
    return {
        "config": "{}",
        "network": {"weight": torch.full((size,), value)},
        "strategy": {"modules": []},
        "iteration": int(value),
        "progress": {"best": float("nan"), "worse": 0},
        "random": {"cpu": torch.arange(3), "cuda": []},
    }


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    save_checkpoint(path, content(1.0))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"training.iterations": 2, "training.schedule": "cosine"}
    return tiny.train(tmp_path_factory.mktemp("runs") / "run", **changes).last


def test_what_was_saved_is_read(saved: Path):
    read = read_checkpoint(saved)
    assert read.keys() == CONTENT.keys()
    assert torch.equal(read["network"]["weight"], torch.ones(2000))
    assert read["iteration"] == 1
    assert read["format"] == FORMAT
    assert read["versions"]["torch"] == torch.__version__


def test_a_save_replaces_the_one_before_and_leaves_nothing_beside_it(saved: Path):
    save_checkpoint(saved, content(2.0))
    assert read_checkpoint(saved)["iteration"] == 2
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_nothing_but_plain_values_and_tensors_is_in_a_checkpoint(run: Path):
    def kinds(value) -> set[str]:
        if isinstance(value, dict):
            return set().union(*(kinds(item) for item in [*value, *value.values()]))
        if isinstance(value, list | tuple):
            return set().union(*(kinds(item) for item in value))
        return {type(value).__name__}

    assert kinds(torch.load(run, weights_only=True)) <= {
        *("NoneType", "bool", "int", "float", "str", "Tensor")
    }


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(_: object, file) -> None:
    file.write(b"PK half a checkpoint")
    file.flush()
    no_space()


def broken_stream(_: object, file) -> None:
    file.write(b"PK")
    raise RuntimeError("PytorchStreamWriter failed writing file data/7: file write failed")


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("torch.save", half_written),
        ("torch.save", broken_stream),
        ("os.fsync", no_space),
        ("os.replace", no_space),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before_and_no_partial_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, function: str, failure
):
    before = saved.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(function, failure)
        with pytest.raises(CheckpointError, match=r"could not save .*last\.pt .*unharmed") as error:
            save_checkpoint(saved, content(2.0))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]
    assert "then resume" in str(error.value)


def test_a_file_that_cannot_grow_leaves_the_checkpoint_before(tmp_path: Path):
    """With a true limit of the operating system instead of a pretended one."""
    script = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.gleam.test_checkpoint import content
from gleam.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
path = Path({str(tmp_path / "last.pt")!r})
save_checkpoint(path, content(1.0))
for limit in (16, 5000, 200_000):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save_checkpoint(path, content(2.0, size=100_000))
        sys.exit("was saved")
    except CheckpointError as error:
        assert "could not save" in str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert read_checkpoint(path)["iteration"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]
save_checkpoint(path, content(3.0))
assert read_checkpoint(path)["iteration"] == 3
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="choose another folder"):
        save_checkpoint(tmp_path / "gone" / "last.pt", content())


def test_a_missing_checkpoint_is_named(tmp_path: Path):
    assert refusal(tmp_path / "best.pt") == f"no such checkpoint: {tmp_path / 'best.pt'}"


@pytest.mark.parametrize("left", [0, 1, 3, 100, 0.25, 0.5, 0.9, -200, -20, -1])
def test_a_truncated_checkpoint_is_refused(saved: Path, left: float):
    whole = saved.read_bytes()
    length = int(left * len(whole)) if isinstance(left, float) else left % len(whole)
    saved.write_bytes(whole[:length])
    assert "truncated" in refusal(saved)


@pytest.mark.parametrize("garbage", [b"\x00" * 500, b"hello world\n" * 50, b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_refused(saved: Path, garbage: bytes):
    saved.write_bytes(garbage)
    assert "no checkpoint of this library" in refusal(saved) or "not a checkpoint" in refusal(saved)


def test_a_folder_is_no_checkpoint(tmp_path: Path):
    assert "no checkpoint of this library" in refusal(tmp_path)


class Burglar:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, write: str):
    trace, path = tmp_path / "trace", tmp_path / "last.pt"
    evil = {"format": FORMAT, "versions": {}, **content(), "config": Burglar(trace)}
    if write == "torch":
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil))
    refusal(path)
    with pytest.raises(CheckpointError):
        gleam.load(path)
    assert not trace.exists()
    if write == "pickle":  # the trap is armed
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path):
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT + 1, "versions": {"gleam": "9.1"}, "anything": 1}, path)
    message = refusal(path)
    assert f"has format {FORMAT + 1}, this version reads up to {FORMAT}" in message
    assert "upgrade gleam" in message
    assert "9.1" in message


@pytest.mark.parametrize("version", ["1", None, 1.0, [1]])
def test_a_format_that_is_no_number_is_no_checkpoint(tmp_path: Path, version):
    path = tmp_path / "last.pt"
    torch.save({"format": version, "versions": {}, **content()}, path)
    assert refusal(path).endswith("is not a checkpoint of this library")


@pytest.mark.parametrize("value", [{"weight": torch.ones(2)}, torch.ones(3), [1, 2]])
def test_tensors_of_another_program_are_no_checkpoint(tmp_path: Path, value):
    path = tmp_path / "weights.pt"
    torch.save(value, path)
    assert refusal(path).endswith("is not a checkpoint of this library")


def test_missing_parts_are_listed(tmp_path: Path):
    path = tmp_path / "last.pt"
    parts = {"format": FORMAT, "versions": {}, **content()}
    del parts["random"], parts["network"]
    torch.save(parts, path)
    assert refusal(path).endswith("lacks network, random")


def make_network(**settings: int) -> UnrolledNetwork:
    config = load_config({"network": settings})
    return build_network(config.network, config.data)


def test_another_architecture_names_the_parameter_that_differs():
    with seeded():
        wide, narrow = (make_network(steps=2, features=features) for features in (8, 4))
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(narrow, wide.state_dict(), "best.pt")
    message = str(caught.value)
    assert message.startswith("best.pt belongs to another architecture: ")
    name = message.partition("first ")[2].partition(":")[0]
    ours, theirs = (tuple(n.state_dict()[name].shape) for n in (narrow, wide))
    assert ours != theirs
    assert message.endswith(f"{name}: network {ours}, checkpoint {theirs}")
    assert tiny.equal(before, dict(narrow.state_dict()))


def test_missing_steps_are_another_architecture():
    with seeded():
        networks = [make_network(steps=steps, features=4) for steps in (2, 3)]
    with pytest.raises(CheckpointError, match=r"first steps\.2\..*checkpoint None"):
        load_weights(networks[1], networks[0].state_dict(), "best.pt")
    with pytest.raises(CheckpointError, match=r"first steps\.2\..*network None"):
        load_weights(networks[0], networks[1].state_dict(), "best.pt")


def test_a_configuration_of_another_version_is_refused():
    parts = content() | {"config": '{"network": {"heads": 4}}'}
    with pytest.raises(CheckpointError, match=r"best\.pt .*another version: network\.heads"):
        read_config(parts, "best.pt")


def test_loading_gives_the_trained_network_in_evaluation_mode(run: Path):
    network = gleam.load(run)
    assert not network.training
    assert len(network.steps) == 2
    assert tiny.equal(dict(network.state_dict()), dict(tiny.state(run)["network"]))


def test_a_flipped_bit_in_the_weights_is_noticed(saved: Path):
    content = bytearray(saved.read_bytes())
    place = content.index(torch.ones(2000).numpy().tobytes()) + 4000
    content[place] ^= 1
    saved.write_bytes(content)
    assert "damaged" in refusal(saved)
