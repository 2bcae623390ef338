"""The non-Cartesian SENSE operator: images to k-space samples anywhere, in 2D and 3D.

Shapes: image ``(batch, maps, *space)``, coil maps ``(batch, maps, coils, *space)``, k-space
``(batch, coils, samples)`` with all readouts in one row, trajectory ``(samples, ndim)`` or
``(batch, samples, ndim)``, density weights ``(samples,)`` or ``(batch, samples)``. Space is
``(y, x)`` or ``(z, y, x)``; a trajectory has its coordinates in the same order, in cycles per
pixel, -0.5 .. 0.5. Pixel ``n // 2`` of every axis is the origin, as in ``physics.fourier``: on the
samples of a full Cartesian grid the operator is exactly its ``fft``.

Needs mri-nufft and finufft, the optional extra ``noncartesian``. Their transforms run on the CPU;
the normal operator is torch alone and runs wherever the maps are.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from physics.operators import CPU_GROUP_BYTES, GPU_GROUP_BYTES

Linear = Callable[[Tensor], Tensor]

_REACH = 0.5 + 1e-5  # of a trajectory, with room for rounding
_PIPE_ITERATIONS = 10  # leave G w within about 2 percent of one


class NonCartesianSense:
    """Multi-coil encoding ``A = F C`` at any k-space positions (Pruessmann et al., MRM 2001).

    Weights W for the sampling density make the adjoint ``A^H W`` and the normal operator
    ``A^H W A``, the two sides of the least-squares problem weighted by W. The normal operator is a
    convolution with a kernel found once, done by FFTs of twice the size (Fessler et al., IEEE TSP
    2005, DOI 10.1109/TSP.2005.853152). All three are differentiable with respect to what they are
    given and to the maps.

    Args:
        maps: coil sensitivities, complex ``(batch, maps, coils, *space)``.
        trajectory: real, ``(samples, ndim)`` for the whole batch or ``(batch, samples, ndim)``,
            of the precision of the maps, in cycles per pixel, coordinates ordered as space.
        density: real non-negative weights, ``(samples,)`` or as the trajectory, in units in which
            those of a Cartesian grid are one; ``"pipe"`` to find them by fixed-point iteration
            (Pipe and Menon, MRM 1999); None for ones.

    Attributes:
        maps: as given.
        trajectory: as given.
        density: the weights, those found by iteration too.

    Raises:
        ImportError: if mri-nufft or finufft is not installed.
        ValueError: if shapes do not fit, a position lies outside -0.5 .. 0.5 or a weight is
            negative or not finite.
        TypeError: if the maps are not complex, or trajectory and weights not real and of the same
            precision.
    """

    def __init__(
        self,
        maps: Tensor,
        trajectory: Tensor,
        density: Tensor | Literal["pipe"] | None = None,
    ) -> None:
        _check_parts(maps, trajectory)
        self.maps = maps
        self.trajectory = trajectory
        self._space = tuple(maps.shape[3:])
        self._nufft = _Nufft(trajectory, self._space, maps.shape[2])
        wide = _Nufft(trajectory, [2 * n for n in self._space])
        if isinstance(density, str):
            if density != "pipe":
                raise ValueError(f'density must be a tensor, "pipe" or None, got "{density}"')
            density = _pipe(wide, trajectory)
        elif density is None:
            density = trajectory.new_ones(trajectory.shape[-2])
        _check_density(density, trajectory)
        self.density = density
        self._weights = density.expand(trajectory.shape[:-1]).reshape(-1, 1, density.shape[-1])
        self._transfer = _transfer(wide, self._weights)
        self._conjugate = maps.conj().resolve_conj()
        # Coils that the normal operator treats at a time: their images should fit the cache.
        limit = CPU_GROUP_BYTES if maps.device.type == "cpu" else GPU_GROUP_BYTES
        one = len(maps) * self._transfer[0].numel() * maps.element_size()
        self._together = max(1, limit // one)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(batch, maps, *space)`` to k-space samples ``(batch, coils, samples)``."""
        self._check_input(image, "maps", self.maps.shape[1], self._space)
        return self._nufft.forward((self.maps * image.unsqueeze(2)).sum(1))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Weighted k-space ``(batch, coils, samples)`` to image ``(batch, maps, *space)``.

        It is the adjoint of :meth:`forward` where all weights are one.
        """
        samples = tuple(self.trajectory.shape[-2:-1])
        self._check_input(kspace, "coils", self.maps.shape[2], samples)
        coils = self._nufft.adjoint(kspace * self._weights)
        return (self._conjugate * coils.unsqueeze(1)).sum(2)

    def normal(self, image: Tensor) -> Tensor:
        """``adjoint(forward(image))``, by FFTs alone."""
        self._check_input(image, "maps", self.maps.shape[1], self._space)
        images = image.unsqueeze(2)
        return sum(
            (conjugate * self._convolve((maps * images).sum(1)).unsqueeze(1)).sum(2)
            for maps, conjugate in zip(
                self.maps.split(self._together, 2),
                self._conjugate.split(self._together, 2),
                strict=True,
            )
        )

    def _convolve(self, coils: Tensor) -> Tensor:
        # Axis by axis, so that lines known to be zero, or not wanted, are never transformed.
        axes = range(-len(self._space), 0)
        for axis in reversed(axes):
            coils = torch.fft.fft(coils, n=2 * coils.shape[axis], dim=axis)
        coils = coils.mul_(self._transfer)
        for axis in axes:
            coils = torch.fft.ifft(coils, dim=axis).narrow(axis, 0, self._space[axis])
        return coils

    def _check_input(
        self, tensor: Tensor, name: str, channels: int, extent: tuple[int, ...]
    ) -> None:
        batches = {len(self.maps), len(self._weights)} - {1}
        if tuple(tensor.shape[1:]) != (channels, *extent) or batches - {len(tensor)}:
            wanted = ", ".join(map(str, (*(batches or ["batch"]), channels, *extent)))
            raise ValueError(
                f"expected (batch, {name}, ...) = ({wanted}) to fit maps {tuple(self.maps.shape)} "
                f"and trajectory {tuple(self.trajectory.shape)}, got {tuple(tensor.shape)}"
            )


def _pipe(wide: "_Nufft", trajectory: Tensor) -> Tensor:
    """Density weights ``w <- w / (G w)`` (Pipe and Menon, MRM 1999), given ``wide`` as below.

    ``G_ij = |D(k_i - k_j)|^2`` with D the Dirichlet kernel of the field of view. Its transform is
    the autocorrelation of the field of view (Johnson and Pipe, DOI 10.1002/mrm.21840), it is never
    negative, and it is zero between the samples of a Cartesian grid, whose weights so are one. At
    the fixed point ``G w = 1``, so that the eigenvalues of ``F^H W F`` sum to the same as their
    squares do: like those of a projection, they lie around one where space is well sampled.
    """
    window = torch.ones((), dtype=trajectory.dtype, device=trajectory.device)
    for n in wide.space:
        distance = (torch.arange(n, device=trajectory.device) - n // 2).abs()
        window = window.unsqueeze(-1) * (2 - distance * 4 / n)
    weights = trajectory.new_ones(*trajectory.shape[:-1]).reshape(-1, 1, trajectory.shape[-2])
    for _ in range(_PIPE_ITERATIONS):
        spread = wide.forward(window * wide.adjoint(torch.complex(weights, 0 * weights)))
        weights = weights / spread.abs()
    return weights.reshape(trajectory.shape[:-1])


def _transfer(wide: "_Nufft", weights: Tensor) -> Tensor:
    """Eigenvalues of the circulant matrix, twice as large along each axis, that holds F^H W F."""
    axes = tuple(range(-len(wide.space), 0))
    pixels = math.prod(wide.space) / 2 ** len(axes)
    kernel = wide.adjoint(torch.complex(weights, 0 * weights))
    kernel = torch.fft.fftn(torch.fft.ifftshift(kernel, dim=axes), dim=axes)
    # Its imaginary part comes from the kernel's outermost lags, which no pair of pixels has.
    return kernel.real * (2 ** (len(axes) / 2) / math.sqrt(pixels))


class _Nufft:
    """Centred orthonormal transform of coil images, with one trajectory or one for each sample."""

    def __init__(self, trajectory: Tensor, space: Sequence[int], coils: int = 1) -> None:
        make = _import_nufft()
        self.space = tuple(space)
        with warnings.catch_warnings():
            # It takes cycles per pixel and says that it multiplies them by 2 pi. Given radians it
            # would do so too where all of them are small.
            warnings.filterwarnings("ignore", "Samples will be rescaled")
            self._plans = [
                make(
                    positions,
                    self.space,
                    n_coils=coils,
                    n_trans=coils,
                    squeeze_dims=False,
                    eps=1e-6 if trajectory.dtype == torch.float32 else 1e-13,
                    nthreads=torch.get_num_threads(),
                )
                for positions in trajectory.reshape(-1, *trajectory.shape[-2:]).cpu().numpy()
            ]
        # Theirs is orthonormal on a grid twice as large.
        self._scale = 2 ** (len(space) / 2)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, coils, *space)`` to ``(batch, coils, samples)``."""
        return _WithTranspose.apply(images, self._op, self._adj_op)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """``(batch, coils, samples)`` to ``(batch, coils, *space)``."""
        return _WithTranspose.apply(kspace, self._adj_op, self._op)

    def _op(self, images: Tensor) -> Tensor:
        return self._run("op", images)

    def _adj_op(self, kspace: Tensor) -> Tensor:
        return self._run("adj_op", kspace)

    def _run(self, name: str, batch: Tensor) -> Tensor:
        plans = self._plans if len(self._plans) > 1 else self._plans * len(batch)
        host = batch.cpu().contiguous()
        parts = [getattr(plan, name)(one) for plan, one in zip(plans, host.split(1), strict=True)]
        return torch.cat(parts).to(batch.device).mul_(self._scale)


