"""The SENSE operator: images to undersampled multi-coil k-space, in any dimension.

Shapes: image ``(batch, maps, *space)``, k-space ``(batch, coils, *space)``, coil maps
``(batch, maps, coils, *space)``, mask ``(batch, 1, *space)``, where space is ``(y, x)``,
``(z, y, x)`` or ``(t, y, x)``. A mask has size 1 on the axes along which it does not vary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Up to twice as fast as all coils at once on a CPU, and their memory is that of one group.
CPU_GROUP_BYTES = 1_000_000
GPU_GROUP_BYTES = 250_000_000


class Sense:
    """Multi-coil Cartesian encoding ``y = M F C x`` (Pruessmann et al., MRM 1999).

    Args:
        maps: coil sensitivities, complex ``(batch, maps, coils, *space)``; an axis that is not
            encoded (time) may have size 1.
        mask: sampling pattern or weights, real ``(batch, 1, *space)``, size 1 on axes along
            which it does not vary. A batch of size 1 is broadcast.
        axes: the encoded axes, negative; by default all of space. Dynamic data ``(t, y, x)``
            is encoded along ``(-2, -1)`` only.

    Raises:
        ValueError: if maps and mask do not fit each other or an axis is not one of space.
        TypeError: if the maps are not complex or the mask is not real of the same precision.

    Example:
        >>> maps = torch.ones(1, 1, 2, 8, 8, dtype=torch.complex64) / 2**0.5  # two equal coils
        >>> mask = torch.ones(1, 1, 1, 8)  # varies along x only
        >>> mask[..., 1::2] = 0
        >>> operator = Sense(maps, mask)
        >>> image = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
        >>> operator.forward(image).shape
        torch.Size([1, 2, 8, 8])
        >>> torch.allclose(operator.normal(image), operator.adjoint(operator.forward(image)))
        True
    """

    def __init__(self, maps: Tensor, mask: Tensor, axes: Sequence[int] | None = None) -> None:
        ndim = maps.ndim - 3
        self.axes = tuple(axes) if axes is not None else tuple(range(-ndim, 0))
        _check_parts(maps, mask, self.axes)
        self.maps = maps
        self.mask = mask
        # A centred transform of n points is a plain one between two multiplications with the same
        # phases, exp(2 pi i (n // 2) k / n). Those of the image are part of the maps; those of
        # k-space cancel in the normal operator. No shift is left.
        self._phases = _centring_phases(maps, mask, self.axes)
        self._modulated = maps * self._phases.unsqueeze(1)
        # F^H M F is the identity along axes on which M is constant. And as the transform is
        # symmetric, F^H z is conj(F conj(z)): one multiplication weights and conjugates.
        self._varying = tuple(axis for axis in self.axes if mask.shape[axis] > 1)
        weights = mask.square() / math.prod(mask.shape[axis] for axis in self._varying)
        self._weights = torch.stack([weights, -weights], -1)
        self._groups = _group_coils(maps, mask)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(batch, maps, *space)`` to undersampled k-space ``(batch, coils, *space)``."""
        self._check_input(image, "maps", self.maps.shape[1])
        coils = torch.fft.fftn(self._expand(image, slice(None)), dim=self.axes)
        return coils.mul_(self._filter())

    def adjoint(self, kspace: Tensor) -> Tensor:
        """K-space ``(batch, coils, *space)`` to coil-combined image ``(batch, maps, *space)``."""
        self._check_input(kspace, "coils", self.maps.shape[2])
        coils = (kspace * self._filter().conj()).conj_physical_()
        return self._combine(torch.fft.fftn(coils, dim=self.axes), slice(None)).conj_physical()

    def normal(self, image: Tensor) -> Tensor:
        """``adjoint(forward(image))``, with transforms only along axes on which the mask varies."""
        self._check_input(image, "maps", self.maps.shape[1])
        first, *others = self._groups
        result = self._normal_of(image, first)
        for group in others:
            result = result.add_(self._normal_of(image, group))
        return result.conj_physical_()

    def _normal_of(self, image: Tensor, group: slice) -> Tensor:
        """The conjugate of what some coils contribute to the normal operator."""
        coils = self._expand(image, group)
        if self._varying:
            # One name: of the largest temporaries, two are alive at a time.
            coils = torch.fft.fftn(coils, dim=self._varying)
        torch.view_as_real(coils).mul_(self._weights)
        if self._varying:
            coils = torch.fft.fftn(coils, dim=self._varying)
        return self._combine(coils, group)

    def _filter(self) -> Tensor:
        """What a plain transform lacks in k-space: the mask, phases and scale."""
        points = math.prod(self._phases.shape[axis] for axis in self.axes)
        return self._phases * (self.mask / math.sqrt(points))

    def _expand(self, image: Tensor, group: slice) -> Tensor:
        if self.maps.shape[1] == 1:
            return self._modulated[:, 0, group] * image
        return (self._modulated[:, :, group] * image.unsqueeze(2)).sum(1)

    def _combine(self, coils: Tensor, group: slice) -> Tensor:
        """The conjugate of the coils' combination; overwrites its argument, which is large."""
        if self.maps.shape[1] == 1:
            return coils.mul_(self._modulated[:, 0, group]).sum(1, keepdim=True)
        return (self._modulated[:, :, group] * coils.unsqueeze(1)).sum(2)

    def _check_input(self, tensor: Tensor, name: str, channels: int) -> None:
        space = torch.broadcast_shapes(self.maps.shape[3:], self.mask.shape[2:])
        free = {axis - len(space) for axis in range(len(space))} - set(self.axes)
        fits = tensor.ndim == len(space) + 2 and tensor.shape[1] == channels
        for axis, size in zip(range(-len(space), 0), space, strict=True):
            fits = fits and (tensor.shape[axis] == size or (size == 1 and axis in free))
        if not fits:
            raise ValueError(
                f"expected (batch, {name}, *space) = (batch, {channels}, "
                f"{', '.join(map(str, space))}) to fit the coil maps {tuple(self.maps.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        batches = {len(self.maps), len(self.mask)} - {1}
        if batches and len(tensor) not in batches:
            raise ValueError(
                f"the batch of maps and mask is {batches.pop()}, that of the {name} {len(tensor)}"
            )


def _centring_phases(maps: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
    """What a centred transform is multiplied with before and behind, ``(1, 1, *space)``."""
    space = torch.broadcast_shapes(maps.shape[3:], mask.shape[2:])
    turns = torch.zeros((), dtype=torch.float64, device=maps.device)
    for axis in axes:
        n = space[axis]
        line = (
            torch.arange(n, dtype=turns.dtype, device=maps.device) - (n // 2) / 2
        )  # halves of the constant phase
        turns = turns + ((n // 2) * line / n).remainder(1).view(-1, *[1] * (-1 - axis))
    phases = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
    return phases.to(maps.dtype).view(1, 1, *[1] * (len(space) - phases.ndim), *phases.shape)


def _group_coils(maps: Tensor, mask: Tensor) -> list[slice]:
    """Coils that the normal operator treats at a time: their images should fit the cache."""
    space = torch.broadcast_shapes(maps.shape[3:], mask.shape[2:])
    coils = maps.shape[2]
    size = max(len(maps), len(mask)) * coils * math.prod(space) * maps.element_size()
    limit = CPU_GROUP_BYTES if maps.device.type == "cpu" else GPU_GROUP_BYTES
    length = math.ceil(coils / math.ceil(size / limit))
    return [slice(first, first + length) for first in range(0, coils, length)]


def _check_parts(maps: Tensor, mask: Tensor, axes: tuple[int, ...]) -> None:
    if not maps.is_complex():
        raise TypeError(f"coil maps must be complex, got {maps.dtype}")
    ndim = maps.ndim - 3
    if mask.dtype != maps.real.dtype:
        raise TypeError(f"the mask must be real, {maps.real.dtype} as the maps, got {mask.dtype}")
    if ndim < 1 or mask.ndim != ndim + 2 or mask.shape[1] != 1:
        raise ValueError(
            "maps must be (batch, maps, coils, *space) and the mask (batch, 1, *space), "
            f"got {tuple(maps.shape)} and {tuple(mask.shape)}"
        )
    if any(not -ndim <= axis < 0 for axis in axes) or len(set(axes)) < len(axes):
        raise ValueError(f"encoded axes must lie in -{ndim} .. -1, each once, got {axes}")
    if maps.shape[0] != mask.shape[0] and 1 not in (maps.shape[0], mask.shape[0]):
        raise ValueError(f"batch sizes differ: maps {maps.shape[0]}, mask {mask.shape[0]}")
    for axis in range(-ndim, 0):
        ours, theirs = maps.shape[axis], mask.shape[axis]
        if theirs not in (1, ours) and (axis in axes or ours != 1):
            raise ValueError(
                f"axis {axis} of space: the maps have size {ours}, the mask has {theirs}; "
                "the mask's must be the same, or 1 where it does not vary"
            )
