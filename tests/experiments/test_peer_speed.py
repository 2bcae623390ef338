"""Other packages' building blocks: that they compute what ours do, before they are timed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import peer_speed
from experiments.peers import bart, modl_steps, operators, rates
from experiments.peers.modl import make_cnns
from experiments.peers.operators import MASKS, SIZES, make_problem, ours
from experiments.peers.packages import imports
from experiments.peers.reconstruction import cg_sense, residual
from experiments.peers.timing import OURS, Contender, as_rows, differences, relative, time_in_turn
from gleam.batch import Batch


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    for kind, size in {"2D": (32, 36), "3D": (32, 32, 36), "2D+t": (3, 32, 36)}.items():
        monkeypatch.setitem(SIZES, kind, size)
    monkeypatch.setattr(operators, "CALIBRATION", 4)


@pytest.mark.parametrize("pattern", MASKS)
@pytest.mark.parametrize("kind", SIZES)
def test_every_package_has_the_same_operator(kind: str, pattern: str):
    encodings = peer_speed.encodings_of(make_problem(kind, pattern))
    assert {OURS, "torch, as the formula reads", "sigpy"} <= set(encodings)
    for operation in ("adjoint", "normal"):
        found = differences({n: peer_speed.operation(e, operation) for n, e in encodings.items()})
        assert len(found) == len(encodings) - 1
        assert all(float(value) < 1e-5 for value in found.values()), found


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_conjugate_gradients_of_every_package_end_at_the_same_residual(kind: str):
    problem = make_problem(kind, "2D")
    contenders = cg_sense(problem, peer_speed.encodings_of(problem), threads=1)
    residuals = [residual(problem, c.result(c.run())) for c in contenders.values()]
    assert len(residuals) >= 3
    assert max(residuals) < 2 * min(residuals) < 1e-3


def test_the_networks_of_all_packages_give_the_same_image_and_gradient(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(modl_steps, "CHECKED_AT", 40)
    problem = make_problem("2D", "1D")
    batch = Batch(ours(problem).kspace, problem.mask, problem.maps, problem.image)
    notes = modl_steps.check(problem, batch, make_cnns(4))
    assert "torch, as the formulas read" in notes
    for note in notes.values():
        image, gradient = (float(part.split()[-1]) for part in note.split(", "))
        assert image < 1e-3
        assert gradient < 1e-2


def test_arrays_come_back_from_the_toolbox_as_they_went(tmp_path: Path, monkeypatch):
    # A program in its place that copies its input, as "bart copy" does, and says how long it took.
    program = tmp_path / "bart"
    program.write_text(
        "#!/bin/sh\nfor e in hdr cfl; do cp $2.$e $3.$e; done\necho Total Time: 0.25\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    array = torch.arange(24.0).reshape(4, 3, 1, 2) * (1 + 2j)
    finished = bart.run(["copy", "array", "out"], {"array": array}, threads=1)
    assert torch.equal(finished.result, array.to(torch.complex64))
    assert finished.seconds == 0.25


def test_axes_are_in_the_order_of_the_toolbox(tmp_path: Path):
    array = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)).to(torch.complex64)
    bart.write(tmp_path / "array", array)
    header = (tmp_path / "array.hdr").read_text().splitlines()[1].split()
    assert header[:4] == ["3", "4", "5", "1"]
    stored = np.fromfile(tmp_path / "array.cfl", np.complex64)
    assert stored[1] == array[0, 0, 1].numpy()  # x runs fastest


@pytest.mark.skipif(shutil.which("bart") is None, reason="needs the BART toolbox")
def test_the_toolbox_finds_the_same_image():
    problem = make_problem("2D", "2D")
    encodings = {OURS: ours(problem)}
    contenders = cg_sense(problem, encodings, threads=1)
    (found,) = differences(contenders).values()
    assert float(found) < 1e-4


def test_ratios_are_medians_within_rounds_and_the_first_round_does_not_count():
    clock = iter([100.0, 9.0, 1.0, 2.0, 10.0, 30.0, 2.0, 8.0])
    seconds = time_in_turn(
        {
            OURS: Contender(lambda: next(clock), seconds=float),
            "other": Contender(lambda: next(clock), seconds=float),
        },
        rounds=3,
    )
    assert seconds == {OURS: [1.0, 10.0, 2.0], "other": [2.0, 30.0, 8.0]}
    rows = as_rows("x", seconds, {"other": "note"})
    assert rows[1] == "| x | other | 8000.00 | 3.00 | note |"


def test_the_table_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peer_speed, "RESULTS", tmp_path)
    monkeypatch.setattr(rates, "SIZE", 16)
    monkeypatch.setattr(rates, "PRODUCT", 64)
    command = ["peer_speed", "--rounds", "1", "--threads", "1", "--part", "espirit", "rates"]
    monkeypatch.setattr("sys.argv", command)
    peer_speed.main()
    text = (tmp_path / "peer_speed.md").read_text()
    assert "| 2D 32x36, 8 coils | sigpy |" in text
    assert "ConvNet, 32 features, training" in text
    assert "fft" in text
    assert f"mrpro {'not here' if not imports('mrpro') else ''}" in text


def test_differences_are_relative():
    assert relative(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)
