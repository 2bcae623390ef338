"""Reconstructions without learning: zero-filled, CG-SENSE, L1-wavelet and total variation.

kspace ``(batch, coils, *space)``, maps ``(batch, 1, coils, *space)`` (one map set), mask
``(batch, 1, *space)`` with size-1 axes where it does not vary; images ``(batch, 1, *space)``. All
space axes are encoded. Dynamic data is reconstructed frame by frame: fold time into the batch. The
solvers are sigpy's and run on the CPU; results return to the device of the k-space.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gleam.batch import signal_level
from gleam.metrics import complex_psnr
from physics.operators import Sense

DUAL_STEP = 0.03
"""Of the primal-dual method, on data scaled to a signal level of one."""

_Solver = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def zero_filled(kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
    """Coil combination of the inverse FFT with zeros for what was not measured, ``A^H y``.

    Args:
        kspace: complex ``(batch, coils, *space)``.
        mask: real or bool ``(batch, 1, *space)``, 1 where measured.
        maps: complex ``(batch, 1, coils, *space)``.

    Returns:
        Complex ``(batch, 1, *space)``.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(kspace, mask, maps)
    return Sense(maps, mask.to(kspace.real.dtype)).adjoint(kspace)


def cg_sense(
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    iterations: int = 30,
    regularisation: float = 0.01,
) -> Tensor:
    """CG-SENSE, ``argmin 1/2 |M F S x - y|^2 + regularisation/2 |x|^2`` from zero.

    Pruessmann et al., MRM 46(4), 2001; the regularisation needs no scaling, being quadratic.

    Args:
        kspace: complex ``(batch, coils, *space)``; values where the mask is 0 are ignored.
        mask: real or bool ``(batch, 1, *space)``, 1 where measured (a measured zero is data).
        maps: complex ``(batch, 1, coils, *space)``.
        iterations: conjugate gradient iterations.
        regularisation: weight of the squared norm, relative to maps of unit norm.

    Returns:
        Complex ``(batch, 1, *space)``.

    Raises:
        ValueError: the shapes do not fit together.
    """

    def solve(y: np.ndarray, weights: np.ndarray, sensitivities: np.ndarray) -> np.ndarray:
        from sigpy.mri.app import SenseRecon

        return SenseRecon(
            y,
            sensitivities,
            lamda=regularisation,
            weights=weights,
            max_iter=iterations,
            show_pbar=False,
        ).run()

    return _solve_each(kspace, mask, maps, solve)


def l1_wavelet(
    kspace: Tensor, mask: Tensor, maps: Tensor, weight: float, iterations: int = 100
) -> Tensor:
    """L1-wavelet compressed sensing, ``argmin 1/2 |M F S x - y|^2 + weight |W x|_1``.

    Lustig et al., MRM 58(6), 2007; Daubechies-4 wavelets, accelerated proximal gradient. The data
    is divided by the 95th percentile of ``|A^H y|`` and the image multiplied by it, so a weight
    means the same on all data. Pixels where all maps are zero are zero.

    Args:
        kspace: complex ``(batch, coils, *space)``; values where the mask is 0 are ignored.
        mask: real or bool ``(batch, 1, *space)``, 1 where measured.
        maps: complex ``(batch, 1, coils, *space)``.
        weight: of the L1 norm, for scaled data; useful values lie around 0.001 to 0.03.
        iterations: proximal gradient iterations.

    Returns:
        Complex ``(batch, 1, *space)``.

    Raises:
        ValueError: the shapes do not fit together.
    """

    def solve(y: np.ndarray, weights: np.ndarray, sensitivities: np.ndarray) -> np.ndarray:
        from sigpy.mri.app import L1WaveletRecon

        return L1WaveletRecon(
            y,
            sensitivities,
            lamda=weight,
            weights=weights,
            alpha=1 / (_norm_bound(sensitivities) or 1.0),
            max_iter=iterations,
            show_pbar=False,
        ).run()

    return _solve_scaled(kspace, mask, maps, solve)


def total_variation(
    kspace: Tensor, mask: Tensor, maps: Tensor, weight: float, iterations: int = 100
) -> Tensor:
    """Total variation, ``argmin 1/2 |M F S x - y|^2 + weight |G x|_1``, G of finite differences.

    Block et al., MRM 57(6), 2007; differences along each axis, around the edges of the image, by
    the primal-dual hybrid gradient method. Scaling and support are those of :func:`l1_wavelet`.

    Args:
        kspace: complex ``(batch, coils, *space)``; values where the mask is 0 are ignored.
        mask: real or bool ``(batch, 1, *space)``, 1 where measured.
        maps: complex ``(batch, 1, coils, *space)``.
        weight: of the L1 norm, for scaled data; useful values lie around 0.001 to 0.03.
        iterations: primal-dual iterations.

    Returns:
        Complex ``(batch, 1, *space)``.

    Raises:
        ValueError: the shapes do not fit together.
    """

    def solve(y: np.ndarray, weights: np.ndarray, sensitivities: np.ndarray) -> np.ndarray:
        from sigpy.mri.app import TotalVariationRecon

        # |A|^2 + |G|^2, and a dual step with which brains and phantoms come closest to the minimum.
        bound = _norm_bound(sensitivities) + 4 * (y.ndim - 1)
        return TotalVariationRecon(
            y,
            sensitivities,
            lamda=weight,
            weights=weights,
            sigma=DUAL_STEP,
            tau=1 / (DUAL_STEP * bound),
            max_iter=iterations,
            show_pbar=False,
        ).run()

    return _solve_scaled(kspace, mask, maps, solve)


