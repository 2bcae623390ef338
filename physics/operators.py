"""The SENSE operator: images to undersampled multi-coil k-space, in any dimension.

Shapes: image ``(batch, maps, *space)``, k-space ``(batch, coils, *space)``, coil maps
``(batch, maps, coils, *space)``, mask ``(batch, 1, *space)``, where space is ``(y, x)``,
``(z, y, x)`` or ``(t, y, x)``. A mask has size 1 on the axes along which it does not vary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from physics.fourier import fft, ifft

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
    """

    def __init__(self, maps: Tensor, mask: Tensor, axes: Sequence[int] | None = None) -> None:
        ndim = maps.ndim - 3
        self.axes = tuple(axes) if axes is not None else tuple(range(-ndim, 0))
        _check_parts(maps, mask, self.axes)
        self.maps = maps
        self.mask = mask
        self._conjugate = maps.conj().resolve_conj()
        # F^H M F is the identity along axes on which M is constant, and along the others a
        # circular convolution, which commutes with shifts: shift the mask once, never the image.
        self._varying = tuple(axis for axis in self.axes if mask.shape[axis] > 1)
        weights = torch.fft.ifftshift(mask, dim=self._varying) if self._varying else mask
        self._weights = weights.square()
        self._groups = _group_coils(maps, mask)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(batch, maps, *space)`` to undersampled k-space ``(batch, coils, *space)``."""
        self._check_input(image, "maps", self.maps.shape[1])
        return fft(self._expand(image, slice(None)), self.axes) * self.mask

    def adjoint(self, kspace: Tensor) -> Tensor:
        """K-space ``(batch, coils, *space)`` to coil-combined image ``(batch, maps, *space)``."""
        self._check_input(kspace, "coils", self.maps.shape[2])
        return self._combine(ifft(kspace * self.mask, self.axes), slice(None))

    def normal(self, image: Tensor) -> Tensor:
        """``adjoint(forward(image))``, with transforms only along axes on which the mask varies."""
        self._check_input(image, "maps", self.maps.shape[1])
        first, *others = self._groups
        result = self._normal_of(image, first)
        for group in others:
            result = result.add_(self._normal_of(image, group))
        return result

    def _normal_of(self, image: Tensor, group: slice) -> Tensor:
        """The part of the normal operator that some coils contribute."""
        coils = self._expand(image, group)
        if self._varying:
            # One name: of the largest temporaries, two are alive at a time.
            coils = torch.fft.fftn(coils, dim=self._varying).mul_(self._weights)
            coils = torch.fft.ifftn(coils, dim=self._varying)
        else:
            coils = coils * self._weights
        return self._combine(coils, group)

    def _expand(self, image: Tensor, group: slice) -> Tensor:
        if self.maps.shape[1] == 1:
            return self.maps[:, 0, group] * image
        return (self.maps[:, :, group] * image.unsqueeze(2)).sum(1)

    def _combine(self, coils: Tensor, group: slice) -> Tensor:
        # Overwrites its argument: the coil images are the largest temporary there is.
        if self.maps.shape[1] == 1:
            return coils.mul_(self._conjugate[:, 0, group]).sum(1, keepdim=True)
        return (self._conjugate[:, :, group] * coils.unsqueeze(1)).sum(2)

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
