"""The folder of a run: resolved configuration, provenance, metrics and checkpoints."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gleam.checkpoint import versions
from gleam.config import Config, dump_config, load_config
from gleam.plots import learning_curves
from gleam.strategy_config import GREEDY, PARALLEL


class RunFolderError(RuntimeError):
    """A folder that a run must not write to; the message says what to do."""


class RunFolder:
    """Files of one run.

    Args:
        config: of the run; its ``out`` is the folder.
        resume: continue the run that is there, if there is one.

    Raises:
        RunFolderError: if the folder holds a run and ``resume`` is false, or another run.
    """

    def __init__(self, config: Config, resume: bool) -> None:
        self.path = config.out
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self._config = self.path / "config.yaml"
        self._facts = self.path / "run.json"
        self._metrics = self.path / "metrics.jsonl"
        if self.resumable or self.best.exists() or self.records():
            self._check(config, resume)
        elif self._config.exists() and not self._facts.exists():
            raise RunFolderError(
                f"{self._config} was not written by a run, which would overwrite it: "
                "choose another folder with out=..."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._facts.exists():
            _write(self._facts, json.dumps({"starts": []}))
        _write(self._config, yaml.safe_dump(dump_config(config), sort_keys=False))

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.last.exists()

    def describe(self, scans: Mapping[str, Sequence[str]], iteration: int, **facts: Any) -> None:
        """Write what a reader needs to repeat the run: seed, splits, and versions at each start.

        Raises:
            RunFolderError: if a run that goes on would see other scans than before.
        """
        before = json.loads(self._facts.read_text(encoding="utf-8"))
        starts = before["starts"]
        known = before.get("scans", {})
        changed = [split for split in known if list(scans.get(split, [])) != known[split]]
        if iteration and changed:
            raise RunFolderError(
                f"{self.path} cannot be resumed: there are other scans to {' and '.join(changed)} "
                f"on than when it began, listed in {self._facts}; restore them, or start a new run"
            )
        starts.append({"iteration": iteration, "versions": versions()})
        content = {**facts, "starts": starts, "scans": dict(scans)}
        _write(self._facts, json.dumps(content, indent=1))

    def keep_records(self, iteration: int) -> None:
        """Drop the records after an iteration: a resumed run writes them again."""
        kept = [record for record in self.records() if record["iteration"] <= iteration]
        _write(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def records(self) -> list[dict[str, Any]]:
        """All records of ``metrics.jsonl``; a last line cut off by a crash is left out."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def draw_curves(self) -> None:
        """Write ``curves.png``: loss of every module and validation PSNR."""
        if records := self.records():
            learning_curves(self.path / "curves.png", records)

    def open_records(self) -> Records:
        """Append to ``metrics.jsonl``."""
        return Records(self._metrics)

    def _check(self, config: Config, resume: bool) -> None:
        if not resume:
            raise RunFolderError(
                f"{self.path} already holds a run: continue it with --resume (resume=True) "
                "or choose another folder with out=..."
            )
        if not self._config.exists():
            raise RunFolderError(
                f"{self.path} holds a run without its {self._config.name}, so it cannot be resumed"
            )
        before = _flatten(dump_config(load_config(self._config)))
        now = _flatten(dump_config(config))
        keys = before.keys() | now.keys()
        free = {"out", "device", "training.patience"}
        free |= {"training.validate_every", "training.save_every"}
        free |= {"data.cache", "data.skip_bad", "strategy.checkpoint_every"}
        free |= {key for key in keys if key.startswith("ray.")}
        if before["strategy.name"] in GREEDY and now["strategy.name"] in GREEDY:  # the same weights
            free |= {"strategy.name"} | {f"strategy.{key}" for key in PARALLEL}
        if config.training.schedule == "constant":
            free.add("training.iterations")
        changed = sorted(k for k in keys - free if before.get(k) != now.get(k))
        if changed:
            raise RunFolderError(
                f"{self.path} holds a run with other settings, so it cannot be resumed: "
                + "; ".join(f"{k} was {before.get(k)}, is now {now.get(k)}" for k in changed)
            )


class Records:
    """Writes one JSON line a record, and TensorBoard scalars if TensorBoard is installed."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(path.parent))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, which has an "iteration" and numbers or lists of numbers."""
        self._file.write(json.dumps(dict(record)) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for key, value in record.items():
            values = (
                {key: value}
                if not isinstance(value, list)
                else {f"{key}/{number}": item for number, item in enumerate(value)}
            )
            for name, number in values.items():
                self._board.add_scalar(name, number, record["iteration"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        flat.update(_flatten(value, name + ".") if isinstance(value, dict) else {name: value})
    return flat


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
