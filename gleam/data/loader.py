"""Batches as a pure function of seed and position, so that a run can resume anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gleam.batch import Batch, collate
from gleam.data.examples import Example, Source, generator, stable_seed
from physics.masks import MASKS

DrawMask = Callable[[Sequence[int], int], Tensor]


def mask_drawer(kind: str, accelerations: Sequence[float], calibration: int) -> DrawMask:
    """A function of image size and seed that draws a mask, and its acceleration if several.

    Args:
        kind: a name in :data:`physics.masks.MASKS`.
        accelerations: each mask has one of these.
        calibration: fully sampled central lines.
    """

    def draw(shape: Sequence[int], seed: int) -> Tensor:
        choice = torch.randint(len(accelerations), (), generator=generator("acceleration", seed))
        return MASKS[kind](tuple(shape), accelerations[int(choice)], calibration, seed)

    return draw


class Loader:
    """Makes undersampled batches of a source's examples.

    Args:
        source: fully sampled examples.
        draw_mask: see :func:`mask_drawer`.
        seed: of the order of examples, their masks and slabs.
        slab: train on so many rows along a fully sampled readout, or None for whole images.
        mask_pool: train with so many different masks, for masks that are slow to draw, or None
            for a new one every time.
    """

    def __init__(
        self,
        source: Source,
        draw_mask: DrawMask,
        seed: int,
        slab: int | None = None,
        mask_pool: int | None = None,
    ) -> None:
        self.source = source
        self.seed = seed
        self.slab = slab
        self.mask_pool = mask_pool
        self._draw_mask = draw_mask

    def training(self, iteration: int, batch_size: int = 1, accumulate: int = 1) -> list[Batch]:
        """The batches of one training iteration, counted from zero.

        Every epoch visits all examples once, in a new order; every visit draws a new mask.

        Returns:
            ``accumulate`` batches of ``batch_size`` images each.

        Raises:
            ValueError: if the images of one batch differ in shape.
        """
        first = iteration * batch_size * accumulate
        return [
            collate(
                [self._visit(first + part * batch_size + number) for number in range(batch_size)]
            )
            for part in range(accumulate)
        ]

    def fixed(self) -> Iterator[tuple[Example, Batch]]:
        """Every example once, all those of a scan under the mask that its name seeds."""
        for index in range(len(self.source)):
            example = self.source[index]
            mask = self._draw_mask(example.target.shape[1:], stable_seed("mask", example.scan))
            yield example, example.undersample(mask)

    def _visit(self, position: int) -> Batch:
        epoch, place = divmod(position, len(self.source))
        order = torch.randperm(len(self.source), generator=generator(self.seed, "order", epoch))
        example = self.source[int(order[place])]
        number = position if self.mask_pool is None else position % self.mask_pool
        mask = self._draw_mask(example.target.shape[1:], stable_seed(self.seed, "mask", number))
        if self.slab is not None:
            example = self._cut(example, mask, self.slab, position)
        return example.undersample(mask)

    def _cut(self, example: Example, mask: Tensor, rows: int, position: int) -> Example:
        height = example.target.shape[1]
        if mask.shape[0] != 1:
            raise ValueError("slabs need a readout: a mask that does not vary along y")
        if rows > height:
            raise ValueError(f"a slab of {rows} rows does not fit images of {height} rows")
        # Around a row with signal: where all coil maps are zero there is nothing to learn.
        signal = example.target.abs().flatten(2).amax((0, 2)).nonzero().flatten()
        if len(signal) == 0:
            raise ValueError(f"scan {example.scan} has an image without signal")
        random = generator(self.seed, "slab", position)
        middle = int(signal[torch.randint(len(signal), (), generator=random)])
        return example.slab(min(max(0, middle - rows // 2), height - rows), rows)
