"""What several tests need: seeded tensors, tiny scans and networks, dense linear algebra."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from gleam.batch import Batch
from models.complex import ComplexImages
from models.resnet import ConvNet, ResNet
from models.unrolled import MoDLStep, ProximalGradientStep, UnrolledNetwork

Module = TypeVar("Module", bound=nn.Module)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Gaussian tensor from its own seed."""
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers between 0 and 1 from their own seed."""
    return torch.rand(shape, dtype=dtype, generator=generator(seed))


def random_mask(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros and ones in equal parts; the first entry is one."""
    mask = (uniform(*shape, seed=seed) < 0.5).to(dtype)
    mask.view(-1)[0] = 1
    return mask


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Torch's global random state from a seed, as it was before behind the block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def inner(a: Tensor, b: Tensor) -> Tensor:
    """``<a, b>``, linear in b; refuses to broadcast."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    return torch.vdot(a.flatten(), b.flatten())


def relative(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference as a fraction of the norm of what is wanted; never broadcasts."""
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    assert got.dtype == wanted.dtype, (got.dtype, wanted.dtype)
    return float((got - wanted).detach().norm() / wanted.detach().norm())


def assert_adjoint(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    tolerance: float,
) -> None:
    """``<A x, y> = <x, A^H y>``, up to a fraction of ``|A x| |y|``."""
    image, back = forward(x), adjoint(y)
    left, right = inner(image, y), inner(x, back)
    assert abs(left - right) <= tolerance * float(image.norm() * y.norm())


def dense(function: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The matrix of a linear function of tensors shaped like ``like``, column by column."""
    columns = []
    for index in range(like.numel()):
        unit = torch.zeros_like(like)
        unit.view(-1)[index] = 1
        columns.append(function(unit).flatten())
    return torch.stack(columns, 1)


def make_batch(
    *space: int,
    batch: int = 1,
    coils: int = 3,
    maps: int = 1,
    seed: int = 0,
    dynamic: bool = False,
    dtype: torch.dtype = torch.complex64,
) -> Batch:
    """A random scan with a target; dynamic: space is ``(t, y, x)``, another mask each frame."""
    shape = (1, *space[1:]) if dynamic else space
    lines = (space[0], *[1] * (len(space) - 2), space[-1]) if dynamic else space
    real = torch.zeros((), dtype=dtype).real.dtype
    sensitivities = normal(batch, maps, coils, *shape, seed=seed + 1, dtype=dtype)
    return Batch(
        kspace=normal(batch, coils, *space, seed=seed, dtype=dtype),
        mask=random_mask(batch, 1, *lines, seed=seed + 2, dtype=real),
        # Squared magnitudes sum to one, as coil maps' do, so that A has a norm of at most one.
        maps=sensitivities / sensitivities.abs().square().sum((1, 2), keepdim=True).sqrt(),
        target=normal(batch, maps, *space, seed=seed + 3, dtype=dtype),
        axes=(-2, -1) if dynamic else None,
    )


def make_network(
    kind: str = "pgd",
    steps: int = 4,
    ndim: int = 2,
    maps: int = 1,
    features: int = 4,
    seed: int = 0,
    shared: bool = False,
    hidden: int = 0,
) -> UnrolledNetwork:
    """A tiny network whose last convolutions are not zero, so that every weight matters."""
    channels = 2 * (maps + hidden)

    def make_step() -> nn.Module:
        if kind == "pgd":
            network = ComplexImages(ResNet(channels, features, blocks=1, ndim=ndim))
            return ProximalGradientStep(network)
        network = ComplexImages(ConvNet(channels, features, layers=3, ndim=ndim))
        return MoDLStep(network, weight=0.3, iterations=4)

    with seeded(seed):
        network = UnrolledNetwork(make_step, steps, shared, hidden)
        return perturb(network)


def perturb(module: Module, scale: float = 0.3) -> Module:
    """Replace convolution weights by noise that neither vanishes nor explodes."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            width = scale / math.sqrt(parameter[0].numel())
            nn.init.normal_(parameter, std=width)
    return module


def weights_of(network: nn.Module) -> list[Tensor]:
    """Copies of all parameters."""
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit for bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
