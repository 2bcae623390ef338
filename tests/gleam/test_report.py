"""Tables and pictures of an evaluation."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gleam.evaluation import Evaluation
from gleam.report import markdown_table, print_table, write_report
from tests.helpers import normal


@pytest.fixture
def evaluation() -> Evaluation:
    slices = {
        "zero-filled": [
            {"psnr": 20.0, "ssim": 0.5, "nrmse": 0.3},
            {"psnr": 22.0, "ssim": 0.6, "nrmse": 0.2},
        ],
        "network": [
            {"psnr": 30.0, "ssim": 0.9, "nrmse": 0.1},
            {"psnr": 33.0, "ssim": 0.92, "nrmse": 0.08},
        ],
    }
    images = {name: normal(1, 16, 16, seed=n) for n, name in enumerate([*slices, "reference"])}
    examples = {"worst": images, "median": images, "best": images}
    return Evaluation(slices, slices, examples, [3.0, 3.05], ("a.h5 is damaged",))


def test_the_table_shows_mean_and_deviation_of_every_method(evaluation: Evaluation):
    assert markdown_table(evaluation).splitlines() == [
        "| method | PSNR [dB] | SSIM | NRMSE | slices |",
        "| --- | --- | --- | --- | --- |",
        "| zero-filled | 21.00 ± 1.41 | 0.5500 ± 0.0707 | 0.2500 ± 0.0707 | 2 |",
        "| network | 31.50 ± 2.12 | 0.9100 ± 0.0141 | 0.0900 ± 0.0141 | 2 |",
    ]


def test_the_table_is_printed(evaluation: Evaluation):
    stream = io.StringIO()
    print_table(evaluation, Console(file=stream, width=120))
    text = stream.getvalue()
    for word in (
        "PSNR [dB]",
        "31.50 ± 2.12",
        "zero-filled",
        "standard deviation over slices",
        "acceleration 3.00 to 3.05",
        "left out: a.h5",
    ):
        assert word in text


def test_the_report_holds_metrics_table_and_pictures(evaluation: Evaluation, tmp_path: Path):
    written = write_report(evaluation, tmp_path / "new")
    names = ["metrics.json", "table.md", "worst.png", "median.png", "best.png"]
    assert [path.name for path in written] == names
    assert all(path.exists() for path in written)
    content = json.loads(written[0].read_text())
    assert content["slices"] == evaluation.slices
    assert content["accelerations"] == [3.0, 3.05]
    assert content["summary"] == evaluation.summary
    assert content["scan_summary"]["network"]["psnr"]["mean"] == 31.5
    assert written[1].read_text() == markdown_table(evaluation)
    assert written[2].read_bytes().startswith(b"\x89PNG")
