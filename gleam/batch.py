"""What one training step or one reconstruction reads: measurements and, if known, the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from physics.operators import Sense

FIELDS = ("kspace", "mask", "maps", "target", "scale")


@dataclass(frozen=True)
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
        names = [name for name in FIELDS if getattr(self, name) is not None]
        moved: dict[str, Any] = {
            name: getattr(self, name).to(device, non_blocking=True) for name in names
        }
        return replace(self, **moved)

    def split(self) -> list[Batch]:
        """One batch for each image."""
        names = [name for name in FIELDS if getattr(self, name) is not None]
        return [
            replace(self, **{name: getattr(self, name)[number : number + 1] for name in names})
            for number in range(len(self))
        ]

    def normalised(self) -> Batch:
        """Divide k-space and target by the 95th percentile of the zero-filled magnitude.

        Raises:
            ValueError: if an image of the batch has no signal or holds NaN or infinity.
        """
        scale = percentile(self.zero_filled.abs().flatten(1), 0.95)
        if not torch.all(torch.isfinite(scale) & (scale > 0)):
            raise ValueError(
                "every image of a batch must have finite, non-zero signal; the 95th percentile "
                f"of the zero-filled magnitudes is {scale.tolist()}"
            )
        return replace(
            self,
            kspace=self.kspace / _like(scale, self.kspace),
            target=None if self.target is None else self.target / _like(scale, self.target),
            scale=scale,
        )

    def rescale(self, image: Tensor) -> Tensor:
        """Undo the normalisation of an image ``(batch, maps, *space)``."""
        return image if self.scale is None else image * _like(self.scale, image)


def percentile(values: Tensor, fraction: float) -> Tensor:
    """The given fraction's order statistic along the last axis, of any length."""
    rank = 1 + round(fraction * (values.shape[-1] - 1))
    return values.kthvalue(rank, dim=-1).values


def collate(batches: Sequence[Batch]) -> Batch:
    """Join batches of equal shapes into one.

    Raises:
        ValueError: if the shapes differ.
    """
    first = batches[0]
    joined: dict[str, Any] = {}
    for name in FIELDS:
        values = [getattr(batch, name) for batch in batches]
        if values[0] is None:
            continue
        shapes = {tuple(value.shape[1:]) for value in values}
        if len(shapes) > 1:
            raise ValueError(f"a batch needs equal shapes, got {name} of {sorted(shapes)}")
        joined[name] = torch.cat(values)
    return replace(first, **joined)


def _like(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))
