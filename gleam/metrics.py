"""Image quality of a reconstruction against its reference.

Every function takes one item, a slice or a scan, complex or real, and computes in float64. What
is called "maximum" or "data range" is that of the whole item. Two families, named apart because
their numbers must not be mixed:

- ``complex_psnr``, ``nrmse`` look at the complex difference, so a wrong phase counts; ``ssim``
  looks at magnitudes.
- ``fastmri_nmse``, ``fastmri_psnr``, ``fastmri_ssim`` look at the magnitudes of a whole volume, as
  the evaluation script of the fastMRI repository does (Zbontar et al., arXiv 1811.08839, sec. 5).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

WINDOW = 7  # scikit-image's and fastMRI's uniform window


def _checked(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The pair in double precision, or an error that says what is wrong with it."""
    if image.shape != reference.shape:
        raise ValueError(
            f"image and reference must have one shape, got {tuple(image.shape)} and "
            f"{tuple(reference.shape)}"
        )
    for name, tensor in (("image", image), ("reference", reference)):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity: no metric is defined for it")
    if not bool(reference.any()):
        raise ValueError("reference is zero everywhere: leave empty slices out of the evaluation")
    dtype = torch.complex128 if reference.is_complex() or image.is_complex() else torch.float64
    return image.detach().to(dtype), reference.detach().to(dtype)


