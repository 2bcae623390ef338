"""Regularizers that can be undone, so that a step's input need not be stored.

Both are the identity at first (their last convolutions are zero). Convolutions run in the precision
of their weights and the sums around them in that of the image: with weights in single and images in
double precision, undoing a sum loses next to nothing.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.complex import to_channels, to_complex
from models.resnet import check_axes, convolution, zeroed

GRID = {2: 16, 3: 12}
"""Frequencies an axis at which the operator norm of a convolution in so many axes is computed."""


class InvertibleResidual(nn.Module):
    """``x + F(x)`` where no weights can make F expand (arXiv 1811.00995).

    F is a chain of convolutions and ReLUs, which do not expand. It is scaled down where the product
    of its convolutions' :class:`NormBound` exceeds ``lipschitz``. The inverse is the limit of
    ``x <- y - F(x)``.

    Args:
        channels: of the images, complex.
        features: width.
        layers: number of convolutions, at least two.
        ndim: number of axes convolved, 2 or 3.
        lipschitz: largest Lipschitz constant of F. The inverse needs fewer iterations and loses
            less where it is small, and F is freer where it is large.
        iterations: of the inverse, at most.
        tolerance: bound on the relative error at which they stop.

    Attributes:
        reach: how many pixels away, along each axis, it still looks.

    Raises:
        ValueError: if ``lipschitz`` is not between zero and one, or there are too few layers.
    """

    def __init__(
        self,
        channels: int = 1,
        features: int = 32,
        layers: int = 5,
        ndim: int = 2,
        lipschitz: float = 0.9,
        iterations: int = 100,
        tolerance: float = 1e-8,
    ) -> None:
        super().__init__()
        if not 0 < lipschitz < 1:
            raise ValueError(
                f"x + F(x) has an inverse if lipschitz is between 0 and 1, got {lipschitz}"
            )
        self.ndim = ndim
        self.reach = layers
        self.residual = chain(2 * channels, features, layers, ndim)
        self.lipschitz = lipschitz
        self.iterations = iterations
        self.tolerance = tolerance
        self._norms = [NormBound(ndim) for _ in range(layers)]

    def forward(self, image: Tensor) -> Tensor:
        """Complex ``(batch, channels, *space)`` to the same shape and dtype."""
        check_axes(image, self.ndim)
        return image + self._move(image, self._scale(self.bound()))

    @torch.no_grad()
    def inverse(self, image: Tensor) -> Tensor:
        """The image that :meth:`forward` takes to this one, by Banach's iteration."""
        check_axes(image, self.ndim)
        bound = self.bound()
        rate = bound.clamp_max(self.lipschitz).item()
        scale = self._scale(bound)
        x, last = image, math.inf
        for _ in range(self.iterations):
            before, x = x, image - self._move(x, scale)
            change = (x - before).norm().item()
            # Banach: the limit is no further than rate / (1 - rate) times the last change, and a
            # change shrinks by the rate until rounding is all that is left of it.
            if change * rate <= self.tolerance * (1 - rate) * x.norm().item() or (
                change > rate * last
            ):
                break
            last = change
        return x

    def bound(self) -> Tensor:
        """Upper bound of F's Lipschitz constant before it is scaled down, a scalar."""
        weights = [weight for weight in self.residual.parameters() if weight.ndim > 1]
        norms = [norm(weight) for norm, weight in zip(self._norms, weights, strict=True)]
        return torch.stack(norms).prod()

    def _scale(self, bound: Tensor) -> Tensor:
        return self.lipschitz / bound.clamp_min(self.lipschitz)

    def _move(self, image: Tensor, scale: Tensor) -> Tensor:
        channels = to_channels(image)
        cudnn = torch.backends.cudnn
        # TF32 rounds so much that the fixed point would be lost; elsewhere it stays as it was set.
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.deterministic, allow_tf32=False):
            return to_complex(_apply(self.residual, channels) * scale)


