"""GLEAM: greedy, memory-efficient training of unrolled MRI reconstruction networks.

import gleam

result = gleam.train({"out": "runs/first"}, strategy="greedy")
evaluation = gleam.evaluate(result.best)
image = gleam.reconstruct(result.best, kspace)
image = gleam.reconstruct("general-2d", kspace)  # a network that ships with the library
"""

from importlib.util import find_spec
from pathlib import Path


def _check_neighbours() -> None:
    """Refuse to run with somebody else's top-level ``models`` or ``physics``."""
    home = Path(__file__).resolve().parent.parent
    for name in ("models", "physics"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found != home / name / "__init__.py":
            raise ImportError(
                f"gleam needs its own package {name!r} in {home}, but Python finds {found}. "
                "Rename that file or folder, or take its folder off the front of PYTHONPATH"
            )


_check_neighbours()

from gleam.adapters import wrap  # noqa: E402 (only once the packages are ours)
from gleam.evaluation import evaluate, load, pretrained  # noqa: E402
from gleam.exporting import export  # noqa: E402
from gleam.growth import grow  # noqa: E402
from gleam.reconstruction import reconstruct  # noqa: E402
from gleam.trainer import train  # noqa: E402

__all__ = ["evaluate", "export", "grow", "load", "pretrained", "reconstruct", "train", "wrap"]
