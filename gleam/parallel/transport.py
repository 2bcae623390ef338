"""States and weights as numpy arrays, which Ray shares between processes without copying."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gleam.batch import Batch


def to_arrays(tree: Any) -> Any:
    """The same tuples, lists and dicts with arrays of the host in place of tensors.

    Types that numpy does not know, such as bfloat16, stay tensors, which are copied.
    """
    return tree_map(_to_array, tree)


def to_tensors(tree: Any, device: torch.device | str = "cpu") -> Any:
    """Undo :func:`to_arrays`. On a CPU the tensors share the arrays' memory: do not write to it."""
    return tree_map(lambda leaf: _to_tensor(leaf, device), tree)


def pack(batch: Batch) -> dict[str, Any]:
    """A batch as arrays."""
    return {field.name: to_arrays(getattr(batch, field.name)) for field in fields(batch)}


def unpack(packed: dict[str, Any], device: torch.device | str = "cpu") -> Batch:
    """Undo :func:`pack`."""
    axes = packed["axes"]
    return Batch(**{k: to_tensors(v, device) for k, v in packed.items() if k != "axes"}, axes=axes)


def _to_array(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    host = leaf.detach().cpu()
    try:
        return host.resolve_conj().resolve_neg().numpy()
    except TypeError:
        return host


def _to_tensor(leaf: Any, device: torch.device | str) -> Any:
    if isinstance(leaf, np.ndarray):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            leaf = torch.from_numpy(leaf)
    return leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf
