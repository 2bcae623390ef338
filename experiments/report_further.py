"""Results of experiments that write Markdown of their own, as parts of a report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.report_blocks import (
    Block,
    Fold,
    Heading,
    Items,
    Picture,
    Table,
    read_markdown,
)
from experiments.report_figures import shrink
from experiments.report_results import Note, Outcome, reason_for

TITLE = "Goals of further experiments"
COMMAND = re.compile(r"`(python -m experiments\.[^`]+)`")


@dataclass(frozen=True)
class Further:
    """A Markdown file of results.

    Attributes:
        path: of the file.
        blocks: what it holds, its title left out.
        title: the first heading.
        command: what makes it, or "" if it does not say.
    """

    path: Path
    blocks: Sequence[Block]
    title: str
    command: str


def read_further(folder: Path) -> list[Further]:
    """The Markdown files of a folder, but for those of reproductions, which have results beside."""
    return [
        _read(path)
        for path in sorted(folder.glob("*.md"))
        if not has_problems(path.with_suffix(".json"))
    ]


def has_problems(path: Path) -> bool:
    """Whether a file is a reproduction's ``results.json``."""
    return path.exists() and "problems" in json.loads(path.read_text(encoding="utf-8"))


def _read(path: Path) -> Further:
    title, *blocks = read_markdown(path)
    if not isinstance(title, Heading):
        raise ValueError(f"{path} must begin with a heading, got {title}")
    command = COMMAND.search(path.read_text(encoding="utf-8"))
    return Further(path, blocks, title.text, command[1] if command else "")


def further_outcomes(further: Further, notes: Sequence[Note]) -> list[Outcome]:
    """Its items that begin with "met:" or "missed:"."""
    items = [item for block in further.blocks if isinstance(block, Items) for item in block.items]
    name = further.path.stem
    outcomes = []
    for item in items:
        word, _, text = item.partition(": ")
        if word in ("met", "missed"):
            claim = {"title": TITLE, "variant": text}
            reason = reason_for(name, "", "", claim, notes) if word == "missed" else ""
            outcomes.append(
                Outcome(TITLE, name, "", text, "", "", "", word == "met", None, text, reason)
            )
    return outcomes


def listed(everything: Sequence[Further], folder: Path) -> list[Block]:
    """A table of links to them, for a file in a folder."""
    rows = [
        [
            f"[{further.title}]({Path(os.path.relpath(further.path, folder)).as_posix()})",
            f"`{further.command}`" if further.command else "",
        ]
        for further in everything
    ]
    return [Heading("Further experiments", 2), Table(["results", "command"], rows)]


def appended(everything: Sequence[Further], figures: Path) -> list[Block]:
    """All that they hold, folded; pictures are made small in a folder."""
    return [
        Heading("Further experiments", 2),
        *(
            Fold(further.title, [_adapted(block, figures) for block in further.blocks])
            for further in everything
        ),
    ]


def _adapted(block: Block, figures: Path) -> Block:
    if isinstance(block, Heading):
        return replace(block, level=block.level + 2)
    if isinstance(block, Picture):
        return replace(block, path=shrink(block.path, figures / f"{block.path.stem}.webp"))
    return block
