"""The SENSE operator of every package on the same problem, in the layout that each keeps data in.

A maker takes a :class:`Problem` and returns an :class:`Encoding`, or None where the package has no
operator for it. Conversions between layouts lie outside what is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physics.brain import simulate_brain
from physics.fourier import fft, ifft
from physics.heart import simulate_heart
from physics.masks import random_columns, uniform_random
from physics.operators import Sense

COILS = 8
SIZES: dict[str, Any] = {"2D": (320, 320), "3D": (64, 128, 128), "2D+t": (20, 192, 160)}
MASKS = ("1D", "2D")
ACCELERATION = 4
CALIBRATION = 16


@dataclass(frozen=True)
class Problem:
    """A simulated scan and what of it is sampled.

    Attributes:
        kind: key of :data:`SIZES`.
        pattern: "1D", columns along x, or "2D", points along y and x; of 2D+t other ones in every
            frame.
        maps: complex ``(1, 1, coils, *space)``, size 1 along t, with a root sum of squares of one.
        mask: real ``(1, 1, *space)``, size 1 where it does not vary.
        full: k-space ``(1, coils, *space)``, all of it.
        image: complex ``(1, 1, *space)``.
        axes: that are encoded.
    """

    kind: str
    pattern: str
    maps: Tensor
    mask: Tensor
    full: Tensor
    image: Tensor
    axes: tuple[int, ...]

    @property
    def space(self) -> tuple[int, ...]:
        """Shape of the image without batch and maps."""
        return tuple(self.image.shape[2:])

    @property
    def kspace(self) -> Tensor:
        """What is sampled, zeros elsewhere."""
        return self.full * self.mask


@dataclass(frozen=True)
class Encoding:
    """A package's operator on its own data.

    Attributes:
        forward: image to k-space.
        adjoint: k-space to image.
        normal: image to image.
        image: in the package's layout.
        kspace: ``forward(image)``.
        to_image: an image in this library's layout, complex ``(*space)``.
    """

    forward: Callable[[Any], Any]
    adjoint: Callable[[Any], Any]
    normal: Callable[[Any], Any]
    image: Any
    kspace: Any
    to_image: Callable[[Any], Tensor]


def make_problem(kind: str, pattern: str, coils: int = COILS, seed: int = 0) -> Problem:
    """A brain, or of 2D+t a heart, with an SNR of 50, undersampled with R = 4."""
    space = SIZES[kind]
    static = kind != "2D+t"
    simulate = simulate_brain if static else simulate_heart
    scan = simulate(seed, size=space, coils=coils, snr=50)
    strength = scan.maps.abs().square().sum(1, keepdim=True).sqrt()
    make = random_columns if pattern == "1D" else uniform_random
    frames = 1 if static else space[0]
    masks = [make(space[-2:], ACCELERATION, CALIBRATION, seed=seed + t) for t in range(frames)]
    mask = masks[0] if kind == "2D" else torch.stack(masks)  # (1 or t, y, x)
    return Problem(
        kind,
        pattern,
        (scan.maps / strength)[None],
        mask[None, None],
        scan.kspace[None],
        (scan.image * strength[:, 0])[None],
        tuple(range(-len(space), 0)) if static else (-2, -1),
    )


def ours(problem: Problem) -> Encoding:
    """:class:`physics.operators.Sense`."""
    operator = Sense(problem.maps, problem.mask, problem.axes)
    return Encoding(
        operator.forward,
        operator.adjoint,
        operator.normal,
        problem.image,
        operator.forward(problem.image),
        lambda image: image[0, 0],
    )


def straightforward(problem: Problem) -> Encoding:
    """The formula in torch: shift, FFT, shift, mask, and back."""
    maps, mask, axes = problem.maps[:, 0], problem.mask, problem.axes

    def forward(image: Tensor) -> Tensor:
        return fft(maps * image, axes) * mask

    def adjoint(kspace: Tensor) -> Tensor:
        return (maps.conj() * ifft(kspace * mask, axes)).sum(1, keepdim=True)

    return Encoding(
        forward,
        adjoint,
        lambda image: adjoint(forward(image)),
        problem.image,
        forward(problem.image),
        lambda image: image[0, 0],
    )


def with_sigpy(problem: Problem) -> Encoding:
    """``sigpy.mri.linop.Sense``; of 2D+t its parts, for it would transform t too."""
    from sigpy import linop
    from sigpy.mri.linop import Sense as SigpySense

    maps = problem.maps[0, 0].numpy()
    mask = problem.mask[0, 0].expand(problem.space).numpy()
    if problem.kind == "2D+t":
        space = problem.space
        coils = linop.Multiply((1, *space), maps) * linop.Reshape((1, *space), space)
        transform = linop.FFT((len(maps), *space), axes=problem.axes)
        operator = linop.Multiply(transform.oshape, mask) * transform * coils
    else:
        operator = SigpySense(maps, weights=mask)
    image = problem.image[0, 0].numpy()
    return Encoding(operator, operator.H, operator.N, image, operator(image), torch.from_numpy)


def mrpro_operator(problem: Problem) -> tuple[Any, Tensor]:
    """mrpro's ``FourierOp @ SensitivityOp`` of the sampled points, and the image it takes."""
    from mrpro.data import KTrajectory, SpatialDimension
    from mrpro.operators import FourierOp, SensitivityOp

    space = problem.space
    frames = space[0] if problem.kind == "2D+t" else 1
    z, y, x = (1, *space[-2:]) if problem.kind != "3D" else space
    mask = problem.mask.reshape(-1, *problem.mask.shape[-2:])
    sampled = [frame.nonzero() for frame in mask]  # of (1, x) or (y, x)
    points = torch.stack(sampled).float()

    def line(n: int) -> Tensor:
        return torch.arange(n).float() - n // 2

    # (other, coils, k2, k1, k0): the readout is k0, sampled points lie along k1.
    kx = (points[..., 1] - x // 2)[:, None, None, :, None]
    ky = line(y).view(1, 1, 1, 1, -1)
    if problem.pattern == "2D":
        ky = (points[..., 0] - y // 2)[:, None, None, :, None]
    trajectory = KTrajectory(line(z).view(1, 1, -1, 1, 1), ky, kx)
    matrix = SpatialDimension(z, y, x)
    maps = problem.maps[0, 0].reshape(1, -1, z, y, x)
    operator = FourierOp(matrix, matrix, trajectory) @ SensitivityOp(maps)
    return operator, problem.image.reshape(frames, 1, z, y, x)


def with_mrpro(problem: Problem) -> Encoding:
    """The operator above, and its Gram operator."""
    operator, image = mrpro_operator(problem)
    gram = operator.gram
    return Encoding(
        lambda value: operator(value)[0],
        lambda value: operator.adjoint(value)[0],
        lambda value: gram(value)[0],
        image,
        operator(image)[0],
        lambda value: value.reshape(problem.space),
    )


def deepinv_physics(problem: Problem) -> tuple[Any, Tensor]:
    """``deepinv.physics.MultiCoilMRI``, of 2D+t for a batch of frames, and the image it takes."""
    from deepinv.physics import MultiCoilMRI

    frames = problem.space[0] if problem.kind == "2D+t" else 1
    shape = problem.space[1:] if problem.kind == "2D+t" else problem.space
    maps = problem.maps[0, 0].reshape(1, -1, *shape).expand(frames, -1, *shape)
    mask = problem.mask.expand(1, 1, *problem.space).reshape(frames, 1, *shape)
    mask = mask.expand(frames, 2, *shape).contiguous()
    physics = MultiCoilMRI(mask=mask, coil_maps=maps, three_d=problem.kind == "3D")
    image = problem.image.reshape(frames, *shape)
    return physics, torch.view_as_real(image).movedim(-1, 1).contiguous()


def with_deepinv(problem: Problem) -> Encoding:
    """The operator above; ``A_adjoint_A`` is its normal operator."""
    physics, image = deepinv_physics(problem)

    def to_image(value: Tensor) -> Tensor:
        return torch.view_as_complex(value.movedim(1, -1).contiguous()).reshape(problem.space)

    return Encoding(
        physics.A, physics.A_adjoint, physics.A_adjoint_A, image, physics.A(image), to_image
    )


def with_fastmri(problem: Problem) -> Encoding | None:
    """fastMRI's functions, as its VarNet calls them; of 2D+t a batch of frames, no 3D."""
    import fastmri

    if problem.kind == "3D":
        return None
    frames = problem.space[0] if problem.kind == "2D+t" else 1
    shape = problem.space[-2:]
    maps = torch.view_as_real(problem.maps[0, 0].reshape(1, -1, *shape).contiguous())
    mask = problem.mask.reshape(frames, 1, *problem.mask.shape[-2:], 1)
    image = torch.view_as_real(problem.image.reshape(frames, 1, *shape).contiguous())

    def forward(value: Tensor) -> Tensor:
        return fastmri.fft2c(fastmri.complex_mul(value, maps)) * mask

    def adjoint(value: Tensor) -> Tensor:
        coils = fastmri.ifft2c(value * mask)
        return fastmri.complex_mul(coils, fastmri.complex_conj(maps)).sum(1, keepdim=True)

    return Encoding(
        forward,
        adjoint,
        lambda value: adjoint(forward(value)),
        image,
        forward(image),
        lambda value: torch.view_as_complex(value.contiguous()).reshape(problem.space),
    )


MAKERS: dict[str, Callable[[Problem], Encoding | None]] = {
    "this library": ours,
    "torch, as the formula reads": straightforward,
    "sigpy": with_sigpy,
    "mrpro": with_mrpro,
    "deepinv": with_deepinv,
    "fastmri": with_fastmri,
}
