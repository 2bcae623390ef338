"""Growing: more steps behind a trained greedy network, in the memory of one module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gleam.checkpoint import read_checkpoint, read_config
from gleam.config import Config, ConfigError, load_config
from gleam.strategy_config import GREEDY, StrategyConfig
from gleam.trainer import TrainingResult, train


def grow(
    checkpoint: str | Path,
    steps: int,
    *,
    modules: int | None = None,
    resume: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> TrainingResult:
    """Add steps to a network that was trained greedily, and train only these.

    The steps there are stay as they are, bit for bit, and the new ones start as copies of the last
    of them. In training the old ones run without storing activations, so that a step of training
    takes the memory of one module however deep the network is. The new run has the settings of the
    one before, with as many iterations for the new steps; scans and their splits are the same, but
    come in another order under other masks. Its checkpoints hold the whole network and can be grown
    again.

    Args:
        checkpoint: of a run with strategy greedy or greedy-parallel, or the name of a network that
            ships and was trained so.
        steps: how many to add.
        modules: that the new steps are split into; by default each is as long as those before.
        resume: continue the run in the folder ``out``; starts it if there is none.
        quiet: show no progress.
        overrides: settings that differ from those of the checkpoint's run, as of
            :func:`gleam.train`; ``out`` is by default its folder with the number of all steps.

    Returns:
        Where the checkpoints are and how good the best one is.

    Raises:
        ConfigError: if the network cannot be grown so, or a setting is unknown or out of range.
        CheckpointError, DataError, RunFolderError, TrainingDiverged: as :func:`gleam.train`.
    """
    config = grown_config(checkpoint, steps, modules, **overrides)
    return train(config, resume=resume, quiet=quiet)


def grown_config(
    checkpoint: str | Path, steps: int, modules: int | None = None, **overrides: Any
) -> Config:
    """The configuration with which :func:`grow` trains."""
    if steps < 1:
        raise ConfigError(f"a network grows by at least 1 step, got {steps}")
    before = read_config(read_checkpoint(checkpoint), checkpoint)
    name, depth = before.strategy.name, before.network.steps
    if name not in GREEDY:
        raise ConfigError(
            f"{checkpoint} was trained with {name}, and only what was trained with greedy can be "
            "grown: there every module ends in an image that further steps can start from"
        )
    length = before.trained_steps // before.modules
    if modules is None and steps % length:
        raise ConfigError(
            f"{steps} new steps cannot be split into modules of {length} steps, as those of "
            f"{checkpoint} are: add a multiple of {length}, or give the number of modules"
        )
    strategy = StrategyConfig(lookahead=before.strategy.lookahead)
    folder = re.sub(r"_\d+steps$", "", str(before.out))
    settings = {
        "out": f"{folder}_{depth + steps}steps",
        "strategy.modules": steps // length if modules is None else modules,
        **overrides,
        "network.steps": depth + steps,
        "strategy.frozen": depth,
        "grown_from": checkpoint,
    }
    return load_config(before.model_copy(update={"strategy": strategy}), **settings)
