"""The commands and code of a Markdown page, run as a reader would, in one folder and in order.

Sizes are cut down where a training begins, so that all else runs as the page says. A YAML block
whose first line is a comment with a file name is written to that file.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import gleam.data.check
import gleam.data.prepare
import gleam.evaluation
import gleam.trainer
from gleam.cli import app
from gleam.config import Config, load_config
from gleam.data.workers import run_jobs

SHOWN = ("text", "{include}", "{literalinclude}", "{eval-rst}", "{toctree}", "{math}")
"""Kinds of blocks that are no code."""

LARGEST: dict[str, dict[str, Any]] = {
    "data": {"train": 2, "validate_on": 1, "test": 1, "coils": 4, "slab": 16, "workers": 0},
    "network": {"features": 4},
    "training": {"iterations": 4, "validate_every": 2, "save_every": 2},
}
LARGEST_SIDE = {2: 96, 3: 32}
"""Of simulated images, planes and volumes."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        place: page and line.
        language: the first word behind the fence.
        text: what is inside.
    """

    place: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command of a shell block, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    @property
    def file(self) -> str | None:
        """Where a reader is to save a YAML block, if anywhere."""
        match = re.match(r"# (\S+\.yaml)\n", self.text)
        return match[1] if match else None


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\S+)[^\n]*\n(.*?)^\1```$", text, re.S | re.M)
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, at.start()) + 1}", at[2], dedent(at[3]))
        for at in found
    ]


def commands_of(pages: Sequence[Path]) -> Iterator[tuple[Block, list[str]]]:
    """Every shell command of some pages, and the block it is in."""
    for page in pages:
        for block in blocks_of(page):
            if block.language == "sh":
                yield from ((block, words) for words in block.commands)


def parse(block: Block, words: Sequence[str]) -> None:
    """Fail unless ``gleam`` would understand these words."""
    group: Any = get_command(app)
    assert words[0] in group.commands, f"{block.place}: no command {words[0]}"
    group.commands[words[0]].make_context(words[0], list(words[1:]))


def run(blocks: Sequence[Block], names: dict[str, Any], not_run: Sequence[str]) -> None:
    """Run blocks in the current folder.

    Args:
        blocks: of a page.
        names: that the Python code may use; those it defines are added.
        not_run: beginnings of commands, and of Python blocks, that are left out.
    """
    for block in blocks:
        if block.language == "python":
            if not block.text.startswith(tuple(not_run)):
                exec(compile(block.text, block.place, "exec"), names)
        elif block.language == "yaml":
            if block.file is None:
                load_config(yaml.safe_load(block.text))  # part of a configuration
            else:
                Path(block.file).write_text(block.text)
        elif block.language == "sh":
            for words in block.commands:
                _command(block, words, not_run)
        else:
            assert block.language in SHOWN, f"{block.place}: nobody runs {block.language}"


def _command(block: Block, words: list[str], not_run: Sequence[str]) -> None:
    if " ".join(words).startswith(tuple(not_run)):
        return
    assert words[0] == "gleam", f"{block.place}: nobody runs {' '.join(words)}"
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, f"{block.place}: {' '.join(words)}\n{result.output}"


def cut_down(patched: pytest.MonkeyPatch) -> None:
    """Check the configuration of every training as it is, then make it small; few processes."""

    def load_small(*arguments: Any, **overrides: Any) -> Config:
        settings = load_config(*arguments, **overrides).model_dump()
        for section, largest in LARGEST.items():
            _cut(settings[section], largest)
        _cut(settings["data"], {"size": LARGEST_SIDE[len(settings["data"]["size"])]})
        return load_config(settings)

    def run_here(function: Any, jobs: Any, workers: int, done: Any) -> None:
        run_jobs(function, jobs, 1, done)

    patched.setattr(gleam.trainer, "load_config", load_small)
    for module in (gleam.data.check, gleam.data.prepare):
        patched.setattr(module, "run_jobs", run_here)
    patched.setattr(gleam.evaluation, "L1_WEIGHTS", (0.01,))


def _cut(settings: dict[str, Any], largest: Mapping[str, Any]) -> None:
    for key, most in largest.items():
        value = settings[key]
        if isinstance(value, list | tuple):
            settings[key] = [min(number, most) for number in value]
        elif value is not None:
            settings[key] = min(value, most)
