"""Which of the packages compared are here."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import version

import torch

from experiments.peers import bart

PACKAGES = ("sigpy", "mrpro", "deepinv", "fastmri")
_TORCHVISION = "nms", "qnms"


@cache
def allow_torchvision() -> torch.library.Library | None:
    """Let torchvision, which the others import, load beside a torch without CUDA.

    Its wheels on the package index are built for CUDA. Without it their compiled operators cannot
    load, and declaring these two fails; nothing here uses them.
    """
    if torch.cuda.is_available():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _TORCHVISION:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@cache
def imports(name: str) -> bool:
    """Whether a package can be used."""
    allow_torchvision()
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):  # the latter of torchvision's operators
        return False
    return True


def versions() -> dict[str, str]:
    """Of the packages and programs that can be used."""
    found = {name: version(name) if imports(name) else "not here" for name in PACKAGES}
    return {**found, "bart": bart.version() or "not here"}
