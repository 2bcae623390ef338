"""The command line: help, runs, pictures, and errors without a traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

import gleam.cli
import gleam.demo
from gleam.cli import app
from gleam.data import write_scan
from gleam.trainer import TrainingResult
from tests.gleam import tiny

ROOT = Path(__file__).resolve().parents[2]


def plain(text: str) -> str:
    """Without colours and frames, in one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that succeeds; returns what it printed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["gleam", *(str(word) for word in words)])
        patched.setattr(gleam.cli.console, "width", 200)
        with pytest.raises(SystemExit) as end:
            gleam.cli.main()
    printed = capsys.readouterr()
    assert end.value.code in (0, None), printed.err
    return printed.out


def fail(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that fails with exit code 1; returns its one message."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["gleam", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as end:
            gleam.cli.main()
    assert end.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


@pytest.fixture(autouse=True)
def _one_wavelet_weight_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gleam.evaluation, "L1_WEIGHTS", (0.01,))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(tiny.SETTINGS))
    return path


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.train(tmp_path_factory.mktemp("runs") / "run").best


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["demo", "train", "evaluate", "reconstruct", "info", "in the memory of one module"]),
        ("demo", ["--out", "--seed", "Needs no data", "runs/demo"]),
        ("train", ["--resume", "strategy=backprop", "YAML file", "Ctrl-C"]),
        ("grow", ["--steps", "--modules", "--out", "--resume", "in the memory of a module"]),
        ("evaluate", ["--data", "--baselines", "--out", "--device", "PSNR", "L1-wavelet"]),
        ("reconstruct", ["--mask", "--maps", "--out", "inferred", "ESPIRiT", "(coils, y, x)"]),
        ("info", ["checkpoint", "versions"]),
        ("prepare", ["--coils", "--workers", "--covariance", "what is done is skipped"]),
        ("check", ["splits.yaml", "exit code is 1"]),
    ],
)
def test_every_command_explains_itself(monkeypatch, command: str, words: list[str]):
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    text = plain(result.output)
    assert [word for word in words if word not in text] == []


def test_every_option_has_help():
    from typer.main import get_command

    group = get_command(app)
    parameters = [
        (name, parameter)
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        for parameter in command.params
    ]
    assert len(parameters) > 12
    assert [(name, p.name) for name, p in parameters if not getattr(p, "help", None)] == []


def test_training_evaluation_and_info_of_a_run(config: Path, tmp_path: Path, capsys):
    out = tmp_path / "run"
    words = ["train", config, f"out={out}", "strategy=backprop", "network.step=modl"]
    printed = run(capsys, *words, "training.iterations=3", "training.learning_rate=1e-4")
    assert "finished after 3 iterations; the folder is " in printed
    assert f"best checkpoint: {out / 'best.pt'}" in printed
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["strategy"]["name"] == "backprop"
    assert written["network"] == {**written["network"], "step": "modl", "steps": 2}
    assert written["training"]["learning_rate"] == 1e-4
    assert "already holds a run" in fail(capsys, *words)
    more = run(capsys, *words, "training.iterations=5", "training.learning_rate=1e-4", "--resume")
    assert "finished after 5 iterations" in more

    printed = run(capsys, "evaluate", out / "best.pt")
    for word in ("zero-filled", "network", "PSNR [dB]", "SSIM", "NRMSE"):
        assert word in printed
    names = {"metrics.json", "table.md", "worst.png", "median.png", "best.png"}
    assert {path.name for path in (out / "evaluation").iterdir()} == names
    assert all(f"wrote {out / 'evaluation' / name}" in printed for name in names)


def test_a_network_grows_and_grows_again(best: Path, tmp_path: Path, capsys):
    words = ("training.iterations=2", "training.validate_every=1")
    one, other = tmp_path / "one", tmp_path / "other"
    printed = run(capsys, "grow", best, "--steps", 4, "--modules", 2, "--out", one, *words)
    assert f"finished after 2 iterations; the folder is {one}" in printed
    assert f"best checkpoint: {one / 'best.pt'}, validation PSNR " in printed
    run(capsys, "grow", one / "last.pt", "--steps", 2, f"out={other}", *words)
    facts = yaml.safe_load(run(capsys, "info", other / "best.pt"))["config"]
    assert facts["network"]["steps"] == 8
    assert facts["strategy"] | {"frozen": 6, "modules": 1} == facts["strategy"]
    assert facts["grown_from"] == str(one / "last.pt")
    again = ("grow", best, "--steps", 4, "--modules", 2, "--out", one, *words)
    assert "already holds a run" in fail(capsys, *again)
    assert "finished after 2 iterations" in run(capsys, *again, "--resume")
    assert "resumed: grown_from was" in fail(
        capsys, again[0], one / "last.pt", *again[2:], "--resume"
    )


