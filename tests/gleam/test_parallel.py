"""Parallel greedy training gives what serial greedy training gives: bit for bit."""

import json
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.optim import SGD

import gleam.trainer
from gleam.data import DataError, write_scan
from gleam.strategies import OutOfReachError, Strategy
from tests.gleam import tiny
from tests.gleam.ray_session import (
    OF_WORKERS,
    PARALLEL,
    Batches,
    Eventful,
    assert_same_run,
    mixed_network,
    parallel,
    serial,
    state_of,
    told,
    wait_until,
    workers_alive,
)
from tests.helpers import relative, same, weights_of

ITERATIONS = 50
KEPT = (20, ITERATIONS)
ACCUMULATED = Batches(sizes=((1, 1),))


@pytest.fixture(scope="module")
def expected() -> tuple[list[Any], dict[int, Any]]:
    """What serial training reports, and its state after some iterations."""
    return trained(serial())


def trained(strategy: Strategy) -> tuple[list[Any], dict[int, Any]]:
    """Reports of all iterations and one training step more; states where they are kept."""
    reports, states = [], {}
    for result in strategy.train(ACCUMULATED, 0, ITERATIONS, KEPT.__contains__):
        reports.append(told(result))
        if len(reports) in KEPT:
            states[len(reports)] = state_of(strategy)
        if "idle" in result:
            check_workers(result, len(strategy._assignment))
    reports.append(told(strategy.train_step(*next(ACCUMULATED(ITERATIONS, ITERATIONS + 1)))))
    states[ITERATIONS + 1] = state_of(strategy)
    return reports, states


def check_workers(result: Any, workers: int) -> None:
    """What an iteration says about its workers is possible."""
    assert all(len(result[name]) == workers for name in OF_WORKERS)
    assert all(0 <= share <= 1 for share in result["idle"])
    assert all(0 <= waiting <= 2 * workers for waiting in result["queues"])
    assert all(seconds > 0 for seconds in result["worker_seconds"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3, 4])  # two: in test_parallel_faults.py
def test_weights_optimizers_and_reports_are_those_of_serial_training(
    ray_session, expected, tmp_path: Path, workers: int
):
    trace = tmp_path / "timeline.json"
    with closing(parallel(workers=workers, costs=None, timeline=trace)) as strategy:
        reports, states = trained(strategy)
    assert reports == expected[0]
    assert tiny.equal(states, expected[1])
    norms = np.array([report["gradient_norms"] for report in reports])
    assert norms.min() < 0.2 < norms.max()  # clipping sometimes acts
    assert not same(states[20][0], states[ITERATIONS][0])
    check_timeline(json.loads(trace.read_text()), workers)


def check_timeline(trace: list[Any], workers: int) -> None:
    """No worker does two things at once, or begins before the one ahead of it is done."""
    spans = {(e["tid"], e["name"]): (e["ts"], e["ts"] + e["dur"]) for e in trace if e}
    names = [f"{what} {n}" for n in range(1, ITERATIONS + 2) for what in ("load", "train")]
    assert spans.keys() == {(worker, name) for worker in range(workers) for name in names}
    slack = 2  # microseconds, of rounding
    for worker in range(workers):
        own = [spans[worker, name] for name in names]
        assert all(a[1] <= b[0] + slack for a, b in pairwise(own))
        for n in range(1, ITERATIONS + 2) if worker else ():
            assert spans[worker - 1, f"train {n}"][1] <= spans[worker, f"load {n}"][0] + slack


@pytest.mark.slow
def test_replicas_divide_batches_or_their_images_and_learn_what_one_would(ray_session):
    feed = Batches(sizes=((1, 1), (2,), (2, 2)))
    settings = {"optimizer": partial(SGD, lr=0.5, momentum=0.9)}
    alone, together = serial(**settings), parallel(workers=2, replicas=2, **settings)
    before = weights_of(alone.network)
    with closing(together):
        wanted = [told(result) for result in alone.train(feed, 0, 9, lambda n: n == 9)]
        got = [told(result) for result in together.train(feed, 0, 9, lambda n: n == 9)]
        batches = next(feed(9, 10))
        wanted.append(told(alone.train_step(*batches)))
        got.append(told(together.train_step(*batches)))
        together.synchronise()
        with pytest.raises(ValueError, match="2 replicas need equal shares"):
            together.train_step(*next(Batches()(10, 11)))
    for one, other in zip(got, wanted, strict=True):
        for name in other:
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    for first, one, other in zip(
        before, together.network.parameters(), alone.network.parameters(), strict=True
    ):
        assert relative(one.detach() - first, other.detach() - first) < 1e-3


@pytest.mark.slow
def test_a_slow_worker_holds_up_those_before_it(ray_session, tmp_path: Path):
    """No more batches than the queues allow are under way, yet as many; who trains what is told.

    So is a transport that cannot be had.
    """
    said: list[str] = []
    network = mixed_network()
    network.steps[0] = Eventful(network.steps[0], tmp_path / "first")
    network.steps[3] = Eventful(network.steps[3], tmp_path / "last", seconds=0.1)
    ahead = []
    with closing(parallel(network, costs=[1, 1, 1, 3], transport="nccl")) as strategy:
        strategy.notice = said.append
        for done, _ in enumerate(strategy.train(Batches(), 0, 16, lambda n: n == 16), start=1):
            ahead.append((tmp_path / "first").stat().st_size - done)
    assert said == [
        "2 workers train the modules 0-2, 3-3; expected speed-up over one worker 2.00",
        "nccl moves tensors between devices of type cuda, not cpu; states travel through Ray's "
        "object store instead",
    ]
    assert max(ahead) == 2 * 2 - 1  # one more was counted as under way until it was yielded
    assert wait_until(lambda: not workers_alive(), 10)


