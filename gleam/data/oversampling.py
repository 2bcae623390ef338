"""The grid of a scan without the oversampling of its readout."""

from __future__ import annotations

import numpy as np

from gleam.data.scan import Scan


def rows_kept(scan: Scan) -> int:
    """Length of y without the oversampling that ``header["oversampling"]`` states."""
    return round(scan.shape[-2] / float(scan.header.get("oversampling", 1)))  # type: ignore[arg-type]


def acquired_kept(scan: Scan) -> np.ndarray | None:
    """Where there are samples, see :meth:`Scan.acquired`, on that grid.

    Its spatial frequencies lie further apart: those nearest to them tell.
    """
    acquired = scan.acquired()
    if acquired is None or acquired.shape[-2] == 1:
        return acquired
    rows, kept = acquired.shape[-2], rows_kept(scan)
    nearest = np.round((np.arange(kept) - kept // 2) * (rows / kept) + rows // 2).astype(int)
    return acquired.take(nearest.clip(0, rows - 1), -2)
