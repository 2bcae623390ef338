"""Networks that ship with the library, trained: weights as safetensors, without code in them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gleam.limits import Limits

FOLDER = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
KEYS = ("format", "config", "versions", "iteration", "progress")
NOTICE = "for research only: it is no medical device"


def shipped_networks() -> list[str]:
    """Names of the networks that ship with the library."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def locate(checkpoint: str | Path) -> Path:
    """The file of a network that ships with the library, if that is its name; else the path.

    A file of that name, where Python runs, goes first.
    """
    path = Path(checkpoint)
    named = str(path) in shipped_networks() and not path.is_file()
    return FOLDER / f"{path}{SUFFIX}" if named else path


def write_weights(path: Path, content: Mapping[str, Any], limits: Limits) -> None:
    """Write the network of a checkpoint as safetensors.

    Args:
        path: the file; written beside and renamed.
        content: of the checkpoint, see :func:`gleam.checkpoint.read_checkpoint`.
        limits: of what the network was trained on.
    """
    from safetensors.torch import save

    described = {**{key: content[key] for key in KEYS}, "limits": limits}
    temporary = path.with_name(path.name + ".partial")
    # Copies, because the steps of a network may share weights, which the format refuses.
    weights = {name: value.clone() for name, value in content["network"].items()}
    temporary.write_bytes(save(weights, {"gleam": json.dumps(described)}))
    os.replace(temporary, path)


def read_weights(path: Path) -> dict[str, Any]:
    """What :func:`write_weights` wrote, as the content of a checkpoint with "limits".

    Raises:
        FileNotFoundError, safetensors.SafetensorError, ValueError: if it cannot be read.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        described = json.loads((file.metadata() or {}).get("gleam", "{}"))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return {**described, "network": weights}


def read_limits(checkpoint: str | Path) -> Limits | None:
    """The limits of a network in a safetensors file; None of a checkpoint."""
    path = locate(checkpoint)
    return read_weights(path).get("limits") if path.suffix == SUFFIX else None