def test_evaluation_of_a_folder_with_baselines(best: Path, tmp_path: Path, capsys):
    write_scan(tmp_path / "a.h5", tiny.brain_kspace(9)[None].numpy())
    out = tmp_path / "report"
    printed = run(capsys, "evaluate", best, "--data", tmp_path, "--baselines", "--out", out)
    assert "CG-SENSE" in printed
    assert "L1-wavelet" in (out / "table.md").read_text()


def test_info_says_what_a_checkpoint_holds(best: Path, capsys):
    facts = yaml.safe_load(run(capsys, "info", best))
    state = tiny.state(best)
    assert facts["iteration"] == state["iteration"]
    assert facts["parameters"] == sum(value.numel() for value in state["network"].values())
    score = facts["best validation PSNR [dB]"]
    assert score == pytest.approx(state["progress"]["best"], abs=0.01)
    assert facts["config"]["network"]["features"] == 4
    assert {"torch", "gleam"} <= facts["versions"].keys()


def test_info_counts_shared_weights_once(tmp_path: Path, capsys):
    changes = {"strategy": "backprop", "training": {"iterations": 1}}
    counts = []
    for shared in (False, True):
        network = {"shared": shared, "steps": 3}
        path = tiny.train(tmp_path / str(shared), network=network, **changes).last
        counts.append(yaml.safe_load(run(capsys, "info", path))["parameters"])
    assert counts[0] == 3 * counts[1]


def test_reconstruction_writes_the_image_and_a_picture(best: Path, tmp_path: Path, capsys):
    kspace = tiny.brain_kspace(9).numpy() * tiny.columns()
    np.save(tmp_path / "scan.npy", kspace)
    printed = run(capsys, "reconstruct", best, tmp_path / "scan.npy")
    written = tmp_path / "scan_reconstruction.npy"
    assert f"wrote {written}" in printed
    assert written.with_suffix(".png").exists()
    image = gleam.reconstruct(best, kspace).numpy()
    assert np.array_equal(np.load(written), image)

    np.save(tmp_path / "mask.npy", tiny.columns())
    write_scan(tmp_path / "scan.h5", kspace[None])
    out = tmp_path / "other.npy"
    words = ["--mask", tmp_path / "mask.npy", "--out", out]
    run(capsys, "reconstruct", best, tmp_path / "scan.h5", *words)
    assert np.array_equal(np.load(out)[0], image)
    for words, stop in ((["--steps", 1], {"steps": 1}), (["--stop-below", 9], {"stop_below": 9})):
        run(capsys, "reconstruct", best, tmp_path / "scan.npy", "--out", out, *words)
        assert np.array_equal(np.load(out), gleam.reconstruct(best, kspace, **stop).numpy())
        assert not np.array_equal(np.load(out), image)


def test_errors_are_one_message_with_the_cure(best: Path, config: Path, tmp_path: Path, capsys):
    out = f"out={tmp_path / 'run'}"
    np.save(tmp_path / "scan.npy", tiny.brain_kspace(9).numpy())
    cases = [
        ("did you mean 'features'", ["train", config, out, "network.feature=3"]),
        ("choose from [1, 2]", ["train", config, out, "strategy.modules=3"]),
        ("expected key=value", ["train", config, out, "backprop"]),
        ("is not valid YAML", ["train", config, out, "network=[1"]),
        ("no such configuration file", ["train", tmp_path / "none.yaml"]),
        ("must hold folders train, validate", ["train", config, out, f"data.path={tmp_path}"]),
        ("no such checkpoint", ["info", tmp_path / "none.pt"]),
        ("truncated, damaged or no checkpoint", ["evaluate", config]),
        ("must be a folder with scans", ["evaluate", best, "--data", tmp_path / "none"]),
        ("device: ", ["evaluate", best, "--device", "abacus"]),
        ("no such file", ["reconstruct", best, tmp_path / "none.npy"]),
        ("steps must be from 0 to 2", ["reconstruct", best, tmp_path / "scan.npy", "--steps", 3]),
    ]
    for message, words in cases:
        assert message in fail(capsys, *words)
    assert not (tmp_path / "run").exists()


def test_brackets_in_an_error_are_printed_as_they_are(tmp_path: Path, capsys):
    path = tmp_path / "[red]" / "[" / "x]" / "none.pt"
    assert str(path) in fail(capsys, "info", path)


def test_a_path_that_cannot_be_written_is_one_message(config: Path, tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    assert "file" in fail(capsys, "train", config, f"out={tmp_path / 'file' / 'run'}")


def test_the_installed_command_reports_errors_without_a_traceback(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", "from gleam.cli import main; main()", "info", tmp_path / "none.pt"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert done.stderr == f"error: no such checkpoint: {tmp_path / 'none.pt'}\n"
    assert done.stdout == ""


def test_the_demonstration_trains_compares_and_draws(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    settings = {**tiny.SETTINGS, "data": {**tiny.SETTINGS["data"], "test": 1}}
    (tmp_path / "configs" / "demo.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(gleam.demo, "files", lambda package: tmp_path)
    out = tmp_path / "demo"
    printed = run(capsys, "demo", "--out", out, "--seed", 3)
    for method in ("zero-filled", "CG-SENSE", "L1-wavelet", "total variation", "network"):
        assert method in printed
    assert f"wrote {out / 'evaluation' / 'median.png'}" in printed
    assert (out / "curves.png").exists()
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 3
    assert "already holds a run" in fail(capsys, "demo", "--out", out)


def test_the_settings_of_the_demonstration_are_valid_and_greedy():
    path = ROOT / "gleam" / "configs" / "demo.yaml"
    config = gleam.trainer.load_config(path)
    assert config.strategy.name == "greedy"
    assert config.modules > 1
    assert config.data.path is None


def test_a_demonstration_that_was_stopped_evaluates_nothing(tmp_path: Path, monkeypatch):
    paths = (tmp_path, tmp_path / "best.pt", tmp_path / "last.pt")
    stopped = TrainingResult(*paths, 3, 0.0, False, ())
    monkeypatch.setattr(gleam.demo, "train", lambda *_, **__: stopped)
    monkeypatch.setattr(gleam.demo, "evaluate", lambda *_, **__: pytest.fail("was evaluated"))
    gleam.demo.run_demo(tmp_path, 0, False, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_compares_all_strategies_and_says_what_fits(tmp_path: Path, capsys):
    (tmp_path / "run.yaml").write_text("network: {steps: 4, features: 8}\n")
    size = ("--shape", "64,48", "--coils", 3)
    printed = run(capsys, "plan", tmp_path / "run.yaml", *size, "--budget", "1GiB")
    assert "1 x (64, 48), 3 coils" in printed
    rows = [line.split() for line in printed.splitlines()]
    named = [(row[0], row[1]) for row in rows if len(row) == 11 and row[-2] == "yes"]
    wanted = [("backprop", "1"), ("checkpoint", "1"), ("greedy", "2"), ("greedy", "4")]
    assert named == wanted
    assert "fastest that fits 1.00 GiB with 10% to spare: " in printed
    volume = ("data.items=volumes", "--shape", "16,32,32", "--coils", 2)
    assert "1 x (16, 32, 32), 2 coils" in run(capsys, "plan", tmp_path / "run.yaml", *volume)
    printed = run(capsys, "plan", tmp_path / "run.yaml", *size, "--budget", "1MiB")
    assert "nothing fits 1.00 MiB with 10% to spare; greedy, 4 modules of 1 step" in printed


def test_a_plan_refuses_what_it_cannot_read(tmp_path: Path, capsys):
    (tmp_path / "run.yaml").write_text("{}\n")
    for words, message in (
        (("--budget", "24"), "24GiB"),
        (("--shape", "64xabc"), "--shape must be whole numbers"),
        (("--shape", "8,64,64"), "must be (y, x)"),
        (("device=tpu",), "must be cpu, cuda, cuda:N or auto"),
    ):
        assert message in fail(capsys, "plan", tmp_path / "run.yaml", *words)
