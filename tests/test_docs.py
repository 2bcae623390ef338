"""The documentation: the site builds without a warning, and what its pages say to run runs."""

import doctest
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gleam.raw import raw_kspace
from tests.gleam.readers.layouts import write_fastmri
from tests.helpers import seeded
from tests.snippets import blocks_of, commands_of, cut_down, parse, run

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("api/*.md")])
PARALLEL = DOCS / "cluster.md"

EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for layer in ("physics", "models", "gleam")
    for path in (ROOT / layer).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
"""Modules with examples in their docstrings."""

TO_RUN = [p for p in PAGES if {b.language for b in blocks_of(p)} & {"python", "sh", "yaml"}]

NOT_RUN = {
    "pip install": "changes the environment; .ci/run installs from the README in a new one",
    "gleam demo": "tests/gleam/test_cli.py runs it small",
    "gleam plan volume.yaml": "takes long; knee.yaml is planned, volumes in gleam/test_planning.py",
    "gleam.export(": "tests/gleam/test_exporting.py, a quarter of a minute",
    "python -m sphinx": "the test of the site runs it",
}
"""Beginnings of commands and code of the pages that are not run here, and who does."""

if importlib.util.find_spec("fastmri") is None:
    NOT_RUN["from fastmri"] = "needs fastmri; tests/gleam/test_adapters.py has a stand-in"


def fastmri(folder: Path) -> None:
    """A folder in fastMRI's layout: 128 x 128 with twofold oversampling along y, 8 coils."""
    names = {
        "multicoil_train": ("file1000001", "file1000002"),
        "multicoil_val": ("file1000000", "file1001057"),
        "multicoil_test": ("file1000022",),
    }
    columns = np.zeros(128, dtype=bool)
    columns[::4] = columns[56:72] = True
    for split, files in names.items():
        (folder / "fastmri" / split).mkdir(parents=True)
        for name in files:
            kspace = raw_kspace(3, 8, (128, 128), seed=int(name.removeprefix("file")))
            hidden = columns if split == "multicoil_test" else None
            kspace = kspace if hidden is None else kspace * hidden
            write_fastmri(folder / "fastmri" / split / f"{name}.h5", kspace, mask=hidden)


GIVEN: dict[str, Callable[[Path], Any]] = {"train_on_fastmri.md": fastmri}
"""What a reader of a page has before it begins."""


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path):
    words = [
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "-d",
        tmp_path / "doctrees",
    ]
    build = subprocess.run(
        [sys.executable, *words, ROOT / "docs", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]*)"', text)
        assert fetched == [], f"{page.name} fetches {fetched}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in TO_RUN if page != PARALLEL], ids=lambda p: p.stem
)
def test_what_a_page_says_to_run_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cut_down(monkeypatch)
    if page.name in GIVEN:
        GIVEN[page.name](tmp_path)
    with seeded():  # for the first weights of networks
        run(blocks_of(page), {}, [*NOT_RUN])


def test_every_command_is_one_that_gleam_understands():
    for block, words in commands_of([*PAGES, ROOT / "README.md"]):
        if words[0] == "gleam":
            parse(block, words[1:])


def test_every_file_a_page_links_to_exists():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        links = re.findall(r"\]\(([^)#:]+)[)#]", text)
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name


def test_measured_figures_are_those_of_the_results():
    def figures(text: str) -> set[str]:
        words = " ".join(text.split()).replace(" dB ±", " ±")
        return set(re.findall(r"\d+\.\d+ ± \d+\.\d+", words))

    results = [ROOT / "experiments" / "README.md", *(ROOT / "experiments" / "results").glob("*.md")]
    known = figures("".join(path.read_text(encoding="utf-8") for path in results))
    for page in PAGES:
        assert figures(page.read_text(encoding="utf-8")) - known == set(), page.name


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in (DOCS / "index.md", DOCS / "api" / "index.md"):
        for block in blocks_of(page):
            if block.language == "{toctree}":
                listed |= {(page.parent / f"{line}.md") for line in block.text.splitlines()}
    assert set(PAGES) - listed == {DOCS / "index.md"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_in_docstrings_are_right(name: str):
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed
