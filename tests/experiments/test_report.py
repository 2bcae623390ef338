"""The report: its numbers are those of the files, and it is read with nothing else at hand."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.memory_report import write_json
from experiments.provenance import RESULTS
from experiments.report import gather, write_report
from experiments.report_blocks import Heading, Items, Picture, Table, read_markdown
from experiments.report_html import inline
from gleam.plots import learning_curves

VOID = {"meta", "link", "img", "input", "br"}
PSNR = {
    "backprop-4": [20.0, 19.0, 21.0, 23.0, 30.31],
    "greedy-2x2": [20.0, 18.0, 26.0, 25.0, 30.87],
}
FACTS = "commit abc123, cpu Some CPU, python 3.11, torch 2.6"


class Page(HTMLParser):
    """Tags that are open, addresses that a browser asks for, and the text of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requested: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.attributes.append(values)
        if tag not in VOID:
            self.open.append(tag)
        if tag != "a":
            self.requested += [str(values[key]) for key in ("src", "href") if key in values]
        self.requested += re.findall(r"url\((.*?)\)", values.get("style") or "")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            self.requested += re.findall(r"(?:url\(|https?:).*", data)
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *head: str) -> list[dict[str, str]]:
        """The rows of the first table that has these columns."""
        found = next(table for table in self.tables if {*head} <= {*table[0]})
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


