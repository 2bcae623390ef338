"""Preparation that is stopped, killed, repeated or shared between processes; its command."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from gleam.data.prepare import PrepareSettings, prepare
from gleam.data.prepare_scan import Job, prepare_scan, record
from gleam.data.readers.prepared import PreparedScan, verify
from gleam.data.workers import run_jobs
from gleam.data_commands import prepare as command
from tests.gleam.raw import put, raw_kspace
from tests.gleam.readers.layouts import normal

SCANS = 40  # not all done when a signal arrives
ROOT = Path(__file__).resolve().parents[2]
KILLED_WHILE_WRITING = """
import os, signal, sys
from gleam.data.prepare import prepare
from gleam.data.readers import prepared
write, written = prepared._write, []
def interrupted(file, key, values):
    written.append(key)
    if written.count("maps") == 2:
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, key, values)
prepared._write = interrupted
prepare(sys.argv[1], sys.argv[2], workers=1)
"""
COMMAND = """
import sys, typer
from gleam.data_commands import prepare
if __name__ == "__main__":
    app = typer.Typer()
    app.command()(prepare)
    app()
"""


def folder(path: Path, count: int = 3) -> Path:
    for number in range(count):
        put(path / f"{number}.h5", raw_kspace(slices=1, seed=number))
    return path


def statuses(source: Path, out: Path, workers: int = 1, **settings) -> list[str]:
    found = prepare(source, out, PrepareSettings(**settings), workers=workers)
    return [f"{scan.status}: {scan.note}" if scan.note else scan.status for scan in found]


def times(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.h5")}


def started(out: Path, *arguments: object) -> subprocess.Popen[str]:
    """A process in a group of its own, once it has finished its first file."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(out.glob("*.h5")):
        time.sleep(0.002)
    return process


