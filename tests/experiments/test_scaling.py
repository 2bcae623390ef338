"""The scaling benchmark: its simulation against pipelines worked out by hand, and its report."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments import scaling
from experiments.scaling import Took
from experiments.scaling_model import (
    Handover,
    Operation,
    bubble,
    greedy_orders,
    greedy_parallel,
    most_stored,
    passes,
    pipeline_orders,
    pipeline_parallel,
    simulate,
)
from experiments.scaling_prediction import Costs, predict_greedy, predict_pipeline
from experiments.scaling_report import costs_of, goals, markdown
from experiments.step_cost import make_batch
from gleam.parallel.monitor import Monitor
from gleam.parallel.worker import Report

FREE = Handover()
COSTS = Costs(
    module=0.1,
    batch=0.0,
    forward=0.03,
    backward=0.06,
    update=0.0,
    handover=FREE,
    driver=0.0,
    queue=2,
    state_bytes=1_000_000,
    greedy_bytes=30_000_000,
    activation_bytes=20_000_000,
)


def spans(stages: list[float], handover: Handover = FREE, window: int = 100, driver: float = 0.0):
    return simulate(greedy_orders(stages, handover, window, driver, 4))


def test_a_pipeline_fills_and_then_waits_for_its_slowest_stage():
    found = spans([2, 3, 1])
    assert [found["train", 0, n] for n in range(4)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [found["train", 1, n] for n in range(4)] == [(2, 5), (5, 8), (8, 11), (11, 14)]
    assert [found["train", 2, n] for n in range(4)] == [(5, 6), (8, 9), (11, 12), (14, 15)]
    steady = greedy_parallel([2, 3, 1], FREE, queue=2)
    assert steady.seconds == pytest.approx(3)
    assert steady.idle == pytest.approx([1 / 3, 0, 2 / 3])


def test_a_full_queue_keeps_the_first_stage_waiting_for_the_last():
    found = spans([1, 3], window=2)
    assert [found["train", 0, n] for n in range(4)] == [(0, 1), (1, 2), (4, 5), (7, 8)]
    assert [found["train", 1, n] for n in range(4)] == [(1, 4), (4, 7), (7, 10), (10, 13)]


def test_a_queue_too_short_for_the_way_through_costs_throughput():
    # Four batches may be under way; each needs 4 stages and 3 transfers of a second.
    assert greedy_parallel([1] * 4, Handover(0, 1), queue=1).seconds == pytest.approx(7 / 4)
    assert greedy_parallel([1] * 4, Handover(0, 1), queue=2).seconds == pytest.approx(1)


def test_packing_keeps_the_sender_busy_and_a_transfer_does_not():
    found = spans([1, 1], Handover(packing=0.25, transfer=0.5))
    assert found["train", 1, 0] == (1.75, 2.75)
    assert found["train", 0, 1] == (1.25, 2.25)
    assert greedy_parallel([1, 1], Handover(0.25, 0.5), queue=2).seconds == pytest.approx(1.25)
    assert greedy_parallel([1, 1], Handover(0, 0.5), queue=2).seconds == pytest.approx(1)
    assert greedy_parallel([1, 1], Handover(0.25, 0), queue=2).idle == pytest.approx([0, 0.2])


def test_a_link_carries_one_state_at_a_time():
    found = spans([1, 1], Handover(transfer=2.5))
    assert [found["send", 0, n] for n in range(3)] == [(1, 3.5), (3.5, 6), (6, 8.5)]
    assert greedy_parallel([1, 1], Handover(transfer=2.5), queue=9).seconds == pytest.approx(2.5)


def test_a_driver_that_needs_longer_than_a_stage_sets_the_pace():
    assert spans([1, 1], driver=0.5)["train", 0, 0] == (0.5, 1.5)
    assert greedy_parallel([1] * 4, FREE, queue=2, driver=0.5).seconds == pytest.approx(2)
    assert greedy_parallel([1] * 4, FREE, queue=2, driver=0.1).seconds == pytest.approx(1)


def test_one_worker_alone_hands_nothing_on():
    found = greedy_parallel([3], Handover(1, 1), queue=2)
    assert (found.seconds, found.idle) == (pytest.approx(3), [pytest.approx(0)])


def test_operations_that_wait_for_each_other_are_refused():
    first = Operation(("a", 0, 0), 1, (("b", 0, 0),))
    second = Operation(("b", 0, 0), 1, (("a", 0, 0),))
    with pytest.raises(ValueError, match="wait for ever"):
        simulate([[first], [second]])


def test_gpipe_goes_back_only_after_all_went_forward():
    found = simulate(pipeline_orders("GPipe", [1, 1], [2, 2], 2, FREE))
    assert (found["forward", 1, 0], found["forward", 1, 1]) == ((1, 2), (2, 3))
    assert (found["backward", 1, 1], found["backward", 1, 0]) == ((3, 5), (5, 7))
    assert (found["backward", 0, 1], found["backward", 0, 0]) == ((5, 7), (7, 9))


def test_1f1b_goes_back_as_soon_as_it_can():
    found = simulate(pipeline_orders("1F1B", [1, 1], [2, 2], 2, FREE))
    assert (found["forward", 1, 0], found["backward", 1, 0]) == ((1, 2), (2, 4))
    assert (found["forward", 1, 1], found["backward", 1, 1]) == ((4, 5), (5, 7))
    assert (found["backward", 0, 0], found["backward", 0, 1]) == ((4, 6), (7, 9))
    order = "".join(f"{what[0]}{n}" for what, n in passes("1F1B", 1, 4, 5))
    assert order == "f0f1f2b0f3b1f4b2b3b4"


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B"])
@pytest.mark.parametrize(("stages", "count"), [(1, 3), (2, 2), (4, 8), (8, 4), (5, 32)])
def test_the_bubble_is_that_of_the_formula(schedule: str, stages: int, count: int):
    found = pipeline_parallel(schedule, [1.0] * stages, [2.0] * stages, count)
    share = (stages - 1) / (count + stages - 1)
    assert bubble(stages, count) == pytest.approx(share)
    assert found.idle == pytest.approx([share] * stages)
    assert found.seconds * count == pytest.approx(3 * (count + stages - 1))


@pytest.mark.parametrize(("stages", "count"), [(1, 3), (4, 8), (8, 4)])
def test_1f1b_stores_no_more_than_the_stages_that_follow_and_gpipe_everything(
    stages: int, count: int
):
    times = [1.0] * stages
    assert pipeline_parallel("GPipe", times, times, count).stored == [count] * stages
    fewer = [min(count, stages - stage) for stage in range(stages)]
    assert pipeline_parallel("1F1B", times, times, count).stored == fewer
    assert most_stored([("forward", 0), ("backward", 0), ("forward", 1), ("forward", 2)]) == 2


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B"])
def test_every_micro_batch_pays_for_a_message_onward_and_one_back(schedule: str):
    way = Handover(packing=0.25, transfer=0.5)
    found = pipeline_parallel(schedule, [1, 1, 1], [2, 2, 2], 1, way, update=0.125)
    assert found.seconds == pytest.approx(3 * 3 + 4 * 0.75 + 0.125)
    busy = [3 + packs * 0.25 + 0.125 for packs in (1, 2, 1)]
    assert found.idle == pytest.approx([1 - mine / found.seconds for mine in busy])
    assert pipeline_parallel(schedule, [1] * 4, [1] * 4, 6).messages == 2
    assert greedy_parallel([1] * 4, FREE, queue=2).messages == 1


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="GPipe, 1F1B"):
        passes("2F2B", 0, 1, 1)


def test_without_overhead_greedy_is_ideal_and_a_pipeline_lacks_its_bubble():
    for devices in (4, 64):
        row = predict_greedy(COSTS, devices, 64)
        assert row["speed_up"] == pytest.approx(devices)
        assert row["seconds"] == pytest.approx(6.4 / devices)
        rival = predict_pipeline(COSTS, "1F1B", devices, 64, 8)
        assert rival["speed_up"] == pytest.approx(devices * 8 / (devices + 7))
        assert rival["seconds"] == pytest.approx(64 * 0.09 / rival["speed_up"])


def test_what_every_worker_does_with_a_batch_limits_the_speed_up():
    costs = Costs(**{**vars(COSTS), "batch": 0.1, "update": 0.01})
    assert predict_greedy(costs, 16, 64)["speed_up"] == pytest.approx(6.5 / 0.5)
    found = predict_pipeline(costs, "GPipe", 16, 64, 8)
    seconds = (8 + 15) * (0.1 + 4 * 0.09) + 4 * 0.01
    assert found["speed_up"] == pytest.approx((8 * (0.1 + 64 * 0.09) + 0.64) / seconds)


def test_memory_and_messages_are_those_of_the_schedule():
    greedy = predict_greedy(COSTS, 4, 64)
    assert (greedy["stored_bytes"], greedy["queued_bytes"]) == (30_000_000, 8_000_000)
    assert greedy["message_bytes"] == 1_000_000
    stored = {"GPipe": 8 * 16 * 20_000_000, "1F1B": 4 * 16 * 20_000_000}
    for schedule, size in stored.items():
        row = predict_pipeline(COSTS, schedule, 4, 64, 8)
        assert (row["stored_bytes"], row["message_bytes"]) == (size, 2_000_000)


def test_modules_that_do_not_divide_equally_are_refused():
    with pytest.raises(ValueError, match="5 devices cannot have equally many of 64"):
        predict_greedy(COSTS, 5, 64)


def test_the_timeline_that_training_writes_is_read_back(tmp_path: Path):
    def told(iteration: int, *times: float) -> Report:
        phases = {f"{name}_seconds": 0.0 for name in ("forward", "backward", "update")}
        return Report(iteration, [0.5], [1.0], None, phases, 1e-4, *times, frozenset())

    monitor = Monitor(tmp_path / "timeline.json")
    monitor.result([told(0, 100.0, 100.5, 101.0), told(0, 101.25, 101.5, 103.0)], [0, 1])
    monitor.result([told(1, 101.5, 101.75, 102.5), told(1, 103.5, 104.0, 105.0)], [0, 1])
    monitor.close()
    assert scaling.read_timeline(tmp_path / "timeline.json") == [
        [Took(100.0, 100.5, 101.0), Took(101.5, 101.75, 102.5)],
        [Took(101.25, 101.5, 103.0), Took(103.5, 104.0, 105.0)],
    ]


def test_only_a_worker_that_waited_shows_what_a_handover_takes():
    sender = [Took(0, 0, 1), Took(1.25, 1.25, 2), Took(2.5, 2.5, 5)]
    receiver = [Took(1.5, 1.5, 4), Took(4.25, 4.5, 4.5), Took(5.75, 6, 7)]
    assert scaling.handovers(sender, receiver) == [0.75]
    assert scaling.gaps(sender) == [0.25, 0.5]
    assert scaling.idle_share(sender) == pytest.approx(0.75 / 4)


def test_the_feed_gives_every_iteration_a_batch_without_what_was_computed_before():
    batch = make_batch((24, 96), 3, "cpu")
    feed = pickle.loads(pickle.dumps(scaling.Repeated(batch)))
    first, second = (batches[0] for batches in feed(3, 5))
    assert torch.equal(first.zero_filled, batch.zero_filled)
    assert "zero_filled" not in vars(second)


class Slow:
    """Pretends to train: filling, steady, draining; advances the clocks that it is given."""

    def __init__(self) -> None:
        self.now = self.used = 0.0
        self.closed = False

    def train(self, feed: object, first: int, last: int, keeps: object) -> Iterator[dict]:
        for n in range(first, last):
            steady = scaling.DROPPED <= n < last - scaling.DROPPED
            self.now += 2.0 if steady else 50.0
            self.used += 0.5 if steady else 9.0
            seconds = {"backward_seconds": 1.0 if steady else 7.0, "update_seconds": 0.25}
            yield {"forward_seconds": 0.5, **seconds}

    def close(self) -> None:
        self.closed = True


def test_filling_and_draining_do_not_count(monkeypatch: pytest.MonkeyPatch):
    slow = Slow()
    clock = SimpleNamespace(perf_counter=lambda: slow.now, process_time=lambda: slow.used)
    monkeypatch.setattr(scaling, "time", clock)
    found = scaling.run(slow, make_batch((24, 96), 3, "cpu"), iterations=6)  # type: ignore[arg-type]
    assert (found["seconds"], found["cpu_seconds"]) == (2.0, 0.5)
    assert found["backward_seconds"] == 1.0
    assert slow.closed


def measured() -> dict:
    """As the benchmark writes it; two workers are 1.9 times as fast as one."""

    def workers(seconds: list[float], count: int) -> list[dict]:
        told = {
            "cpu_seconds": 0.002,
            "idle": [0.05] * count,
            "load_seconds": 0.001,
            "train_seconds": [0.81] * count,
            "gaps": [0.002, 0.002],
        }
        return [{"seconds": one, **told} for one in seconds]

    phases = {"forward_seconds": 0.21, "backward_seconds": 0.52, "update_seconds": 0.04}
    serial = [{"seconds": one, "cpu_seconds": one, **phases} for one in (0.8, 0.9, 0.8)]
    states = {
        "2D": ([256, 256], 524_288, [0.005, 0.006, 0.02], [0.004], 0.2),
        "3D": ([128] * 3, 16_777_216, [0.03], [0.02], 3.0),
    }
    keys = ("space", "state_bytes", "handovers", "gaps", "step_seconds")
    handover = {name: dict(zip(keys, told, strict=True)) for name, told in states.items()}
    return {
        "iterations": 20,
        "repeats": 3,
        "queue": 2,
        "modules": 4,
        "batch_seconds": 0.01,
        "greedy_bytes": 50_000_000,
        "activation_bytes": 40_000_000,
        "throughput": {
            "backprop": serial,
            "greedy": serial,
            "1 worker": workers([0.76, 0.95, 0.8], 1),
            "2 workers": workers([0.4, 0.5, 0.5], 2),
        },
        "handover": {name: {**told, "features": 40} for name, told in handover.items()},
        "provenance": {"commit": "abc"},
    }


def test_costs_are_those_of_one_module_and_of_what_comes_once_a_batch():
    costs = costs_of(measured())
    assert costs.module == pytest.approx(0.2)
    assert costs.batch == pytest.approx(0.01 + 0.001 + 0.002)
    assert (costs.forward, costs.backward) == (pytest.approx(0.05), pytest.approx(0.13))
    assert costs.update == pytest.approx(0.01)
    assert costs.handover.packing == pytest.approx(0.002)
    assert costs.handover.transfer == pytest.approx(0.002)
    assert costs.driver == pytest.approx(0.001)


def test_the_report_gives_verdicts_and_every_table():
    text = markdown(measured(), "scaling")
    assert "| 1 worker | 800.0 | 760.0 to 950.0 | 1.25 | 1.000 | 5.0 % |" in text
    assert "| 2 workers | 500.0 | 400.0 to 500.0 | 2.00 | 1.900 | 5.0 %, 5.0 % |" in text
    assert "- met: two workers 1.90 times as fast as one (goal: 1.8" in text
    assert "- met: hand-over of a 2D state of 0.52 MB in 6 ms (goal: below 10 ms)" in text
    assert "- met: hand-over of a state of 16.78 MB in 1.0 % of a module's step" in text
    assert "steps above 600 ms" in text
    assert "exact gradient of the whole network, which greedy training does not" in text
    # 64 modules of 0.2 s on 64 devices: a stage of 0.213 s and 2 ms of packing.
    assert "| 64 | 64 | 215.0 | 4.65 | 59.60 | 93.1 % |" in text
    assert "| 8 | GPipe | 8 |" in text
    assert "| 46.7 % |" in text
    assert "![speed-up](scaling.png)" in text


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (lambda found: [run.update(seconds=0.5) for run in found["throughput"]["2 workers"]], 0),
        (lambda found: [run.update(train_seconds=[0.3]) for run in _one(found)], 0),
        (lambda found: found["handover"]["2D"].update(handovers=[0.011]), 1),
        (lambda found: found["handover"]["3D"].update(handovers=[0.16]), 2),
    ],
)
def test_a_goal_that_is_missed_is_called_missed(change, missed: int):
    found = measured()
    change(found)
    expected = ["- met"] * 3
    expected[missed] = "- missed"
    assert [line.partition(":")[0] for line in goals(found, costs_of(found))] == expected


def _one(found: dict) -> list[dict]:
    return found["throughput"]["1 worker"]


def test_a_report_is_written_anew_from_what_was_measured(tmp_path: Path, capsys):
    path = tmp_path / "scaling_quick.json"
    path.write_text(json.dumps(measured()), encoding="utf-8")
    scaling.main(["--quick", "--report", "--out", str(tmp_path)])
    text = (tmp_path / "scaling_quick.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert (tmp_path / "scaling_quick.png").read_bytes().startswith(b"\x89PNG")


def test_the_benchmark_can_be_imported_without_ray_or_matplotlib():
    code = "import sys, experiments.scaling; print({'ray', 'matplotlib'} & sys.modules.keys())"
    root = Path(scaling.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
