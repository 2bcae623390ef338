"""Centred orthonormal Fourier transforms, the convention of fastMRI, sigpy and BART."""

from collections.abc import Sequence

import torch
from torch import Tensor


def fft(image: Tensor, axes: Sequence[int] = (-2, -1)) -> Tensor:
    """Centred orthonormal FFT, image to k-space.

    Args:
        image: complex, any shape.
        axes: the axes to transform; the zero frequency lands on index ``n // 2``.

    Returns:
        Complex tensor of the same shape and dtype.

    Example:
        >>> kspace = fft(torch.ones(4, 4, dtype=torch.complex64))
        >>> kspace.abs().argmax().item() == 2 * 4 + 2  # the zero frequency
        True
        >>> torch.allclose(ifft(kspace), torch.ones(4, 4, dtype=torch.complex64))
        True
    """
    image = torch.fft.ifftshift(image, dim=tuple(axes))
    image = torch.fft.fftn(image, dim=tuple(axes), norm="ortho")
    return torch.fft.fftshift(image, dim=tuple(axes))


def ifft(kspace: Tensor, axes: Sequence[int] = (-2, -1)) -> Tensor:
    """Centred orthonormal inverse FFT, k-space to image; the adjoint of :func:`fft`.

    Args:
        kspace: complex, any shape.
        axes: the axes to transform.

    Returns:
        Complex tensor of the same shape and dtype.
    """
    kspace = torch.fft.ifftshift(kspace, dim=tuple(axes))
    kspace = torch.fft.ifftn(kspace, dim=tuple(axes), norm="ortho")
    return torch.fft.fftshift(kspace, dim=tuple(axes))