def _magnitudes(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    image, reference = _checked(image, reference)
    return image.abs(), reference.abs()


def complex_psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB, ``20 log10(max|ref| / rms(ref - x))``.

    Args:
        image: complex or real, any shape: one slice or one scan.
        reference: the same shape.

    Returns:
        float64 scalar; infinite for a perfect image.

    Raises:
        ValueError: shapes differ, a value is not finite, or the reference is zero.

    Example:
        >>> reference = torch.ones(8, 8, dtype=torch.complex64)
        >>> round(float(complex_psnr(1.01 * reference, reference)), 3)
        40.0
        >>> round(float(complex_psnr(1j * reference, reference)), 3)  # a wrong phase counts
        -3.01
    """
    image, reference = _checked(image, reference)
    rms = (reference - image).abs().square().mean().sqrt()
    return 20 * torch.log10(reference.abs().max() / rms)


def nrmse(image: Tensor, reference: Tensor) -> Tensor:
    """Normalised root mean square error ``|x - ref| / |ref|`` in the 2-norm (no unit).

    Args and raises as :func:`complex_psnr`; 0 for a perfect image.
    """
    image, reference = _checked(image, reference)
    return torch.linalg.vector_norm(image - reference) / torch.linalg.vector_norm(reference)


def ssim_per_image(image: Tensor, reference: Tensor, data_range: Tensor) -> Tensor:
    """Structural similarity of each 2D image, differentiable, with scikit-image's defaults.

    Uniform window of 7 x 7, sample covariance, K1 = 0.01, K2 = 0.03, and the mean over those
    windows that lie inside the image (Wang et al., IEEE TIP 13(4), 2004, eq. 13).

    Args:
        image: real magnitudes ``(..., y, x)``.
        reference: the same shape and dtype.
        data_range: real, positive, broadcastable to ``(..., 1, 1)``.

    Returns:
        Real ``(...)``, at most 1.

    Raises:
        ValueError: an image is smaller than the window.
    """
    if min(image.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least 7 x 7, got {tuple(image.shape[-2:])}")

    def window_mean(tensor: Tensor) -> Tensor:
        pooled = torch.nn.functional.avg_pool2d(
            tensor.reshape(-1, 1, *tensor.shape[-2:]), WINDOW, stride=1
        )
        return pooled.reshape(*tensor.shape[:-2], *pooled.shape[-2:])

    sample = WINDOW**2 / (WINDOW**2 - 1)
    mean_x, mean_y = window_mean(image), window_mean(reference)
    variance_x = sample * (window_mean(image.square()) - mean_x.square())
    variance_y = sample * (window_mean(reference.square()) - mean_y.square())
    covariance = sample * (window_mean(image * reference) - mean_x * mean_y)
    c1, c2 = (0.01 * data_range).square(), (0.03 * data_range).square()
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean(dim=(-2, -1))


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity of the magnitudes, data range ``max|ref|`` of the whole item.

    2D on the last two axes; leading axes (maps, slices, frames) are averaged.

    Args:
        image: complex or real ``(..., y, x)``, at least 7 x 7.
        reference: the same shape.

    Returns:
        float64 scalar, at most 1.

    Raises:
        ValueError: as :func:`complex_psnr`, or an image smaller than 7 x 7.
    """
    image, reference = _magnitudes(image, reference)
    return ssim_per_image(image, reference, reference.max()).mean()


def fastmri_nmse(image: Tensor, reference: Tensor) -> Tensor:
    """fastMRI's normalised mean square error of magnitudes, ``|x - ref|^2 / |ref|^2``.

    Args:
        image: one volume ``(slices, y, x)``; complex values are replaced by their magnitude.
        reference: the same shape.

    Returns:
        float64 scalar.

    Raises:
        ValueError: as :func:`complex_psnr`.
    """
    image, reference = _magnitudes(image, reference)
    return (image - reference).square().sum() / reference.square().sum()


def fastmri_psnr(image: Tensor, reference: Tensor) -> Tensor:
    """fastMRI's PSNR of magnitudes in dB, ``10 log10(max(ref)^2 / mse)`` over the volume.

    Args and raises as :func:`fastmri_nmse`.
    """
    image, reference = _magnitudes(image, reference)
    return 10 * torch.log10(reference.max().square() / (image - reference).square().mean())


def fastmri_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """fastMRI's SSIM: mean over the slices, data range the maximum of the volume.

    Args and raises as :func:`fastmri_nmse`. On a volume this is :func:`ssim` by definition; on
    single slices the two differ, which is why fastMRI's is never computed on those here.
    """
    if reference.ndim != 3:
        raise ValueError(
            f"fastMRI's SSIM is defined on (slices, y, x), got {tuple(reference.shape)}"
        )
    return ssim(image, reference)


def evaluate_slice(image: Tensor, reference: Tensor) -> dict[str, float]:
    """``psnr`` (complex, dB), ``ssim`` and ``nrmse`` of one slice.

    Args:
        image: ``(y, x)`` or ``(maps, y, x)``, complex or real.
        reference: the same shape.

    Returns:
        Metric name to value.

    Raises:
        ValueError: as :func:`ssim`.
    """
    return {
        "psnr": float(complex_psnr(image, reference)),
        "ssim": float(ssim(image, reference)),
        "nrmse": float(nrmse(image, reference)),
    }


def evaluate_scan(images: Tensor, references: Tensor) -> dict[str, float]:
    """The metrics of :func:`evaluate_slice` over a whole scan, and fastMRI's beside them.

    Args:
        images: ``(slices, y, x)``, complex or real; for a cine the frames are the slices.
        references: the same shape.

    Returns:
        ``psnr``, ``ssim``, ``nrmse``, ``fastmri_psnr``, ``fastmri_ssim``, ``fastmri_nmse``.

    Raises:
        ValueError: as :func:`ssim`, or not three axes.
    """
    return {
        **evaluate_slice(images, references),
        "fastmri_psnr": float(fastmri_psnr(images, references)),
        "fastmri_ssim": float(fastmri_ssim(images, references)),
        "fastmri_nmse": float(fastmri_nmse(images, references)),
    }


def summarise(rows: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, sample standard deviation (n - 1; 0 for a single row) and count of each metric.

    Args:
        rows: one mapping of metric name to value for each slice or scan, all with the same names.

    Returns:
        ``{metric: {"mean": ..., "std": ..., "count": ...}}``.

    Raises:
        ValueError: no rows, or rows that differ in their metrics.

    Example:
        >>> summarise([{"psnr": 30.0}, {"psnr": 32.0}])
        {'psnr': {'mean': 31.0, 'std': 1.4142135623730951, 'count': 2}}
    """
    table = [dict(row) for row in rows]
    if not table:
        raise ValueError("nothing to summarise: rows is empty")
    if any(row.keys() != table[0].keys() for row in table):
        raise ValueError("all rows must hold the same metrics")
    summary = {}
    for metric in table[0]:
        values = torch.tensor([row[metric] for row in table], dtype=torch.float64)
        deviation = float(values.std(correction=1)) if len(table) > 1 else 0.0
        summary[metric] = {"mean": float(values.mean()), "std": deviation, "count": len(table)}
    return summary