def wait_for_the_end_of_all(group: int) -> None:
    """Until no process of a group is left."""
    for _ in range(1000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlived the process that started them")


def test_what_is_done_is_skipped(tmp_path: Path):
    raw, out = folder(tmp_path / "raw"), tmp_path / "out"
    settings = {"coils": 2, "crop": "auto"}
    assert statuses(raw, out, **settings) == ["prepared"] * 3
    before = times(out)
    (out / "1.h5").unlink()
    found = prepare(raw, out, PrepareSettings(**settings), workers=1)
    assert [scan.status for scan in found] == ["skipped", "prepared", "skipped"]
    assert {scan.shape for scan in found} == {(1, 2, 40, 36)}
    assert len({round(scan.energy, 2) for scan in found}) == 1
    after = times(out)
    assert [after[name] == before[name] for name in sorted(before)] == [True, False, True]
    assert after["1.h5"][1] == before["1.h5"][1]


def test_other_settings_and_changed_sources_are_made_again(tmp_path: Path):
    raw, out = folder(tmp_path / "raw"), tmp_path / "out"
    assert statuses(raw, out) == ["prepared"] * 3
    again = "prepared: made again: "
    assert statuses(raw, out, sets=2) == [again + "other settings"] * 3
    assert PreparedScan(out / "0.h5").maps().shape[1] == 2
    found = prepare(raw, out, PrepareSettings(sets=2), covariance=np.eye(4), workers=1)
    assert {scan.note for scan in found} == {"made again: other settings"}

    assert statuses(raw, out) == [again + "other settings"] * 3
    with h5py.File(raw / "1.h5", "r+") as file:
        file["kspace"][0, 0, 0, 0] += 1
    assert statuses(raw, out) == ["skipped", again + "the source has changed", "skipped"]
    assert PreparedScan(out / "1.h5").kspace()[0, 0, 0, 0] == file_sample(raw / "1.h5")
    (out / "2.h5").write_bytes(b"not HDF5")
    assert statuses(raw, out)[2] == again + "the file there could not be read"
    verify(out / "2.h5")


def file_sample(path: Path) -> complex:
    with h5py.File(path) as file:
        return complex(file["kspace"][0, 0, 0, 0])


def test_a_source_of_the_same_size_and_time_with_another_end_is_another(tmp_path: Path):
    path = tmp_path / "a.h5"
    records = []
    for end in (b"one", b"two"):
        path.write_bytes(bytes(200000) + end)
        os.utime(path, ns=(10**18, 10**18))
        records.append(record(path, PrepareSettings(), None))
    assert records[0] != records[1]
    path.with_suffix(".hdr").write_text("# Dimensions")
    assert record(path, PrepareSettings(), None) != records[1]


def test_a_process_that_is_killed_leaves_no_half_file(tmp_path: Path):
    raw, out = folder(tmp_path / "raw"), tmp_path / "out"
    process = started(out, "-c", KILLED_WHILE_WRITING, raw, out)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    names = sorted(path.name for path in out.iterdir())
    assert [name for name in names if name.endswith(".h5")] == ["0.h5"]
    assert len(names) == 2
    verify(out / "0.h5")
    assert statuses(raw, out) == ["skipped", "prepared", "prepared"]
    assert sorted(path.name for path in out.iterdir()) == ["0.h5", "1.h5", "2.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(tmp_path: Path, stop: signal.Signals):
    raw, out = folder(tmp_path / "raw", SCANS), tmp_path / "out"
    (tmp_path / "command.py").write_text(COMMAND)
    options = ["--workers", 2]
    process = started(out, tmp_path / "command.py", raw, out, *options)
    process.send_signal(stop)  # to this process only
    process.wait()
    wait_for_the_end_of_all(process.pid)
    printed, errors = process.communicate()
    done = list(out.glob("*.h5"))
    assert 0 < len(done) < SCANS
    for path in done:
        verify(path)
    assert "Traceback" not in errors
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "preparing was stopped; run the same command again to go on" in printed
        assert len(list(out.iterdir())) == len(done)
    found = statuses(raw, out)
    assert found.count("skipped") == len(done)
    assert found.count("prepared") == SCANS - len(done)
    assert len(list(out.iterdir())) == SCANS


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_bit(tmp_path: Path):
    raw = folder(tmp_path / "raw")
    put(raw / "large.h5", raw_kspace(slices=4))
    (raw / "bad.h5").write_bytes(b"")
    found = [prepare(raw, tmp_path / str(n), workers=n) for n in (1, 2)]
    assert [[scan.status for scan in scans] for scans in found] == [
        ["prepared"] * 4 + ["failed"]
    ] * 2
    for one, other in zip(*found, strict=True):
        assert one.name == other.name
        if one.status == "prepared":
            assert one.path.read_bytes() == other.path.read_bytes()


def end_of_the_process(job: tuple[str, Path]) -> str:
    """A job that ends its process always, but not before the first job's mark, once, or never."""
    kind, mark = job
    while kind == "always" and not mark.with_name("0").exists():
        time.sleep(0.01)
    if kind == "always" or (kind == "once" and not mark.exists()):
        mark.touch()
        os._exit(9)
    return kind


@pytest.mark.slow
def test_a_worker_that_dies_loses_only_the_job_that_kills_it_alone_too(tmp_path: Path):
    kinds = ["once", "never", "never", "always", "never"]
    jobs = [(kind, tmp_path / str(number)) for number, kind in enumerate(kinds)]
    heard: list[tuple[int, str | None]] = []
    run_jobs(end_of_the_process, jobs, 2, lambda *result: heard.append(result))
    assert sorted(heard) == [
        (number, None if kind == "always" else kind) for number, kind in enumerate(kinds)
    ]
    assert multiprocessing.active_children() == []


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.slow
def test_an_interruption_does_not_wait_for_jobs():
    def interrupt(number: int, result: float | None) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(sleep, [0, 600, 600], 2, interrupt)
    assert time.monotonic() - start < 300
    assert multiprocessing.active_children() == []


def test_scans_that_a_dead_worker_had_are_reported(tmp_path: Path, monkeypatch):
    import gleam.data.prepare as module

    def lose_all(function, jobs, workers, done) -> None:
        for number in range(len(jobs)):
            done(number, None)

    raw = folder(tmp_path / "raw", 2)
    monkeypatch.setattr(module, "run_jobs", lose_all)
    assert all("lack of memory" in s for s in statuses(raw, tmp_path / "out"))
    with pytest.raises(ValueError, match="at least 1 worker"):
        run_jobs(prepare_scan, [], 0, lambda number, result: None)


def test_the_largest_scans_come_first(tmp_path: Path, monkeypatch):
    import gleam.data.prepare as module

    order: list[str] = []

    def listed(function, jobs: list[Job], workers: int, done) -> None:
        order.extend(job.scan.name for job in jobs)
        run_jobs(function, jobs, workers, done)

    for name, slices in (("a", 1), ("b", 3), ("c", 2)):
        put(tmp_path / "raw" / f"{name}.h5", raw_kspace(slices=slices))
    monkeypatch.setattr(module, "run_jobs", listed)
    found = prepare(tmp_path / "raw", tmp_path / "out", workers=1)
    assert order == ["b", "c", "a"]
    assert [scan.name for scan in found] == ["a", "b", "c"]


def invoke(*words: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_shows_a_table_and_its_exit_code_tells(tmp_path: Path):
    raw, out = folder(tmp_path / "raw", 2), tmp_path / "out"
    np.save(tmp_path / "noise.npy", np.eye(4))
    words = [raw, out, "--workers", 1, "--coils", 3, "--compression", "geometric", "--sets", 1]
    words += ["--maps", "low_resolution", "--crop", "auto", "--calibration", 20, "--slices"]
    words += ["--covariance", tmp_path / "noise.npy"]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    for word in ("energy kept", "seconds", "prepared", "40 x 36", "2 of 2 scans are ready"):
        assert word in result.output
    assert result.output.count("skipped") == 0
    put(raw / "nan.h5", np.full((1, 4, 40, 36), np.nan, np.complex64))
    put(raw / "pure.h5", normal(1, 2, 40, 36))
    result = invoke(*words)
    assert result.exit_code == 1
    assert result.output.count("skipped") == 2
    assert "nan failed: " in result.output
    assert "kspace[0]: holds NaN or infinity" in result.output
    assert "pure failed: the covariance must be of 2 x 2 coils" in result.output
    assert "2 of 4 scans are ready" in result.output
    assert "Traceback" not in result.output
    result = invoke(raw, out, "--crop", "much")
    assert "--crop must be auto or a number, got 'much'" in str(result.exception)
