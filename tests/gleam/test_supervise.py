"""A run that is killed starts again by itself; one that ends or is asked to end does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gleam.config import dump_config
from gleam.supervise import supervise
from tests.gleam import tiny

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def killed_until(file: Path, times: int, status: int = 0) -> list[str]:
    """Adds a letter to a file and dies by SIGKILL until there are so many, then exits."""
    return python(
        f"import os, pathlib, signal, sys; file = pathlib.Path({str(file)!r});"
        "text = file.read_text() if file.exists() else ''; file.write_text(text + 'x');"
        f"len(text) < {times} and os.kill(os.getpid(), signal.SIGKILL); sys.exit({status})"
    )


@pytest.mark.parametrize("status", [0, 3])
def test_a_killed_command_is_replaced_until_one_ends_by_itself(tmp_path: Path, status: int):
    said = []
    first = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    again = killed_until(tmp_path / "log", 2, status)
    assert supervise(first, again, 9, said.append) == status
    assert (tmp_path / "log").read_text() == "xxx"
    assert len(said) == 3
    assert "SIGKILL" in said[0]


def test_there_are_no_more_restarts_than_allowed(tmp_path: Path):
    said = []
    command = killed_until(tmp_path / "log", 9)
    assert supervise(command, command, 2, said.append) == -signal.SIGKILL
    assert (tmp_path / "log").read_text() == "xxx"
    assert len(said) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_ends_the_supervision_and_its_command(tmp_path: Path, number: int):
    sleep = python(
        "import pathlib, signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        f"pathlib.Path({str(tmp_path / 'started')!r}).touch(); time.sleep(60)"
    )
    code = (
        "from gleam.supervise import supervise; import signal;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"print('status', supervise({sleep!r}, {sleep!r}, 5, print))"
    )
    process = subprocess.Popen(
        python(code), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(6000):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.communicate(timeout=30)[0] == f"status {-number}\n"


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path):
    """From the command line; the kill comes from within, once, after five iterations."""
    whole = tiny.train(tmp_path / "whole", **{"training.iterations": 12}).folder
    config = tmp_path / "config.yaml"
    out = tmp_path / "run"
    settings = tiny.settings(out, **{"training.iterations": 12})
    config.write_text(yaml.safe_dump(dump_config(settings)))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, signal, sys\n"
        "def deadly():\n"
        "    import torch; torch.set_num_threads(1)\n"
        "    import gleam.trainer as trainer\n"
        "    plain = trainer._Trainer.step\n"
        "    def step(self, *rest):\n"
        f"        mark = pathlib.Path({str(tmp_path / 'killed')!r})\n"
        "        if self.iteration == 5 and not mark.exists():\n"
        "            mark.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return plain(self, *rest)\n"
        "    trainer._Trainer.step = step\n"
        "if 'gleam' in sys.orig_argv: deadly()\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "gleam", "train", str(config), "--restarts", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ended by SIGKILL; it goes on from its last checkpoint" in run.stdout
    tiny.assert_same_run(out, whole)
