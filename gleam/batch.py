"""What one training step or one reconstruction reads: measurements and, if known, the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from physics.operators import Sense

Item = TypeVar("Item")

FIELDS = ("kspace", "mask", "maps", "target", "scale")


@dataclass(frozen=True, eq=False)
class Batch:
    """Undersampled measurements of one or several images of the same shape.

    Attributes:
        kspace: complex64 ``(batch, coils, *space)``; positions that the mask leaves out are
            ignored.
        mask: float32 ``(batch, 1, *space)``, size 1 on axes along which it does not vary.
        maps: coil maps, complex64 ``(batch, maps, coils, *space)``.
        target: reference image, complex64 ``(batch, maps, *space)``, or None.
        scale: what k-space and target were divided by, ``(batch,)``, or None.
        axes: the encoded axes, negative; None for all of space.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor
    target: Tensor | None = None
    scale: Tensor | None = None
    axes: tuple[int, ...] | None = None

    @cached_property
    def operator(self) -> Sense:
        """The encoding operator A."""
        return Sense(self.maps, self.mask, self.axes)

    @cached_property
    def zero_filled(self) -> Tensor:
        """The zero-filled image A^H y, complex ``(batch, maps, *space)``."""
        return self.operator.adjoint(self.kspace)

    def __len__(self) -> int:
        """Number of images."""
        return self.kspace.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda values: values.to(device, non_blocking=True))

    def split(self) -> list[Batch]:
        """One batch for each image."""
        return [self._map(partial(_pick, number=number)) for number in range(len(self))]

    def planes(self) -> Batch:
        """A batch of the planes ``(y, x)`` of one volume or cine; of an image, itself.

        Raises:
            ValueError: if it holds several, or is encoded along more than y and x.
        """
        if self.kspace.ndim == 4:
            return self
        if len(self) > 1 or self.axes != (-2, -1):
            raise ValueError("only one volume or cine encoded along y and x has planes")
        count = self.kspace.shape[2]

        def fold(values: Tensor) -> Tensor:
            return values.expand(*values.shape[:-3], count, -1, -1)[0].movedim(-3, 0).contiguous()

        target = None if self.target is None else fold(self.target)
        return Batch(fold(self.kspace), fold(self.mask), fold(self.maps), target)

    def normalised(self) -> Batch:
        """Divide k-space and target by the :func:`signal_level` of the zero-filled image.

        Raises:
            ValueError: if an image of the batch has no signal or holds NaN or infinity.
        """
        scale = normal_level(self.zero_filled, self.target)
        return replace(
            self,
            kspace=self.kspace / _like(scale, self.kspace),
            target=None if self.target is None else self.target / _like(scale, self.target),
            scale=scale if self.scale is None else scale * self.scale,
        )

    def rescale(self, image: Tensor) -> Tensor:
        """Undo the normalisation of an image ``(batch, maps, *space)``."""
        return image if self.scale is None else image * _like(self.scale, image)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {name: getattr(self, name) for name in FIELDS}
        changed: dict[str, Any] = {
            name: change(value) for name, value in values.items() if value is not None
        }
        return replace(self, **changed)


def normal_level(zero_filled: Tensor, target: Tensor | None = None) -> Tensor:
    """The :func:`signal_level` of each zero-filled image, to divide by, ``(batch,)``.

    Raises:
        ValueError: if an image has no signal, or one or its target holds NaN or infinity.
    """
    scale = signal_level(zero_filled)
    images = [zero_filled] if target is None else [zero_filled, target]
    if not torch.all(scale > 0) or not all(bool(image.isfinite().all()) for image in images):
        raise ValueError(
            "every image of a batch and its target must be finite and not all zero; the "
            f"levels of the zero-filled images are {scale.tolist()}"
        )
    return scale


def signal_level(image: Tensor) -> Tensor:
    """95th percentile of each image's magnitude, ``(batch,)``, or its maximum where that is zero.

    The order statistic without interpolation: :func:`torch.quantile` refuses large volumes.
    """
    magnitudes = image.abs().flatten(1)
    level = magnitudes.kthvalue(1 + round(0.95 * (magnitudes.shape[1] - 1)), dim=1).values
    return torch.where(level == 0, magnitudes.amax(1), level)


def collate(batches: Sequence[Batch]) -> Batch:
    """Join batches of equal shapes into one.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> one = Batch(torch.ones(1, 2, 8, 8), torch.ones(1, 1, 1, 8), torch.ones(1, 1, 2, 8, 8))
        >>> len(collate([one, one])), collate([one, one]).kspace.shape
        (2, torch.Size([2, 2, 8, 8]))
    """
    first = batches[0]
    if any(batch.axes != first.axes for batch in batches):
        raise ValueError("batches to join must be encoded along the same axes")
    joined: dict[str, Any] = {}
    for name in FIELDS:
        values = [getattr(batch, name) for batch in batches]
        if all(value is None for value in values):
            continue
        if any(value is None for value in values):
            raise ValueError(f"either all or none of the batches to join must have a {name}")
        if name == "mask":  # one may vary along an axis along which another does not
            space = torch.broadcast_shapes(*(value.shape[1:] for value in values))
            values = [value.expand(-1, *space) for value in values]
        shapes = {tuple(value.shape[1:]) for value in values}
        if len(shapes) > 1:
            raise ValueError(f"a batch needs equal shapes, got {name} of {sorted(shapes)}")
        joined[name] = torch.cat(values)
    return replace(first, **joined)


def share(batches: Sequence[Sequence[Item]], number: int, count: int) -> list[Sequence[Item]]:
    """One of several equal shares: some of the batches or, of each, some of the images.

    Args:
        batches: sequences of whatever stands for an image.
        number: of the share, counted from zero.
        count: of the shares.

    Raises:
        ValueError: if neither the batches nor the images in each can be divided by the count.
    """
    each, rest = divmod(len(batches), count)
    if not rest:
        return list(batches[number * each : (number + 1) * each])
    if any(len(batch) % count for batch in batches):
        raise ValueError(
            f"{count} replicas need equal shares: {count} must divide the number of batches, "
            f"{len(batches)}, or of images in each, {[len(batch) for batch in batches]}"
        )
    sizes = [len(batch) // count for batch in batches]
    return [b[number * n : (number + 1) * n] for b, n in zip(batches, sizes, strict=True)]


def _pick(values: Tensor, number: int) -> Tensor:
    return values if len(values) == 1 else values[number : number + 1]


def _like(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))
