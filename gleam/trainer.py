"""The training loop: exact to resume, safe to stop, loud about NaN."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gleam.build import (
    build_device,
    build_loaders,
    build_network,
    build_strategy,
)
from gleam.checkpoint import load_grown_from, load_weights, read_checkpoint, save_checkpoint
from gleam.config import Config, dump_config, load_config
from gleam.data import DataError, Feed
from gleam.evaluation import reconstructions
from gleam.metrics import evaluate_slice, summarise
from gleam.planning import choose_strategy
from gleam.progress import Display
from gleam.run_folder import Records, RunFolder
from gleam.stop_signals import StopSignals
from gleam.strategies import InvertibilityError, Iteration, NonFiniteError, OutOfReachError


class TrainingDiverged(RuntimeError):
    """Training met NaN or infinity, or lost invertibility; names the iteration and where."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        folder: of the run.
        best: checkpoint with the best validation PSNR.
        last: checkpoint of the last iteration.
        iteration: iterations done.
        psnr: best validation PSNR [dB], complex, mean over slices; NaN before the first.
        finished: False if the run was stopped by a signal and waits to be resumed.
        skipped: with ``data.skip_bad``, why scans were left out; each reason names its file.
    """

    folder: Path
    best: Path
    last: Path
    iteration: int
    psnr: float
    finished: bool
    skipped: tuple[str, ...]


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    resume: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> TrainingResult:
    """Train an unrolled network.

    Args:
        config: YAML file, mapping or Config; see :mod:`gleam.config` for all settings.
        resume: continue the run in the folder ``out``; starts it if there is none.
        quiet: show no progress.
        overrides: settings that replace those of ``config``, such as ``strategy="greedy"``,
            ``network={"steps": 4}`` or ``**{"training.iterations": 500}``.

    Returns:
        Where the checkpoints are and how good the best one is.

    Raises:
        ConfigError: if a setting is unknown or out of range.
        RunFolderError: if the folder holds another run.
        CheckpointError: if a checkpoint cannot be read or written.
        DataError: if a data file cannot be used.
        TrainingDiverged: at NaN or infinity, or if strategy invertible cannot undo the steps; the
            last good checkpoint stays as it was.
    """
    checked = choose_strategy(load_config(config, **overrides), resume)
    device = build_device(checked.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(checked.seed)
        return _Trainer(checked, resume, quiet).run()


class _Trainer:
    def __init__(self, config: Config, resume: bool, quiet: bool) -> None:
        self.config = config
        self.quiet = quiet
        self.device = build_device(config.device)
        self.loaders = build_loaders(config.data, config.seed, config.strategy.frozen)
        if missing := {"train", "validate"} - self.loaders.keys():
            raise DataError(f"{config.data.path} must have scans to {' and to '.join(missing)} on")
        training = config.training
        self.feed = Feed(
            self.loaders["train"], training.batch_size, training.accumulate, config.data.workers
        )
        self.validation = self.loaders["validate"]
        self.network = build_network(config.network, config.data).to(self.device)
        self.strategy = build_strategy(config, self.network)
        self.folder = RunFolder(config, resume)
        self.iteration = 0
        self.best = float("nan")
        self.worse = 0  # validations since the best one
        if resume and self.folder.resumable:
            self.restore()
        else:
            load_grown_from(self.network, config)
        scans = {split: loader.source.scans for split, loader in self.loaders.items()}
        self.folder.describe(scans, self.iteration, seed=config.seed)
        self.folder.keep_records(self.iteration)

    def run(self) -> TrainingResult:
        records = self.folder.open_records()
        display = Display(self.config.training.iterations, self.iteration, self.device, self.quiet)
        try:
            self.strategy.notice = display.say
            with display, StopSignals() as stop:
                self.loop(records, display, stop)
        except DataError as error:
            if self.iteration == 0:
                raise
            try:
                self.save(self.folder.last)
                saved = f"was saved after iteration {self.iteration}"
            except OutOfReachError:
                saved = "has its last regular checkpoint"
            raise DataError(
                f"{error}. The run {saved}: repair the file, or leave such files out with "
                "data.skip_bad=true, and go on with --resume"
            ) from error
        finally:
            records.close()
            self.strategy.close()
        self.folder.draw_curves()
        return TrainingResult(
            self.folder.path,
            self.folder.best,
            self.folder.last,
            self.iteration,
            self.best,
            self.finished,
            self.skipped,
        )

    def loop(self, records: Records, display: Display, stop: StopSignals) -> None:
        if self.iteration and self.due(self.config.training.validate_every) and not self.validated:
            display.validated(self.validate(records))  # a scan could not be read before
        results = self.strategy.train(
            self.feed, self.iteration, self.config.training.iterations, self.keeps
        )
        while not (self.finished or stop.requested):
            self.step(results, records, display)
            self.look(records, display)
        if not self.finished:
            self.wind_up(records, display)
        elif self.iteration < self.config.training.iterations:
            display.say(f"stopped early: {self.worse} validations without a better PSNR")
        for reason in self.skipped:
            display.say(f"left out: {reason}")

    def look(self, records: Records, display: Display) -> None:
        """Validate and save, if that is due."""
        if self.due(self.config.training.validate_every):
            display.validated(self.validate(records))
        if self.due(self.config.training.save_every):
            self.save(self.folder.last)

    def wind_up(self, records: Records, display: Display) -> None:
        """After a request to stop: finish what is under way, and save."""
        with self.explained():
            for result in self.strategy.stop():
                self.follow(result, records, display)
        if self.finished:
            self.look(records, display)
            return
        try:
            self.save(self.folder.last)
        except OutOfReachError as error:
            display.say(f"stopped: {error}; go on from the last checkpoint with --resume")
        else:
            display.say(f"stopped after iteration {self.iteration}; go on with --resume")

    def keeps(self, iteration: int) -> bool:
        """Whether the weights after so many iterations are needed."""
        training = self.config.training
        last = iteration == training.iterations
        return last or not all(
            iteration % n for n in (training.validate_every, training.save_every)
        )

    @property
    def skipped(self) -> tuple[str, ...]:
        return tuple(sorted(set().union(*(loader.skipped for loader in self.loaders.values()))))

    @property
    def finished(self) -> bool:
        training = self.config.training
        patient = training.patience is None or self.worse < training.patience
        return self.iteration >= training.iterations or not patient

    @property
    def validated(self) -> bool:
        """Whether this iteration's validation is done."""
        records = self.folder.records()
        return any("psnr" in r and r["iteration"] == self.iteration for r in records)

    def due(self, every: int) -> bool:
        return self.iteration % every == 0 or self.finished

    def step(self, results: Iterator[Iteration], records: Records, display: Display) -> None:
        with self.explained():
            result = next(results)
        self.follow(result, records, display)

    def follow(self, result: Iteration, records: Records, display: Display) -> None:
        """Write down and show the result of the next iteration."""
        self.iteration += 1
        records.write({"iteration": self.iteration, **result})
        display.advance(self.iteration, result)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the next iteration as what the user should know."""
        try:
            yield
        except NonFiniteError as error:
            self.iteration += 1
            raise self.diverged(str(error)) from None
        except InvertibilityError as error:
            raise TrainingDiverged(f"iteration {self.iteration + 1}: {error}") from None

    def validate(self, records: Records) -> float:
        self.strategy.synchronise()
        self.network.eval()
        rows = []
        for example, _, image in reconstructions(self.network, self.validation, self.device):
            if not image.isfinite().all():
                raise self.diverged(f"the validation image of {example.scan} is not finite")
            rows.append(evaluate_slice(image, example.target))
        self.network.train()
        means = {name: value["mean"] for name, value in summarise(rows).items()}
        records.write({"iteration": self.iteration, **means})
        if not self.best >= means["psnr"]:
            self.best, self.worse = means["psnr"], 0
            self.save(self.folder.best)
        else:
            self.worse += 1
        return means["psnr"]

    def diverged(self, what: str) -> TrainingDiverged:
        kept = f"{self.folder.last} is the last good checkpoint"
        return TrainingDiverged(
            f"iteration {self.iteration}: {what}. Nothing was saved since; "
            f"{kept if self.folder.resumable else 'there is no checkpoint yet'}. "
            "Start again with a lower training.learning_rate, or set training.clip"
        )

    def save(self, path: Path) -> None:
        self.strategy.synchronise()
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise self.diverged("a parameter is not finite")
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        save_checkpoint(
            path,
            {
                "config": json.dumps(dump_config(self.config)),
                "network": self.network.state_dict(),
                "strategy": self.strategy.state_dict(),
                "iteration": self.iteration,
                "progress": {"best": self.best, "worse": self.worse},
                "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
            },
        )

    def restore(self) -> None:
        content = read_checkpoint(self.folder.last)
        load_weights(self.network, content["network"], self.folder.last)
        self.strategy.load_state_dict(content["strategy"])
        self.iteration = content["iteration"]
        self.best, self.worse = content["progress"]["best"], content["progress"]["worse"]
        torch.set_rng_state(content["random"]["cpu"])
        if self.device.type == "cuda" and content["random"]["cuda"] is not None:
            torch.cuda.set_rng_state(content["random"]["cuda"], self.device)
