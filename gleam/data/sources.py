"""Examples out of scans: slices, volumes, frames or cines, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gleam.data.cache import Cache
from gleam.data.estimate import calibration_extent
from gleam.data.examples import Example
from gleam.data.oversampling import acquired_kept, rows_kept
from gleam.data.scan import DataError, Scan
from physics.preparation import remove_oversampling

ITEMS = ("slices", "volumes", "frames", "cines")
STATIC = ("slices", "volumes")
GIBIBYTE = 2**30

EstimateMaps = Callable[..., Tensor]  # as gleam.data.estimate.estimate_maps


@dataclass(frozen=True)
class _Item:
    """Where an example lies: its scan, its slices, and its frame or None for all of them."""

    scan: Scan
    part: slice
    frame: int | None = None


@dataclass(frozen=True)
class _Block:
    """Some slices of a scan, in the layout of :class:`gleam.data.scan.Scan`."""

    kspace: Tensor
    maps: Tensor
    target: Tensor | None

    @property
    def nbytes(self) -> int:
        parts = (self.kspace, self.maps, self.target)
        return sum(part.nbytes for part in parts if part is not None)


class ScanSource:
    """The examples of some scans, in order.

    Holds paths and shapes; k-space is read, coil maps that a file lacks are estimated, and the
    readout's oversampling is removed when an example is asked for. What was used last is kept.

    Args:
        scans: fully sampled.
        items: what an example is: ``slices`` (y, x) or ``volumes`` (z, y, x) of static scans,
            ``frames`` (y, x) or ``cines`` (t, y, x) of dynamic ones.
        estimate: makes coil maps, see :func:`gleam.data.estimate.estimate_maps`.
        sets: coil-map sets.
        calibration: central lines the maps are estimated from, or their share.
        cache: where examples are kept; may be shared by several sources.
        skip_bad: leave scans out whose header cannot be used, see ``bad``, instead of an error.

    Attributes:
        bad: why scans were left out, by file.

    Raises:
        DataError: if a scan cannot be used, or none is left.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        estimate: EstimateMaps,
        *,
        items: str = "slices",
        sets: int = 1,
        calibration: int | float = 24,
        cache: Cache | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.bad: dict[str, str] = {}
        self._kind = items
        self._estimate = estimate
        self._sets = sets
        self._calibration = calibration
        self._cache = Cache(2 * GIBIBYTE) if cache is None else cache
        self._items: list[_Item] = []
        self.scans: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        for scan in scans:
            try:
                self._add(scan)
            except DataError as error:
                if not skip_bad:
                    raise
                self.bad[str(scan.path)] = str(error)
        if not self._items:
            raise DataError("; ".join(["no scan can be used", *self.bad.values()]))

    def __len__(self) -> int:
        """Number of examples in all scans."""
        return len(self._items)

    def __getitem__(self, index: int) -> Example:
        """Example ``index``, counted through all scans.

        Raises:
            DataError: if it cannot be read, holds NaN or nothing, or its parts do not fit.
        """
        item = self._items[index]
        scan, part = item.scan, item.part
        key = (scan.path, scan.name, part.start, part.stop)
        block = self._cache.get(key, lambda: self._read(scan, part))
        kspace, maps = self._arrange(block.kspace, item), self._arrange(block.maps, item)
        acquired = self._acquired(item)
        if block.target is None:
            return Example.from_maps(kspace, maps, scan.name, acquired)
        return Example(kspace, maps, self._arrange(block.target, item), scan.name, acquired)

    def _add(self, scan: Scan) -> None:
        _check_kind(scan, self._kind)
        slices, coils, *space = scan.shape
        space[-2] = rows_kept(scan)
        rows = [slice(n, n + 1) for n in range(slices) if n not in _empty(scan)]
        if self._kind == "volumes":
            added, space = [_Item(scan, slice(0, slices))], [slices, *space]
        elif self._kind == "frames":
            added = [_Item(scan, row, frame) for row in rows for frame in range(space[0])]
            space = space[1:]
        else:
            added = [_Item(scan, row) for row in rows]
        self._items += added
        self.shapes += [(coils, *space)] * len(added)
        self.scans.append(scan.name)

    def _read(self, scan: Scan, part: slice) -> _Block:
        if scan.undersampled:  # found out here: for some formats it takes the samples
            raise DataError(
                f"{scan.path} is undersampled, so there is no reference to learn from or to "
                "compare with; reconstruct it with gleam reconstruct"
            )
        kspace = _checked(self._samples(scan, part), scan, "kspace", part)
        if not kspace.abs().any():
            raise DataError(f"{_place(scan, 'kspace', part)}: all samples are zero")
        rows = rows_kept(scan)
        if rows != kspace.shape[-2]:
            kspace = remove_oversampling(kspace, rows, -2)
        found = scan.maps(part)
        maps = self._estimated(kspace, scan, part) if found is None else _from_numpy(found)
        wanted = (len(kspace), self._sets, *kspace.shape[1:])
        if scan.dynamic:
            wanted = (*wanted[:-3], 1, *wanted[-2:])
        self._check(maps, wanted, scan, "maps", part)
        found = scan.target(part)
        if found is None:
            return _Block(kspace, maps, None)
        target = _from_numpy(found)
        wanted = (len(kspace), self._sets, *kspace.shape[2:])
        self._check(target, wanted, scan, "target", part)
        return _Block(kspace, maps, target)

    def _samples(self, scan: Scan, part: slice) -> np.ndarray:
        if not scan.whole or part == slice(0, scan.shape[0]):
            return scan.kspace(part)
        return self._cache.get((scan.path, scan.name), scan.kspace)[part]

    def _estimated(self, kspace: Tensor, scan: Scan, part: slice) -> Tensor:
        extent = calibration_extent(self._calibration, kspace.shape[-2:])
        options: dict[str, Any] = {"calibration": extent, "sets": self._sets}
        options |= {"volume": self._kind == "volumes"}
        try:
            maps = self._estimate(kspace, dynamic=scan.dynamic, **options)
        except ValueError as error:
            raise DataError(f"{_place(scan, 'kspace', part)}: {error}") from error
        if not maps.any():
            raise DataError(
                f"{_place(scan, 'kspace', part)}: the estimated coil maps are zero everywhere; "
                "lower data.map_crop, or raise data.mask.calibration"
            )
        return maps

    def _check(
        self, values: Tensor, wanted: tuple[int, ...], scan: Scan, key: str, part: slice
    ) -> None:
        if values.shape != wanted:
            raise DataError(
                f"{_place(scan, key, part)}: expected (slices, maps, "
                f"{'coils, ' * (key == 'maps')}*space) = {wanted} to fit kspace and "
                f"data.map_sets, got {tuple(values.shape)}"
            )
        _check_finite(values, scan, key, part)

    def _acquired(self, item: _Item) -> Tensor | None:
        mask = _acquired(item.scan)
        if mask is None or item.frame is None:
            return mask if mask is None or self._kind != "volumes" else mask[None]
        return mask[min(item.frame, len(mask) - 1)]

    def _arrange(self, values: Tensor, item: _Item) -> Tensor:
        """From ``(slices, ..., [t,] y, x)`` to the example's ``(..., *space)``."""
        if self._kind == "volumes":
            return values.movedim(0, -3)
        if item.frame is None:
            return values[0]
        return values[0].select(-3, item.frame if values.shape[-3] > 1 else 0)


