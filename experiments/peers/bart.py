"""Runs the commands of the BART toolbox, and says how long they computed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DIMENSIONS = 16
COILS, MAPS, TIME = 3, 4, 10
"""Axes of BART's arrays; x, y and z come first."""


@dataclass(frozen=True)
class Finished:
    """What a command left.

    Attributes:
        result: complex64, axes in BART's order reversed, those of size 1 in front left out.
        seconds: as the program printed them, without its start and files; None if it did not.
    """

    result: Tensor
    seconds: float | None


def version() -> str | None:
    """Of the installed BART, or None."""
    if shutil.which("bart") is None:
        return None
    done = subprocess.run(["bart", "version"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run(command: list[str], arrays: dict[str, Tensor], threads: int) -> Finished:
    """Run ``bart command``, in which names of arrays and ``out`` become files in memory.

    Args:
        command: words of the command line without "bart".
        arrays: complex or real, axes in BART's order reversed.
        threads: for OpenMP.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for name, array in arrays.items():
            write(Path(folder, name), array)
        files = {*arrays, "out"}
        words = [str(Path(folder, word)) if word in files else word for word in command]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            ["bart", *words], capture_output=True, text=True, env=environment, check=True
        )
        printed = re.search(r"Total Time: ([\d.]+)", done.stdout + done.stderr)
        return Finished(_read(Path(folder, "out")), float(printed[1]) if printed else None)


def write(path: Path, array: Tensor) -> None:
    """Write an array as ``path.hdr`` and ``path.cfl``, axes in BART's order reversed."""
    sizes = [*reversed(array.shape)] + [1] * (DIMENSIONS - array.ndim)
    header = "# Dimensions\n" + " ".join(map(str, sizes)) + "\n"
    path.with_suffix(".hdr").write_text(header, encoding="ascii")
    array.to(torch.complex64).contiguous().numpy().tofile(path.with_suffix(".cfl"))


def _read(path: Path) -> Tensor:
    lines = path.with_suffix(".hdr").read_text(encoding="ascii").splitlines()
    sizes = [int(size) for size in lines[1].split()]
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    values = np.fromfile(path.with_suffix(".cfl"), np.complex64)
    return torch.from_numpy(values.reshape(sizes[::-1]))