@pytest.mark.slow
def test_direct_transport_changes_no_weight(ray_session, expected):
    said: list[str] = []
    with closing(parallel(transport="gloo")) as strategy:
        strategy.notice = said.append
        reports = [told(r) for r in strategy.train(ACCUMULATED, 0, KEPT[0], KEPT.__contains__)]
        assert reports == expected[0][: KEPT[0]]
        assert tiny.equal(state_of(strategy), expected[1][KEPT[0]])
    assert len(said) == 1  # nothing about another way


def test_weights_that_were_not_kept_are_out_of_reach_while_workers_go_on(ray_session):
    with closing(parallel(workers=1)) as strategy:
        results = strategy.train(Batches(), 0, 20, lambda n: n == 20)
        next(results)
        with pytest.raises(OutOfReachError, match="the weights after iteration 1"):
            strategy.synchronise()
        under_way = [*strategy.stop()]
        assert len(under_way) == 1  # of a queue of two
        strategy.synchronise()
        assert [*results] == []
    reference = serial()
    assert len([*reference.train(Batches(), 0, 2, bool)]) == 2
    assert tiny.equal(state_of(strategy), state_of(reference))


# Through the trainer, on simulated scans and files


SWITCHED: dict[str, Any] = {"training": {"iterations": 12, "validate_every": 5, "save_every": 4}}


@pytest.mark.slow
def test_a_run_may_change_between_serial_and_parallel(ray_session, tmp_path: Path):
    whole = tiny.train(tmp_path / "whole", **SWITCHED, strategy="greedy").folder
    run = tmp_path / "run"
    for iterations, strategy in ((4, "greedy"), (8, PARALLEL), (12, "greedy")):
        training = {**SWITCHED["training"], "iterations": iterations}
        assert tiny.train(run, training=training, strategy=strategy, resume=True).finished
    # Each part ends with a validation that the whole one does not have.
    last, wanted = (tiny.state(folder / "last.pt") for folder in (run, whole))
    assert tiny.equal(last["network"], wanted["network"])
    assert tiny.equal(last["strategy"], wanted["strategy"])
    first, second = (
        [told(record) for record in tiny.records(folder) if "loss" in record]
        for folder in (run, whole)
    )
    assert first == second
    assert len(first) == 12


@pytest.mark.slow
def test_patience_stops_a_run_with_the_weights_of_that_iteration(
    ray_session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    training = {"iterations": 50, "validate_every": 3, "save_every": 50, "patience": 2}
    for name, strategy in (("serial", "greedy"), ("parallel", PARALLEL)):
        scores = iter([20.0, 21.0, 20.9, 21.0, 30.0])
        monkeypatch.setattr(
            gleam.trainer,
            "evaluate_slice",
            lambda image, target, scores=scores: {"psnr": next(scores), "ssim": 0.5, "nrmse": 0.1},
        )
        changes = {"training": training, "data": {"validate_on": 1}, "strategy": strategy}
        result = tiny.train(tmp_path / name, **changes)
        assert (result.iteration, result.psnr, result.finished) == (12, 21.0, True)
    assert_same_run(tmp_path / "parallel", tmp_path / "serial")


def scans(folder: Path, **counts: int) -> None:
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            kspace = tiny.brain_kspace(10 * len(split) + number)[None].numpy()
            write_scan(folder / split / f"{split}{number}.h5", kspace)


def spoil_scan(path: Path) -> None:
    write_scan(path, np.full((1, 3, 32, 32), np.nan, np.complex64))


@pytest.mark.slow
def test_scans_left_out_by_workers_are_listed_at_the_end(ray_session, tmp_path: Path):
    scans(tmp_path / "data", train=4, validate=2)
    spoil_scan(tmp_path / "data" / "train" / "train1.h5")
    spoil_scan(tmp_path / "data" / "validate" / "validate0.h5")
    data = {"path": tmp_path / "data", "skip_bad": True}
    there = tiny.train(tmp_path / "parallel", data=data, strategy=PARALLEL)
    here = tiny.train(tmp_path / "serial", data=data, strategy="greedy")
    assert len(here.skipped) == 2
    assert there.skipped == here.skipped
    assert_same_run(there.folder, here.folder)


@pytest.mark.slow
def test_a_bad_scan_in_the_middle_of_a_run_is_named_and_loses_nothing(ray_session, tmp_path: Path):
    scans(tmp_path / "data", train=6, validate=1)
    changes = {
        "data": {"path": tmp_path / "data"},
        "training": {"iterations": 6, "validate_every": 6, "save_every": 6},
    }
    whole = tiny.train(tmp_path / "whole", **changes, strategy="greedy")
    spoilt = tmp_path / "data" / "train" / "train3.h5"
    good = spoilt.read_bytes()
    spoil_scan(spoilt)
    messages = []
    for name, strategy in (("serial", "greedy"), ("parallel", PARALLEL)):
        with pytest.raises(DataError, match=r"train3\.h5.*holds NaN.*saved after") as caught:
            tiny.train(tmp_path / name, **changes, strategy=strategy)
        messages.append(str(caught.value))
    assert messages[1] == messages[0]
    spoilt.write_bytes(good)
    tiny.train(tmp_path / "parallel", **changes, strategy=PARALLEL, resume=True)
    assert_same_run(tmp_path / "parallel", whole.folder)
