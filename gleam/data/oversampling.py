"""The grid of a scan without the oversampling of its readout."""

from __future__ import annotations

import math

import numpy as np

from gleam.data.scan import DataError, Scan


def rows_kept(scan: Scan) -> int:
    """Length of y without the oversampling that ``header["oversampling"]`` states.

    Raises:
        DataError: if that is no number, or leaves no row or more than there are.
    """
    rows, factor = scan.shape[-2], scan.header.get("oversampling", 1)
    kept = rows / factor if isinstance(factor, int | float) and 0 < factor < math.inf else 0.0
    if not 0.5 < kept < rows + 0.5:
        raise DataError(
            f"{scan.path}, header: oversampling must be a factor from 1 to {rows}, the length of y,"
            f" got {factor!r}"
        )
    return round(kept)


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