class Coupling(nn.Module):
    """Additive coupling of two halves of a state (arXiv 1410.8516).

    ``a <- a + F(b)``, then ``b <- b + G(a)``, undone in the opposite order by subtraction. The
    halves are the first and the last channels, such as the image and as many hidden ones; of an
    odd number of channels the real and the imaginary parts, which know little of each other.

    Args:
        channels: of the images, complex.
        features: width of F and G.
        layers: number of convolutions in each, at least two.
        ndim: number of axes convolved, 2 or 3.

    Attributes:
        reach: how many pixels away, along each axis, it still looks.

    Raises:
        ValueError: if there are too few layers.
    """

    def __init__(
        self, channels: int = 1, features: int = 32, layers: int = 3, ndim: int = 2
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.reach = 2 * layers
        self.even = channels % 2 == 0
        self.first = chain(channels, features, layers, ndim)
        self.second = chain(channels, features, layers, ndim)

    def forward(self, image: Tensor) -> Tensor:
        """Complex ``(batch, channels, *space)`` to the same shape and dtype."""
        a, b = self._halves(image)
        a = a + _apply(self.first, b)
        return self._join(a, b + _apply(self.second, a))

    @torch.no_grad()
    def inverse(self, image: Tensor) -> Tensor:
        """The image that :meth:`forward` takes to this one."""
        a, b = self._halves(image)
        b = b - _apply(self.second, a)
        return self._join(a - _apply(self.first, b), b)

    def _halves(self, image: Tensor) -> tuple[Tensor, Tensor]:
        check_axes(image, self.ndim)
        channels = to_channels(image)
        half = channels.shape[1] // 2
        if self.even:
            return channels[:, :half], channels[:, half:]
        return channels[:, 0::2], channels[:, 1::2]

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        return to_complex(torch.cat([a, b], 1)) if self.even else torch.complex(a, b)


class NormBound:
    """Upper bound of the operator norm of a 3-wide convolution with zero padding.

    Zero padding cuts out of a convolution of the whole plane, whose norm is the largest singular
    value of its symbol (the matrix of its weights' Fourier transforms) over all frequencies. That
    is computed on a grid of N frequencies an axis and divided by ``cos(pi / N)`` for every axis:
    between the points of a grid a trigonometric polynomial of degree one rises no higher
    (Ehlich and Zeller, Math. Z. 86, 1964; in several variables arXiv 1802.09588).

    Holds the worst frequency of the last weights seen, for these are asked for many times.

    Args:
        ndim: number of axes convolved, 2 or 3.
    """

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self._weight: Tensor | None = None
        self._waves = torch.empty(0)

    def __call__(self, weight: Tensor) -> Tensor:
        """The bound for weights ``(outputs, inputs, *[3] * ndim)``, a scalar with a gradient."""
        known = self._weight
        if known is None or known.device != weight.device or not torch.equal(known, weight):
            if not weight.detach().isfinite().all():
                return weight.sum() * math.nan  # to be seen in the loss; LAPACK would refuse it
            self._weight = weight.detach().clone()
            waves = _waves(self.ndim, self._weight)
            norms = torch.linalg.matrix_norm(_symbols(self._weight, waves), 2)
            self._waves = waves[norms.argmax(keepdim=True)]
        norm = torch.linalg.matrix_norm(_symbols(weight, self._waves)[0], 2)
        return norm / math.cos(math.pi / GRID[self.ndim]) ** self.ndim


def chain(channels: int, features: int, layers: int, ndim: int) -> nn.Sequential:
    """Real convolutions with ReLUs between them; the last one is zero at first."""
    if layers < 2:
        raise ValueError(f"a regularizer needs at least two convolutions, got {layers}")
    widths = [channels] + [features] * (layers - 1) + [channels]
    stack: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        stack += [convolution(ndim, inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*stack[:-2], zeroed(stack[-2]))


def _apply(network: nn.Sequential, channels: Tensor) -> Tensor:
    """Convolve in the precision of the weights; the result is that of the channels."""
    return network(channels.to(next(network.parameters()).dtype)).to(channels.dtype)


def _waves(ndim: int, like: Tensor) -> Tensor:
    """``exp(i w k)`` of the grid's frequencies w and all taps k, ``(frequencies, 3 ** ndim)``.

    Half of the last axis: real weights have conjugate symbols at opposite frequencies.
    """
    count = GRID[ndim]
    axes = [torch.arange(count)] * (ndim - 1) + [torch.arange(count // 2 + 1)]
    taps = torch.cartesian_prod(*[torch.arange(3)] * ndim)
    angles = torch.cartesian_prod(*axes) @ taps.T * (2 * math.pi / count)
    return torch.exp(1j * angles).to(like.device, torch.complex(like, like).dtype)


def _symbols(weight: Tensor, waves: Tensor) -> Tensor:
    """Matrices of a convolution's Fourier transforms, ``(frequencies, outputs, inputs)``."""
    return torch.einsum("oik,wk->woi", weight.flatten(2).to(waves.dtype), waves)