class _WithTranspose(torch.autograd.Function):
    """A linear function whose gradient is its adjoint."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, function: Linear, adjoint: Linear) -> Tensor:
        ctx.functions = function, adjoint
        return function(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        function, adjoint = ctx.functions
        return _WithTranspose.apply(grad, adjoint, function), None, None


def _import_nufft() -> Callable[..., Any]:
    try:
        import finufft  # noqa: F401 (mri-nufft misses it only when it is asked to transform)
        from mrinufft import get_operator
    except ImportError as error:
        raise ImportError(
            "non-Cartesian k-space needs mri-nufft and finufft: "
            'pip install "gleam-mri[noncartesian]"'
        ) from error
    return get_operator("finufft")


def _check_parts(maps: Tensor, trajectory: Tensor) -> None:
    if not maps.is_complex():
        raise TypeError(f"coil maps must be complex, got {maps.dtype}")
    if trajectory.dtype != maps.real.dtype:
        raise TypeError(
            f"the trajectory must be real, {maps.real.dtype} as the maps, got {trajectory.dtype}"
        )
    if maps.ndim not in (5, 6):
        raise ValueError(
            "maps must be (batch, maps, coils, *space) with 2 or 3 axes of space, got "
            f"{tuple(maps.shape)}"
        )
    _check_trajectory(trajectory, maps.ndim - 3)
    batches = {len(maps), len(trajectory) if trajectory.ndim == 3 else 1} - {1}
    if len(batches) > 1:
        raise ValueError(f"batch sizes differ: maps {len(maps)}, trajectory {len(trajectory)}")


def _check_trajectory(trajectory: Tensor, ndim: int) -> None:
    if trajectory.ndim not in (2, 3) or trajectory.shape[-1] != ndim or not trajectory.numel():
        raise ValueError(
            f"the trajectory must be (samples, {ndim}) or (batch, samples, {ndim}), with a "
            f"coordinate for each axis of space, got {tuple(trajectory.shape)}"
        )
    if not bool((trajectory.abs() <= _REACH).all()):
        raise ValueError(
            "the trajectory must be finite and lie in -0.5 .. 0.5 cycles per pixel, its largest "
            f"magnitude is {float(trajectory.abs().max()):g}; divide radians per pixel by 2 pi, "
            "cycles per field of view by the number of pixels"
        )


def _check_density(density: Tensor, trajectory: Tensor) -> None:
    if density.dtype != trajectory.dtype:
        raise TypeError(f"density must be {trajectory.dtype} as trajectory, got {density.dtype}")
    if density.shape not in (trajectory.shape[-2:-1], trajectory.shape[:-1]):
        raise ValueError(
            f"density must have a weight for each sample, {tuple(trajectory.shape[:-1])}, got "
            f"{tuple(density.shape)}"
        )
    if not bool((density >= 0).all() and density.isfinite().all()):
        raise ValueError("density weights must be finite and not negative")