def measurements(scan: Scan, items: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What :func:`gleam.reconstruct` takes of a scan, undersampled or not.

    Args:
        scan: its readout's oversampling is removed.
        items: as of :class:`ScanSource`.

    Returns:
        K-space ``(images, coils, *space)``; where it was acquired, ``space`` or
        ``(images, *space)`` with size 1 where constant; and the scan's coil maps with a leading
        axis of images. The latter two can be None.

    Raises:
        DataError: if the scan cannot be read or has no such items.
    """
    _check_kind(scan, items)
    kspace, mask, found = _from_numpy(scan.kspace()), _acquired(scan), scan.maps()
    maps = None if found is None else _from_numpy(found)
    if (rows := rows_kept(scan)) != kspace.shape[-2]:
        kspace = remove_oversampling(kspace, rows, -2)
    if items == "volumes":
        return (
            kspace.movedim(0, -3)[None],
            None if mask is None else mask[None],
            None if maps is None else maps.movedim(0, -3)[None],
        )
    if items == "frames":
        slices, frames = len(kspace), kspace.shape[-3]
        if maps is not None:
            maps = maps.expand(*maps.shape[:-3], frames, -1, -1).movedim(-3, 1).flatten(0, 1)
        if mask is not None:
            mask = mask.expand(frames, -1, -1).repeat(slices, 1, 1)
        kspace = kspace.movedim(-3, 1).flatten(0, 1)
    return kspace, mask, maps


def _empty(scan: Scan) -> list[float]:
    """Slices in which ``gleam prepare`` found no object, so that their coil maps are zero."""
    found = scan.header.get("empty_slices", [])
    return found if isinstance(found, list) else []


def _check_kind(scan: Scan, items: str) -> None:
    if scan.dynamic == (items in STATIC):
        kind, fitting = ("dynamic", ITEMS[2:]) if scan.dynamic else ("static", STATIC)
        raise DataError(
            f"{scan.path} is a {kind} scan of shape {scan.shape}: set data.items to "
            f"{' or '.join(fitting)}, got {items}"
        )


def _acquired(scan: Scan) -> Tensor | None:
    mask = acquired_kept(scan)
    return None if mask is None else torch.from_numpy(np.array(mask, dtype=np.float32))


def _from_numpy(values: np.ndarray) -> Tensor:
    own = values if values.base is None else values.copy()  # a view would keep a whole scan alive
    return torch.from_numpy(np.require(own, np.complex64, ["C", "W"]))


def _checked(values: np.ndarray, scan: Scan, key: str, part: slice) -> Tensor:
    tensor = _from_numpy(values)
    _check_finite(tensor, scan, key, part)
    return tensor


def _check_finite(values: Tensor, scan: Scan, key: str, part: slice) -> None:
    if not torch.isfinite(torch.view_as_real(values)).all():
        raise DataError(f"{_place(scan, key, part)}: holds NaN or infinity")


def _place(scan: Scan, key: str, part: slice) -> str:
    number = str(part.start) if part.stop - part.start == 1 else ""
    return f"{scan.path}, {key}[{number}]" if number else f"{scan.path}, {key}"
