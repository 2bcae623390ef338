"""Batches as a pure function of seed and position, so that a run can resume anywhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gleam.batch import Batch, collate, share
from gleam.data.examples import Example, Source, generator, stable_seed
from gleam.data.scan import DataError
from physics.masks import draw_mask

DrawMask = Callable[[Sequence[int], int], Tensor]


def mask_drawer(
    kinds: Sequence[str], accelerations: Sequence[float], calibration: int | float, **options: Any
) -> DrawMask:
    """A function of image size and seed that draws a mask, its kind and acceleration if several.

    Args:
        kinds: names in :data:`physics.masks.MASKS`; each mask is of one of these.
        accelerations: each mask has one of these.
        calibration: fully sampled central lines, or their share.
        options: of :func:`physics.masks.draw_mask`.
    """
    return partial(_draw, tuple(kinds), tuple(accelerations), calibration, options)


def _draw(
    kinds: Sequence[str],
    accelerations: Sequence[float],
    calibration: int | float,
    options: dict[str, Any],
    shape: Sequence[int],
    seed: int,
) -> Tensor:
    kind = kinds[stable_seed("kind", seed) % len(kinds)]
    choice = torch.randint(len(accelerations), (), generator=generator("acceleration", seed))
    return draw_mask(kind, tuple(shape), accelerations[int(choice)], calibration, seed, **options)


class Loader:
    """Makes undersampled batches of a source's examples.

    Args:
        source: fully sampled examples.
        draw_mask: see :func:`mask_drawer`.
        seed: of the order of examples, their masks and slabs.
        slab: train on so many rows along a fully sampled readout, or None for whole images.
        mask_pool: train with so many different masks, for masks that are slow to draw, or None
            for a new one every time.
        skip_bad: leave out examples that cannot be read, see ``skipped``, instead of an error.

    Attributes:
        skipped: why examples were left out; each reason names the file or scan.
    """

    def __init__(
        self,
        source: Source,
        draw_mask: DrawMask,
        seed: int,
        slab: int | None = None,
        mask_pool: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.source = source
        self.seed = seed
        self.slab = slab
        self.mask_pool = mask_pool
        self.skip_bad = skip_bad
        self.skipped: set[str] = set()
        self._bad: set[int] = set()
        self._draw_mask = draw_mask
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, shape in enumerate(source.shapes):
            groups.setdefault(tuple(shape), []).append(index)
        self._groups = list(groups.values())
        self._group_of = {index: group for group in self._groups for index in group}
        self._turns = torch.tensor([n for n, group in enumerate(self._groups) for _ in group])

    @property
    def usable(self) -> list[int]:
        """Numbers of the examples not found to be bad so far."""
        return [index for index in range(len(self.source)) if index not in self._bad]

    def training(
        self,
        iteration: int,
        batch_size: int = 1,
        accumulate: int = 1,
        shard: tuple[int, int] = (0, 1),
    ) -> list[Batch]:
        """The batches of one training iteration, counted from zero.

        A batch holds examples of one shape. Of each shape, every epoch visits all examples once,
        in a new order; every visit draws a new mask.

        Args:
            iteration: its number.
            batch_size: images in each batch.
            accumulate: batches.
            shard: number of an equal share of the batches or, where they cannot be divided, of
                the images in each; and how many shares there are.

        Returns:
            The batches of that share.

        Raises:
            DataError: if an example cannot be read and ``skip_bad`` is not set.
        """
        visits = [
            [(i, number * batch_size + n) for n, i in enumerate(self._members(number, batch_size))]
            for number in range(iteration * accumulate, (iteration + 1) * accumulate)
        ]
        return [
            collate([self._visit(index, position) for index, position in together])
            for together in share(visits, *shard)
        ]

    def stream(
        self,
        first: int,
        last: int,
        batch_size: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[list[Batch]]:
        """:meth:`training` for iterations ``first`` up to ``last``, prepared by worker processes.

        Raises:
            DataError: as :meth:`training`.
        """
        iterations = _Iterations(self, batch_size, accumulate, shard)
        if workers == 0:
            for number in range(first, last):
                yield self.training(number, batch_size, accumulate, shard)
            return
        ahead = torch.utils.data.DataLoader(
            iterations,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else it draws from the global one
        )
        for batches, skipped in ahead:
            self.skipped |= skipped
            if isinstance(batches, DataError):
                raise batches
            yield batches

    def fixed(self, indices: Iterable[int] | None = None) -> Iterator[tuple[Example, Batch]]:
        """Every example once, or some, all those of a scan under the mask that its name seeds.

        Raises:
            DataError: if an example cannot be read and ``skip_bad`` is not set, or none can.
        """
        for index in range(len(self.source)) if indices is None else indices:
            try:
                example = self.source[index]
                mask = self._draw_mask(example.space, stable_seed("mask", example.scan))
                batch = example.undersample(mask)
            except DataError as error:
                self._skip(index, error)
                continue
            yield example, batch
        if not self.usable:
            raise DataError("; ".join(["no example can be used", *sorted(self.skipped)]))

    def _members(self, number: int, batch_size: int) -> list[int]:
        """Which examples make up a batch.

        In a cycle of ``batch_size`` epochs every group fills as many batches as it has members.
        """
        cycle, place = divmod(number, len(self.source))
        random = generator(self.seed, "group", cycle)
        turns = self._turns[torch.randperm(len(self._turns), generator=random)]
        choice = int(turns[place])
        group = self._groups[choice]
        first = (cycle * len(group) + int((turns[:place] == choice).sum())) * batch_size
        return [self._member(group, visit) for visit in range(first, first + batch_size)]

    def _member(self, group: list[int], visit: int) -> int:
        epoch, place = divmod(visit, len(group))
        order = torch.randperm(len(group), generator=generator(self.seed, "order", epoch))
        return group[int(order[place])]

    def _visit(self, index: int, position: int) -> Batch:
        """An undersampled example; in place of a bad one the next good one of its shape."""
        group = self._group_of[index]
        place = group.index(index)
        for candidate in [*group[place:], *group[:place]]:
            try:
                return self._undersampled(candidate, position)
            except DataError as error:
                self._skip(candidate, error)
        reasons = "; ".join(sorted(self.skipped))
        raise DataError(f"no example of shape {self.source.shapes[index]} can be used; {reasons}")

    def _undersampled(self, index: int, position: int) -> Batch:
        example = self.source[index]
        number = position if self.mask_pool is None else position % self.mask_pool
        mask = self._draw_mask(example.space, stable_seed(self.seed, "mask", number))
        if self.slab is not None:
            example = self._cut(example, mask, self.slab, position)
        return example.undersample(mask)

    def _skip(self, index: int, error: DataError) -> None:
        if not self.skip_bad:
            raise error
        self.skipped.add(str(error))
        self._bad.add(index)

    def _cut(self, example: Example, mask: Tensor, rows: int, position: int) -> Example:
        axis = example.readout()
        height = example.space[axis]
        acquired = example.acquired
        if mask.shape[axis] != 1 or (acquired is not None and acquired.shape[axis] != 1):
            raise ValueError("slabs need a readout: a mask that does not vary along it")
        if rows > height:
            raise ValueError(f"a slab of {rows} rows does not fit images of {height} rows")
        # Around a row with signal: where all coil maps are zero there is nothing to learn.
        others = [a for a in range(-example.target.ndim, 0) if a != axis]
        signal = example.target.abs().amax(others).nonzero().flatten()
        if len(signal) == 0:
            raise DataError(f"scan {example.scan} has an image without signal")
        random = generator(self.seed, "slab", position)
        middle = int(signal[torch.randint(len(signal), (), generator=random)])
        return example.slab(min(max(0, middle - rows // 2), height - rows), rows)


@dataclass(frozen=True)
class Feed:
    """The batches of training as a function of the iterations, which may travel to workers.

    Attributes:
        loader: of the training split.
        batch_size, accumulate: of every iteration, see :meth:`Loader.training`.
        workers: processes that load ahead, in each process that trains.
        shard: see :meth:`Loader.training`.
    """

    loader: Loader
    batch_size: int = 1
    accumulate: int = 1
    workers: int = 0
    shard: tuple[int, int] = (0, 1)

    def __call__(self, first: int, last: int) -> Iterator[list[Batch]]:
        """Batches of the iterations ``first`` up to ``last``, counted from zero."""
        return self.loader.stream(
            first, last, self.batch_size, self.accumulate, self.workers, self.shard
        )

    def shared(self, number: int, count: int) -> Feed:
        """An equal share of these batches, see :meth:`Loader.training`."""
        return replace(self, shard=(number, count))


class _Iterations(torch.utils.data.Dataset):
    """Training iterations by number, for worker processes; errors are handed over as values."""

    def __init__(
        self, loader: Loader, batch_size: int, accumulate: int, shard: tuple[int, int]
    ) -> None:
        self._loader = loader
        self._sizes = batch_size, accumulate, shard

    def __getitem__(self, number: int) -> tuple[list[Batch] | DataError, set[str]]:
        try:
            batches: list[Batch] | DataError = self._loader.training(number, *self._sizes)
        except DataError as error:
            batches = error
        return batches, self._loader.skipped


def _unchanged(item: Any) -> Any:
    return item


def _leave_signals_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
