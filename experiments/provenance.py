"""Where a number comes from: commit, machine and versions, for the head of every results file."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from gleam.checkpoint import versions

RESULTS = Path(__file__).parent / "results"


def provenance() -> dict[str, str]:
    """Commit (marked if there are uncommitted changes), processor, threads and versions."""
    return {"commit": _git("rev-parse", "--short", "HEAD") + _dirty(), "cpu": _cpu(), **versions()}


def as_markdown(facts: dict[str, str]) -> str:
    """One line of Markdown."""
    return ", ".join(f"{name} {value}" for name, value in facts.items()) + "\n"


def _git(*words: str) -> str:
    home = Path(__file__).parent
    try:
        done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _dirty() -> str:
    changed = _git("status", "--porcelain", "--", "*.py", "*.yaml")
    return " with changes" if changed else ""


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or "unknown"
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else "unknown"
