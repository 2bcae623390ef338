"""Checkpoints: written beside and renamed, read without executing code from them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gleam.config import Config, ConfigError, load_config
from gleam.shipped import SUFFIX, locate, read_weights, shipped_networks

FORMAT = 1
CONTENT: dict[str, type] = {
    "format": int,
    "versions": dict,
    "config": str,
    "network": dict,
    "strategy": dict,
    "iteration": int,
    "progress": dict,
    "random": dict,
}
RESUMED = ("strategy", "random")  # which a file of weights lacks


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names the file."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; if that fails, the one that was there before stays as it was.

    Args:
        path: the file.
        content: tensors and plain values under :data:`CONTENT` without "format" and "versions".

    Raises:
        CheckpointError: if the file cannot be written, for instance on a full disk.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "versions": versions(), **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not save {path} ({error}); the checkpoint saved there before is unharmed. "
            "Make room or choose another folder, then resume"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read and check a checkpoint, a safetensors file, or a network that ships with the library.

    Args:
        path: the file, or the name of a network that ships, such as "general-2d".

    Raises:
        CheckpointError: if it is missing, truncated, no checkpoint of this library or newer.
    """
    found = locate(path)
    weights_only = found.suffix == SUFFIX
    try:
        content = read_weights(found) if weights_only else _read_archive(found)
    except FileNotFoundError:
        raise CheckpointError(f"no such checkpoint: {path}{_hint(found)}") from None
    except Exception as error:  # torch raises many types, according to where a file is damaged
        raise CheckpointError(
            f"{path} cannot be read: it is truncated, damaged or no checkpoint of this library "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"{path} is not a checkpoint of this library")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']}, this version reads up to {FORMAT}; "
            f"upgrade gleam (it was written with {content.get('versions')})"
        )
    needed = {k: v for k, v in CONTENT.items() if not (weights_only and k in RESUMED)}
    wrong = [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]
    if wrong:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(wrong))}")
    return content


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # torch itself does not compare checksums
            raise zipfile.BadZipFile(damaged)
    return torch.load(path, map_location="cpu", weights_only=True)


def _hint(path: Path) -> str:
    """For what looks like a name and not like a file."""
    if path.suffix or path.parent != Path():
        return ""
    return f"; networks that ship with gleam: {', '.join(shipped_networks()) or 'none'}"


def read_config(content: Mapping[str, Any], path: str | Path) -> Config:
    """The configuration in a checkpoint's content."""
    try:
        return load_config(dict(json.loads(content["config"])))
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds a configuration of another version: {error}") from None


def load_weights(network: nn.Module, weights: Mapping[str, Any], path: str | Path) -> None:
    """Load weights into a network.

    Raises:
        CheckpointError: if they belong to another architecture; names what differs.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in weights.items()}
    if own == theirs:
        network.load_state_dict(dict(weights))
        return
    differing = sorted(
        name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name)
    )
    name = differing[0]
    raise CheckpointError(
        f"{path} belongs to another architecture: {len(differing)} of its parameters differ, "
        f"first {name}: network {own.get(name)}, checkpoint {theirs.get(name)}"
    )


def load_grown_from(network: nn.Module, config: Config) -> None:
    """Load the steps of the checkpoint that a network is grown from, if it is.

    The first ones stay as they are. Further ones start as copies of the last ones, as many as a
    module has.

    Raises:
        CheckpointError: if it cannot be read.
        ConfigError: if it has fewer steps, or other ones; names the settings that differ.
    """
    path, frozen = config.grown_from, config.strategy.frozen
    if path is None:
        return
    content = read_checkpoint(path)
    before = read_config(content, path)
    if before.network.steps < frozen:
        raise ConfigError(
            f"strategy.frozen = {frozen}, but {path} has {before.network.steps} steps only"
        )
    pairs = {
        f"network.{name}": (getattr(before.network, name), value)
        for name, value in config.network
        if name != "steps"
    }
    pairs["data.map_sets"] = before.data.map_sets, config.data.map_sets
    pairs["axes of an image"] = before.data.ndim, config.data.ndim
    if changed := [f"{n} was {a}, is now {b}" for n, (a, b) in pairs.items() if a != b]:
        raise ConfigError(
            f"steps of {path} cannot go on in another network: {'; '.join(changed)}; leave these "
            "settings as they were"
        )
    theirs, weights = content["network"], {}
    length = min(config.trained_steps // config.modules, frozen)
    for name in network.state_dict():
        steps, number, rest = name.split(".", 2)
        beyond = int(number) - frozen
        source = number if beyond < 0 else frozen - length + beyond % length
        if (origin := f"{steps}.{source}.{rest}") in theirs:  # or load_weights refuses them
            weights[name] = theirs[origin]
    load_weights(network, weights, path)


def versions() -> dict[str, str]:
    """Versions and machine that a run was made with."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name, package in (("gleam", "gleam-mri"), ("torch", "torch"), ("numpy", "numpy")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["threads"] = str(torch.get_num_threads())
    return found
