"""Simulated scans: each is made from its seed when its samples are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from gleam.data.examples import stable_seed
from gleam.data.scan import EVERYTHING, Fact, Scan
from physics.acquisition import SimulatedScan
from physics.brain import simulate_brain
from physics.fourier import ifft
from physics.heart import simulate_heart
from physics.knee import simulate_knee

_FRAMES = 4  # of a beat, of which a slice of a heart is one

ANATOMIES: dict[str, Callable[..., SimulatedScan]] = {
    "brain": simulate_brain,
    "knee": simulate_knee,
    "heart": simulate_heart,
}


class SimulatedSubject(Scan):
    """One simulated subject; its readout, in a volume, is the first axis.

    Args:
        name: of the subject; with the seed, it decides everything about it.
        seed: of the whole data set.
        anatomy: one of :data:`ANATOMIES`.
        size: ``(y, x)``, ``(z, y, x)`` or, for a heart, ``(t, y, x)``; a heart of ``(y, x)`` is one
            of four frames of its beat.
        coils: receive coils.
        options: further arguments of the simulator, such as contrast and snr.
    """

    format = "simulated"
    whole = True

    def __init__(
        self,
        name: str,
        seed: int,
        anatomy: str = "brain",
        size: tuple[int, ...] = (128, 128),
        coils: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(Path("simulated") / anatomy / name, name)
        self._size = size
        self._coils = coils
        self._beating = anatomy == "heart" and len(size) == 3
        self._frame = None
        if anatomy == "heart" and len(size) == 2:
            self._frame = stable_seed(seed, name, "frame") % _FRAMES
            size = (_FRAMES, *size)
        simulate = partial(ANATOMIES[anatomy], size=size, coils=coils, **options)
        self._simulate = partial(simulate, stable_seed(seed, name))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Never: no file holds it."""
        return False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """As of a measured scan; a slice or a cine is one slice."""
        if self._beating:
            return (1, self._coils, *self._size)
        slices = self._size[0] if len(self._size) == 3 else 1
        return (slices, self._coils, *self._size[-2:])

    @cached_property
    def header(self) -> dict[str, Fact]:
        """That it is simulated."""
        return {"simulated": True}

    def kspace(self, slices: slice = EVERYTHING) -> np.ndarray:
        """Samples of some slices, simulated anew at every call."""
        kspace = self._simulate().kspace
        if self._frame is not None:
            kspace = kspace[:, self._frame]
        if len(self.shape) == 4 and kspace.ndim == 4:
            kspace = ifft(kspace, (-3,)).movedim(0, 1)
        else:
            kspace = kspace[None]
        return kspace[slices].contiguous().numpy()
