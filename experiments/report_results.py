"""What a report is about: the results of the reproductions, and what became of their claims."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from experiments.memory_report import with_spread
from gleam.data_config import Section


class Note(Section):
    """The likely reason why claims were missed; what is left empty fits everything."""

    note: str
    """The reason, in a sentence."""
    experiment: str = ""
    preset: str = ""
    problem: str = ""
    claim: str = ""
    """How its title begins."""
    variant: str = ""
    """How the name of the greedy variant begins."""
    against: str = ""
    """That of its rival."""


@dataclass(frozen=True)
class Results:
    """A preset of an experiment that has run.

    Attributes:
        experiment, preset, command: their names, and what makes the results.
        folder: of the preset, with the folders of its runs if these are at hand.
        problems: by name, what :func:`experiments.memory_report.summarise_problem` returns, and
            under "parallel" what came of several workers.
    """

    experiment: str
    preset: str
    command: str
    folder: Path
    problems: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.experiment}, {self.preset}"

    def runs(self, problem: str, variant: str) -> list[Path]:
        """The folders of a variant's runs, a seed each; empty if there are none here."""
        row = next(r for r in self.problems[problem]["rows"] if r["variant"] == variant)
        parent = self.folder / "runs" / problem / row["trained_as"]
        folders = [parent / str(seed) for seed in self.problems[problem]["seeds"]]
        return folders if all((f / "anytime.json").exists() for f in folders) else []


@dataclass(frozen=True)
class Outcome:
    """A claim, what came out, and where that is from.

    Attributes:
        title: of the claim.
        results: in which it was tested, on a problem of theirs.
        comparison: what is compared with what.
        value: what came out, with its unit and, if known, its standard deviation over seeds.
        p: of a test over cases, or "".
        goal: for the value.
        met: whether it is reached.
        number: the value alone.
        text: all of it in words.
        reason: the likely one for missing it, or "".
    """

    title: str
    results: str
    problem: str
    comparison: str
    value: str
    p: str
    goal: str
    met: bool
    number: float | None
    text: str
    reason: str


def read_results(path: Path) -> Results:
    """Read a ``results.json``."""
    content = json.loads(path.read_text(encoding="utf-8"))
    experiment, preset = content.get("experiment", "memory_vs_psnr"), content["preset"]
    command = content.get("command", f"python -m experiments.{experiment} --preset {preset}")
    return Results(experiment, preset, command, path.parent, content["problems"])


def read_notes(path: Path) -> list[Note]:
    """Read a YAML list of notes; none if there is no file.

    Raises:
        pydantic.ValidationError: if a note has an unknown key.
    """
    if not path.exists():
        return []
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return TypeAdapter(list[Note]).validate_python(content or [])


def outcomes_of(results: Results, notes: Sequence[Note]) -> list[Outcome]:
    """The outcome of every claim on every problem."""
    return [
        _outcome(results, name, claim, notes)
        for name, problem in results.problems.items()
        for claim in problem["claims"]
    ]


def _outcome(
    results: Results, name: str, claim: Mapping[str, Any], notes: Sequence[Note]
) -> Outcome:
    unit = " dB" if "p" in claim else "×"
    against, value = claim.get("against"), claim.get("value")
    share = f", with {claim['share']:.2f} of its activations" if "share" in claim else ""
    pair = f"{claim['variant'] or 'none fits'} against {against}{share}"
    key = results.experiment, results.preset, name
    return Outcome(
        title=claim["title"],
        results=results.name,
        problem=name,
        comparison=pair if against else claim["text"],
        value=_signed(value, claim.get("std"), unit),
        p=f"{claim['p']:.2g}" if "p" in claim else "",
        goal=_signed(claim.get("goal"), None, unit),
        met=claim["met"],
        number=value,
        text=claim["text"],
        reason="" if claim["met"] else reason_for(*key, claim, notes),
    )


def _signed(value: float | None, deviation: float | None, unit: str) -> str:
    if value is None:
        return ""
    sign = "+" if unit == " dB" and value >= 0 else ""
    return f"{sign}{with_spread(value, deviation, 2)}{unit}"


def reason_for(
    experiment: str, preset: str, problem: str, claim: Mapping[str, Any], notes: Sequence[Note]
) -> str:
    """What the first note says that fits a claim with "title", "variant" and "against"."""
    for note in notes:
        if (
            note.experiment in ("", experiment)
            and note.preset in ("", preset)
            and note.problem in ("", problem)
            and claim["title"].startswith(note.claim)
            and (claim["variant"] or "").startswith(note.variant)
            and claim.get("against", "").startswith(note.against)
        ):
            return note.note
    return "not explained yet"


def machine(origin: Iterable[str]) -> str:
    """Processors and commits, of lines of provenance."""
    facts = sorted({fact for line in origin for fact in line.split(", ")})
    processors = [fact.removeprefix("cpu ") for fact in facts if fact.startswith("cpu ")]
    commits = [fact.removeprefix("commit ") for fact in facts if fact.startswith("commit ")]
    return f"{', '.join(processors)}; commit{'s'[: len(commits) > 1]} {', '.join(commits)}"
