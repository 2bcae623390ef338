"""What the workers' reports say together: results, idle shares, and a timeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gleam.parallel.worker import Report
from gleam.strategies.base import Iteration, NonFiniteError


class Monitor:
    """Turns the reports of an iteration into its result, and writes down when workers worked.

    Args:
        timeline: a file to write, in the trace format of Chrome and Perfetto; or None.
    """

    def __init__(self, timeline: Path | None = None) -> None:
        self._ended: dict[int, float] = {}
        self._file = None
        if timeline is not None:
            timeline.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(timeline, "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
            self._file.write("[\n")

    def result(self, reports: Sequence[Report], queues: Sequence[int]) -> Iteration:
        """The result of an iteration; times are those of the slowest worker.

        Args:
            reports: of all workers, in order.
            queues: batches waiting in front of each.

        Raises:
            NonFiniteError: naming the first module whose loss or gradient is not finite.
        """
        for report in reports:
            if report.bad is not None:
                raise NonFiniteError(*report.bad)
        idle = [self._idle(number, report) for number, report in enumerate(reports)]
        if self._file is not None:
            for number, report in enumerate(reports):
                self._trace(number, report)
        losses = [loss for report in reports for loss in report.losses]
        slowest = max(reports, key=lambda report: report.ended - report.loaded)
        return {
            "loss": losses[-1],
            "module_losses": losses,
            "gradient_norms": [norm for report in reports for norm in report.norms],
            **slowest.phases,
            "learning_rate": reports[0].rate,
            "data_seconds": round(max(report.loaded - report.began for report in reports), 6),
            "step_seconds": round(slowest.ended - slowest.loaded, 6),
            "worker_seconds": [round(r.ended - r.began, 6) for r in reports],
            "idle": idle,
            "queues": [*queues],
        }

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.write("{}]\n")
            self._file.close()
            self._file = None

    def _idle(self, number: int, report: Report) -> float:
        """Share of the time since its last iteration that a worker waited for a state."""
        before = self._ended.get(number, report.began)
        self._ended[number] = report.ended
        passed = report.ended - before
        return round(max(0.0, report.began - before) / passed, 3) if passed > 0 else 0.0

    def _trace(self, number: int, report: Report) -> None:
        spans = {"load": (report.began, report.loaded), "train": (report.loaded, report.ended)}
        for name, (first, last) in spans.items():
            event: dict[str, Any] = {
                "name": f"{name} {report.iteration + 1}",
                "cat": name,
                "ph": "X",
                "ts": round(1e6 * first),
                "dur": round(1e6 * (last - first)),
                "pid": 0,
                "tid": number,
            }
            self._write(event)

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(event) + ",\n")