def best_weight(
    method: Callable[..., Tensor],
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    weights: Sequence[float],
    reference: Tensor,
    iterations: int = 100,
) -> tuple[Tensor, float]:
    """A method's image with the weight whose mean complex PSNR over the batch is highest.

    The PSNR over rising weights has one peak, which is climbed from the middle, so that about half
    of the weights are tried.

    The choice sees the reference. No such oracle exists in practice, so this favours the baseline:
    say so wherever its numbers are printed.

    Args:
        method: :func:`l1_wavelet` or :func:`total_variation`.
        kspace: complex ``(batch, coils, *space)``.
        mask: real or bool ``(batch, 1, *space)``.
        maps: complex ``(batch, 1, coils, *space)``.
        weights: candidates for the weight of the L1 norm.
        reference: complex ``(batch, 1, *space)``.
        iterations: of the method for each candidate.

    Returns:
        The best image ``(batch, 1, *space)`` and its weight.

    Raises:
        ValueError: no weights, or the shapes do not fit together.
    """
    if not weights:
        raise ValueError("weights must name at least one candidate")

    rising = sorted(weights)
    tried: dict[int, tuple[float, Tensor]] = {}

    def quality(place: int) -> float:
        if place not in tried:
            image = method(kspace, mask, maps, rising[place], iterations)
            pairs = zip(image, reference, strict=True)
            score = torch.stack([complex_psnr(*pair) for pair in pairs]).mean()
            tried[place] = float(score), image
        return tried[place][0]

    best, before = len(rising) // 2, -1
    while best != before:
        before = best
        around = (best, best - 1, best + 1)
        best = max((place for place in around if 0 <= place < len(rising)), key=quality)
    return tried[best][1], rising[best]


def _norm_bound(sensitivities: np.ndarray) -> float:
    """The largest sum of squared maps ``(coils, *space)``, which ``|A|^2`` cannot exceed.

    sigpy would find ``|A|^2`` by a power iteration that starts from numpy's global random state.
    """
    return float(np.sum(np.abs(sensitivities) ** 2, axis=0).max())


def _solve_scaled(kspace: Tensor, mask: Tensor, maps: Tensor, solve: _Solver) -> Tensor:
    """:func:`_solve_each` for data divided by its signal level, and what no coil sees is zero."""
    image = zero_filled(kspace, mask, maps)
    level = signal_level(image).reshape(-1, *[1] * (image.ndim - 1))
    scale = torch.where(level == 0, 1, level)  # no signal: nothing to scale
    # Where all maps are zero nothing is measured, and what regularisation spills is no image.
    support = maps.abs().amax(dim=2) > 0
    return scale * support * _solve_each(kspace / scale, mask, maps, solve)


def _check(kspace: Tensor, mask: Tensor, maps: Tensor) -> None:
    batch, coils, *space = kspace.shape
    if tuple(maps.shape) != (batch, 1, coils, *space):
        raise ValueError(
            f"maps must be {(batch, 1, coils, *space)} for k-space {tuple(kspace.shape)}, got "
            f"{tuple(maps.shape)}; use one map set, and for dynamic data fold time into the batch"
        )
    fits = mask.ndim == kspace.ndim and all(
        mine in (1, theirs) for mine, theirs in zip(mask.shape, (batch, 1, *space), strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask must be {(batch, 1, *space)}, with size-1 axes where it does not vary, got "
            f"{tuple(mask.shape)}"
        )


def _solve_each(kspace: Tensor, mask: Tensor, maps: Tensor, solve: _Solver) -> Tensor:
    """Run ``solve(y, weights, maps)`` on numpy arrays of each sample and stack the images."""
    _check(kspace, mask, maps)
    weights = mask.to(kspace.real.dtype).expand(len(kspace), *mask.shape[1:])
    images = [
        solve(*(tensor.detach().cpu().numpy() for tensor in sample))
        for sample in zip(kspace, weights, maps[:, 0], strict=True)
    ]
    return torch.from_numpy(np.stack(images)[:, None]).to(kspace)
