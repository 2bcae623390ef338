"""Which samples a scan has, if its file does not say: those that are not zero in every coil."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from gleam.data.scan import Scan

TOLERANCE = 0.02  # holes, as a fraction of the samples, that may be samples which happen to be 0


class UnmarkedScan(Scan):
    """A scan whose zeros tell what was acquired; its middle slice stands for all."""

    def middle(self) -> np.ndarray:
        """Samples of the middle slice ``(coils, *space)``, or others with the same zeros."""
        number = self.shape[0] // 2
        return self.kspace(slice(number, number + 1))[0]

    @cached_property
    def _sampling(self) -> tuple[np.ndarray | None, bool]:
        return sampling(self.middle())

    def acquired(self) -> np.ndarray | None:
        """Where the middle slice is not zero."""
        return self._sampling[0]

    @cached_property
    def undersampled(self) -> bool:
        """Whether there are holes between the samples, see :func:`sampling`."""
        return self._sampling[1]


def sampling(samples: np.ndarray) -> tuple[np.ndarray | None, bool]:
    """Where there are samples, and whether some are missing on purpose.

    A zero is a hole if it has samples before and behind it along some axis. Zero padding, partial
    Fourier and an elliptical shutter leave zeros only outside, so holes mean undersampling.

    Args:
        samples: complex ``(coils, *space)``.

    Returns:
        A float32 mask of 0 and 1, size 1 on axes along which it does not vary, None if there are
        samples everywhere (or nowhere, which says nothing); and whether samples are missing.
    """
    there = (samples != 0).any(axis=0)
    holes = np.zeros_like(there)
    for axis in range(there.ndim):
        before = np.logical_or.accumulate(there, axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(there, axis), axis), axis)
        holes |= before & behind & ~there
    undersampled = bool(holes.sum() > TOLERANCE * there.sum())
    if not undersampled:
        there |= holes
    if there.all() or not there.any():
        return None, undersampled
    return without_constant_axes(there).astype(np.float32), undersampled


def without_constant_axes(mask: np.ndarray) -> np.ndarray:
    """The same mask, size 1 on axes along which it does not vary."""
    for axis in range(mask.ndim):
        first = mask.take([0], axis)
        mask = first if (mask == first).all() else mask
    return mask
