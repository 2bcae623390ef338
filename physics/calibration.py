"""Coil maps by other methods than ESPIRiT, and all methods by name.

Shapes: k-space ``(batch, coils, *space)``, maps ``(batch, sets, coils, *space)``. Space is
``(y, x)`` or ``(z, y, x)``, with the zero frequency at index ``n // 2`` of every axis.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from physics.coils import espirit
from physics.support import (
    calibration_block,
    low_resolution_images,
    object_support,
    root_sum_of_squares,
)

Crop = float | Literal["auto"]


@torch.no_grad()
def jsense(
    kspace: Tensor,
    calibration: int | tuple[int, ...] = 24,
    sets: int = 1,
    crop: Crop = "auto",
    kernel_size: int | None = None,
    regularization: float = 0.0,
    iterations: int = 10,
) -> Tensor:
    """Coil maps estimated together with the image, J-SENSE (DOI 10.1002/mrm.21245) by sigpy.

    Maps and image are found in turn, by ten conjugate gradient steps each, so that their
    convolution in k-space gives the calibration data; maps have few Fourier coefficients, as in
    regularized nonlinear inversion (DOI 10.1002/mrm.21691). Runs on the CPU.

    Args:
        kspace: complex ``(batch, coils, *space)``, fully sampled in its centre.
        calibration: extent of that centre, one for all axes or one per axis.
        sets: must be 1.
        crop: where maps are zero, see :class:`MapMethod`.
        kernel_size: number of Fourier coefficients of the maps along every axis, at most the
            smallest extent of the calibration; by default two thirds of that, but not above 16.
        regularization: weight of the squared norms of image and maps; the calibration data has
            norm 1.
        iterations: how often image and maps take their turns.

    Returns:
        Maps ``(batch, 1, coils, *space)`` of the dtype of ``kspace``, with unit root sum of
        squares over coils in their support.

    Raises:
        TypeError: if the k-space is not complex.
        ValueError: as :func:`physics.coils.espirit`, and for several sets.
    """
    from sigpy.mri.app import JsenseRecon  # slow to import, hence here

    _check_sets(sets, "J-SENSE models every coil image as one image times one map")
    if kernel_size is None:
        smallest = calibration if isinstance(calibration, int) else min(calibration, default=1)
        kernel_size = max(1, min(16, 2 * smallest // 3))
    # With more unknowns than data the iterations reach it exactly and then divide 0 by 0.
    block = calibration_block(kspace, calibration, kernel_size)
    maps = torch.empty_like(kspace)
    for number, sample in enumerate(block):
        # sigpy takes a cube; it ignores positions that are zero in all coils.
        data = kspace.new_zeros(kspace.shape[1:])
        centre = data
        for axis, size in enumerate(sample.shape[1:], start=1):
            centre = centre.narrow(axis, data.shape[axis] // 2 - size // 2, size)
        centre.copy_(sample / sample.abs().max())
        recon = JsenseRecon(
            data.cpu().numpy(),
            mps_ker_width=kernel_size,
            ksp_calib_width=max(sample.shape[1:]),
            lamda=regularization,
            max_iter=iterations,
            show_pbar=False,
        )
        maps[number] = torch.from_numpy(recon.run())
    return _crop(maps, block, crop)


@torch.no_grad()
def low_resolution(
    kspace: Tensor,
    calibration: int | tuple[int, ...] = 24,
    sets: int = 1,
    crop: Crop = "auto",
) -> Tensor:
    """Coil maps as low-resolution coil images over their root sum of squares.

    Self-calibration after McKenzie et al., Magn Reson Med 2002;47:529: fast, smooth, and biased
    at edges. The maps carry the phase of the low-resolution image too, so that an image combined
    with them has nearly none.

    Args:
        kspace: complex ``(batch, coils, *space)``, fully sampled in its centre.
        calibration: extent of that centre, one for all axes or one per axis; it is weighted with
            a Hann window.
        sets: must be 1.
        crop: where maps are zero, see :class:`MapMethod`.

    Returns:
        Maps ``(batch, 1, coils, *space)`` of the dtype of ``kspace``, with unit root sum of
        squares over coils in their support.

    Raises:
        TypeError: if the k-space is not complex.
        ValueError: as :func:`physics.coils.espirit`, and for several sets.
    """
    _check_sets(sets, "a low-resolution image shows one value of each coil in every pixel")
    block = calibration_block(kspace, calibration)
    images = low_resolution_images(block, kspace.shape[2:])
    floor = torch.finfo(images.real.dtype).tiny
    maps = images / root_sum_of_squares(images).clamp_min(floor).unsqueeze(1)
    return _crop(maps, block, crop)


class MapMethod(Protocol):
    """What estimates coil maps; others than these arguments have defaults.

    ``crop`` says where maps are zero: "auto" finds the air by itself
    (:func:`physics.support.object_support`, the same for all methods); 0 crops nothing; a number
    up to 1 is a threshold on the eigenvalue (ESPIRiT) or on the low-resolution image, root sum of
    squares over coils, relative to its maximum (the others).
    """

    def __call__(
        self, kspace: Tensor, calibration: int | tuple[int, ...], sets: int = 1, *, crop: Crop
    ) -> Tensor:
        """Maps ``(batch, sets, coils, *space)`` from k-space ``(batch, coils, *space)``."""


MAP_METHODS: dict[str, MapMethod] = {
    "espirit": espirit,
    "jsense": jsense,
    "low_resolution": low_resolution,
}


def _crop(maps: Tensor, block: Tensor, crop: Crop) -> Tensor:
    """Maps ``(batch, coils, *space)`` with an axis of sets, zero outside their support."""
    space = maps.shape[2:]
    if crop == "auto":
        support = object_support(block, space)
    else:
        magnitude = root_sum_of_squares(low_resolution_images(block, space))
        largest = magnitude.amax(tuple(range(1, magnitude.ndim)), keepdim=True)
        support = magnitude >= crop * largest
    return (maps * support.unsqueeze(1)).unsqueeze(1)


def _check_sets(sets: int, reason: str) -> None:
    if sets != 1:
        raise ValueError(f"sets must be 1, got {sets}: {reason}; for several sets use espirit")