def row(variant: str, strategy: str, modules: int, psnr: float) -> dict[str, Any]:
    return {
        **{"variant": variant, "curve": strategy, "trained_as": variant, "strategy": strategy},
        **{"modules": modules, "steps": 4, "parameters": 8172, "peak_bytes": 1_960_000},
        **{"activations_bytes": 1_690_000 // modules, "step_seconds": 0.0675},
        **{"time_over_checkpoint": 0.62, "validation_psnr": psnr, "psnr_mean": psnr},
        **{"psnr_std": 0.22, "ssim_mean": 0.8687, "ssim_std": 0.0018},
        **{"nrmse_mean": 0.1234, "nrmse_std": 0.0021},
    }


def claim(title: str, met: bool, value: float, **more: Any) -> dict[str, Any]:
    names = {"variant": "greedy-2x2", "against": "backprop-4"}
    text = f"greedy-2x2 against backprop-4: {value:+.2f}"
    return {"title": title, **names, "value": value, "goal": 1.1, "met": met, "text": text, **more}


def write_results(folder: Path) -> dict[str, Any]:
    """Results as an experiment leaves them, without the training."""
    data = {"path": None, "anatomy": "knee", "size": [16, 24], "coils": 4, "train": 8}
    settings = {
        "data": {**data, "mask": {"kind": "poisson_disc", "acceleration": 4}},
        "training": {"iterations": 60, "batch_size": 1, "loss": "l1"},
        "network": {"step": "pgd"},
        "test_seed": 1000,
    }
    rows = [
        {"workers": 0, "seconds": 0.03, "speed": 1.0, "equal": True},
        {"workers": 2, "seconds": 0.02, "speed": 1.5, "equal": True},
    ]
    found = {"variant": "greedy-2x2", "iterations": 20, "provenance": {"commit": "def456"}}
    workers = {"title": "Parallel: time falls", "variant": "greedy-2x2", "value": 1.5, "met": True}
    problem = {
        **{"goal": 1.1, "seeds": [1, 2], "cases": ["a", "b"], "settings": settings},
        "rows": [row("backprop-4", "backprop", 1, 30.31), row("greedy-2x2", "greedy", 2, 30.87)],
        "claims": [
            claim("Same depth: within", True, 0.56, std=0.12, p=0.0123, share=0.31),
            claim("Same activation memory", False, 0.56, std=0.12, p=0.0123),
            claim("Time: faster", True, 1.72),
            {**workers, "text": "with 1, 2 workers: 30 ms, 20 ms"},
        ],
        "runs": {"provenance": {FACTS: 4}, "metrics": {}},
        "cost": {"source": "live CPU storages", "repeats": 30, "provenance": FACTS},
        "parallel": {**found, "rows": rows},
    }
    for name, psnr in PSNR.items():
        for seed in (1, 2):
            write_run(folder / "runs" / "pgd" / name / str(seed), psnr)
    content = {
        **{"experiment": "knee2d", "preset": "small", "problems": {"pgd": problem}},
        "command": "python -m experiments.knee2d --preset small",
    }
    write_json(folder / "results.json", content)
    return content


def write_run(folder: Path, psnr: list[float]) -> None:
    random = np.random.default_rng(0)
    ends = [2, 4] if psnr is PSNR["greedy-2x2"] else [4]
    anytime = {"psnr_mean": psnr, "psnr_std": [1.0] * 5, "case_psnr": psnr, "ends": ends}
    write_json(folder / "anytime.json", anytime)
    write_json(folder / "result.json", {"seconds": 90.0})
    images = random.integers(0, 255, (5, 16, 24), dtype=np.uint8)
    np.savez(folder / "anytime.npz", images=images, reference=images[0])
    line = "| zero-filled | 20.00 ± 1.80 | 0.80 ± 0.05 | 0.25 ± 0.05 | 2 |"
    (folder / "table.md").write_text(f"| method | PSNR |\n| --- | --- |\n{line}\n")
    losses = [{"iteration": 1, "loss": 1.0}, {"iteration": 2, "loss": 0.5}]
    learning_curves(folder / "curves.png", losses)
    learning_curves(folder / "images.png", losses)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on made-up results, with one further file of results."""
    folder = tmp_path_factory.mktemp("report")
    write_results(folder / "runs" / "knee2d" / "small")
    further = folder / "further"
    further.mkdir()
    learning_curves(further / "speed.png", [{"iteration": 1, "loss": 1.0}])
    (further / "speed.md").write_text(
        "# Speed <of> it\n\n`python -m experiments.speed`\n\n- met: fast enough\n- missed: light,\n"
        "  as it should be\n\n![a picture](speed.png)\n\n```\nx: [1]\n```\n"
    )
    notes = [
        {"claim": "Same activation", "experiment": "brain2d", "note": "of another experiment"},
        {"claim": "Same activation", "variant": "greedy", "note": "there is little depth to gain"},
        {"experiment": "speed", "variant": "light", "note": "it is heavy"},
    ]
    (folder / "notes.yaml").write_text(json.dumps(notes))
    out = folder / "out"
    files = write_report(
        [folder / "runs" / "knee2d" / "small"], out, further, folder / "notes.yaml"
    )
    assert files == [out / "report.html", out / "report.md"]
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text())


def test_the_page_is_whole_and_asks_for_nothing(page: Page):
    assert page.open == []
    assert page.requested
    assert all(address.startswith("data:") for address in page.requested)


def test_links_inside_the_page_lead_to_headings_and_pictures_are_described(page: Page):
    names = {values["id"] for values in page.attributes if "id" in values}
    links = [str(values["href"]) for values in page.attributes if "href" in values]
    inner = [link[1:] for link in links if link.startswith("#")]
    assert "knee2d-small" in inner
    assert {*inner} <= names
    assert all(values.get("alt") for values in page.attributes if "src" in values)


def test_files_that_the_markdown_shows_and_links_are_there(written: Path):
    text = (written / "report.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 6
    assert all((written / link).is_file() for link in links)
    assert "[Speed <of> it](../further/speed.md)" in text


def test_numbers_of_variants_are_those_of_the_results(page: Page):
    first, second = page.table("variant", "PSNR [dB]")
    assert first["PSNR [dB]"] == "30.31 ± 0.22"
    assert second["PSNR [dB]"] == "30.87 ± 0.22"
    assert (first["activations [MB]"], second["activations [MB]"]) == ("1.69", "0.84")
    assert (first["step [ms]"], first["training [min]"]) == ("67.5", "1.5")
    assert (first["SSIM"], first["NRMSE"]) == ("0.8687 ± 0.0018", "0.1234 ± 0.0021")
    serial, two = page.table("workers")
    assert (serial["workers"], serial["iteration [ms]"]) == ("serial", "30.0")
    assert (two["workers"], two["speed over serial"]) == ("2", "1.50")
    assert "zero-filled image has PSNR 20.00 ± 1.80 dB" in page.text


def test_claims_say_what_came_out_and_why_it_may_have_been_missed(page: Page):
    depth, time, memory, *parallel = [
        line for table in page.tables if "outcome" in table[0] for line in table[1:]
    ][:4]
    assert depth[2:] == [
        "greedy-2x2 against backprop-4, with 0.31 of its activations",
        *("+0.56 ± 0.12 dB", "0.012", "+1.10 dB", "met"),
    ]
    assert memory[-3:] == ["+1.10 dB", "missed", "there is little depth to gain"]
    assert time[3:] == ["1.72×", "1.10×", "met"]
    assert parallel[0][2:] == ["with 1, 2 workers: 30 ms, 20 ms", "1.50×", "met"]
    glance = {line["claim"]: line["met"] for line in page.table("claim", "met")}
    assert glance == {
        **{"Same depth: within": "1 of 1", "Time: faster": "1 of 1"},
        **{"Same activation memory": "0 of 1", "Parallel: time falls": "1 of 1"},
        "Goals of further experiments": "1 of 2",
    }
    assert page.table("experiment", "comparison")[-1]["experiment"] == "knee2d, small"


def test_goals_and_text_of_further_results_are_on_the_page(page: Page):
    rows = next(table for table in page.tables if table[1][0] == "speed")
    assert rows[1][1:3] == ["fast enough", "met"]
    assert rows[2][1:4] == ["light, as it should be", "missed", "it is heavy"]
    assert "Speed <of> it" in page.text
    assert "x: [1]" in page.text


def test_every_number_has_its_command_and_machine(page: Page):
    (line,) = page.table("experiment", "command")
    assert line["command"] == "python -m experiments.knee2d --preset small"
    assert line["trained and tested on"] == "Some CPU; commit abc123"
    assert f"4 runs: {FACTS}" in page.text
    assert "several workers: commit def456" in page.text


def test_the_slider_holds_the_psnr_of_every_step(page: Page, written: Path):
    frames = [values for values in page.attributes if "data-psnr" in values]
    assert [values["data-name"] for values in frames] == [*PSNR]
    assert [json.loads(str(values["data-psnr"])) for values in frames] == [*PSNR.values()]
    assert [values["data-ends"] for values in frames] == ["[4]", "[2, 4]"]
    (handle,) = [values for values in page.attributes if values.get("type") == "range"]
    assert (handle["min"], handle["max"]) == ("0", "4")
    assert "| 4 | 30.31 | 30.87 |" in (written / "report.md").read_text()


def test_results_without_their_runs_are_reported_without_images(tmp_path: Path):
    content = write_results(tmp_path / "runs")
    write_json(tmp_path / "small.json", content)
    html, _ = write_report([tmp_path / "small.json"], tmp_path / "out", None)
    page = Page(html.read_text())
    assert page.table("variant", "PSNR [dB]")[0]["PSNR [dB]"] == "30.31 ± 0.22"
    assert "training [min]" not in page.text
    assert not [values for values in page.attributes if "data-psnr" in values]


def test_runs_are_preferred_to_committed_results_and_trials_left_out(tmp_path: Path):
    runs, committed = tmp_path / "runs", tmp_path / "results"
    for folder, preset in (("small", "small"), ("quick", "quick")):
        write_json(
            runs / "knee2d" / folder / "results.json",
            {"experiment": "knee2d", "preset": preset, "problems": {}},
        )
    write_json(
        committed / "knee2d_small.json",
        {"experiment": "knee2d", "preset": "small", "problems": {}},
    )
    write_json(committed / "memory_vs_psnr_full.json", {"preset": "full", "problems": {}})
    write_json(committed / "scaling.json", {"repeats": 5})
    assert gather(runs, committed) == [
        runs / "knee2d" / "small" / "results.json",
        committed / "memory_vs_psnr_full.json",
    ]


def test_text_is_escaped_and_marks_become_tags():
    text = "**a < b** ``x`y`` [t](u.md) `[0](1)`"
    wanted = '<strong>a &lt; b</strong> <code>x`y</code> <a href="u.md">t</a> <code>[0](1)</code>'
    assert inline(text) == wanted


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_no_word_of_a_results_file_is_lost_in_reading(path: Path):
    blocks = read_markdown(path)
    assert isinstance(blocks[0], Heading)
    words = re.findall(r"\w+", str(blocks).replace("\\n", " "))
    lines = [line for line in path.read_text().splitlines() if not line.startswith("```")]
    missing = {*re.findall(r"\w+", " ".join(lines))} - {*words}
    assert not missing
    for block in blocks:
        if isinstance(block, Table):
            assert {len(row) for row in block.rows} == {len(block.head)}
        elif isinstance(block, Items):
            assert all(block.items)
        elif isinstance(block, Picture):
            assert block.path.is_file()
