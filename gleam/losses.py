"""Training losses between an image and its reference.

image and reference are ``(batch, maps, *space)``, complex, or for losses of magnitudes either of
them real; each loss is a real scalar, the mean over the batch, and its gradient is finite
everywhere, at an exactly zero difference too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gleam.metrics import ssim_per_image


def complex_l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean of ``|x - ref|``, the complex magnitude of the difference.

    Torch's derivative of the complex magnitude is 0 at 0, so a perfect pixel pulls nowhere.

    Args:
        image: complex, any shape.
        reference: the same shape.

    Returns:
        Real scalar.

    Raises:
        ValueError: the shapes differ, or one is complex and the other real.
    """
    return _difference(image, reference).abs().mean()


def complex_l2(image: Tensor, reference: Tensor) -> Tensor:
    """Mean of ``|x - ref|^2``; arguments as :func:`complex_l1`."""
    # Through real parts: the square of a magnitude would have no second derivative at zero.
    return torch.view_as_real(_difference(image, reference)).square().sum(dim=-1).mean()


def magnitude_l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean of ``||x| - |ref||``, for networks whose image is a magnitude.

    Args:
        image: complex or real, any shape.
        reference: the same shape.

    Returns:
        Real scalar.

    Raises:
        ValueError: the shapes differ.
    """
    return complex_l1(image.abs(), reference.abs())


def ssim_loss(image: Tensor, reference: Tensor) -> Tensor:
    """1 minus the mean SSIM of magnitudes, each sample with its own data range ``max|ref|``.

    Args:
        image: complex or real ``(batch, maps, *space)``, the last two axes at least 7 x 7.
        reference: the same shape.

    Returns:
        Real scalar between 0 and 2.

    Raises:
        ValueError: the shapes differ or an image is smaller than 7 x 7.
    """
    shown, magnitude = image.abs(), reference.abs()
    _difference(shown, magnitude)
    own = tuple(range(1, magnitude.ndim))
    # An empty target has no range; the floor keeps 0/0 out and is far below scaled data.
    data_range = magnitude.amax(dim=own, keepdim=True).clamp_min(1e-6)
    return 1 - ssim_per_image(shown, magnitude, data_range).mean()


def _difference(image: Tensor, reference: Tensor) -> Tensor:
    # Broadcasting here would train towards the wrong target without a word.
    if image.shape != reference.shape:
        raise ValueError(
            f"image and reference must have one shape, got {tuple(image.shape)} and "
            f"{tuple(reference.shape)}"
        )
    if image.is_complex() != reference.is_complex():  # a magnitude would learn to miss the phase
        raise ValueError(
            f"image and reference must both be complex or both real, got {image.dtype} and "
            f"{reference.dtype}; compare magnitudes with magnitude_l1 or ssim_loss"
        )
    return image - reference


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": complex_l1,
    "l2": complex_l2,
    "ssim": ssim_loss,
}
