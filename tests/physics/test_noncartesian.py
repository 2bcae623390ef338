"""The non-Cartesian operator against the dense matrix of its definition."""

import math
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from physics.fourier import fft, ifft
from physics.noncartesian import NonCartesianSense
from physics.operators import Sense
from physics.solvers import conjugate_gradient
from tests.helpers import assert_adjoint, make_network, normal, relative, uniform

DOUBLE, SINGLE = torch.complex128, torch.complex64
TOLERANCE = {DOUBLE: 1e-11, SINGLE: 1e-4}


def test_without_the_extra_the_error_names_it(monkeypatch):
    for missing in ("finufft", "mrinufft"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(ImportError, match=r'pip install "gleam-mri\[noncartesian\]"'):
                NonCartesianSense(normal(1, 1, 2, 4, 4), uniform(5, 2) - 0.5)


@pytest.fixture(scope="module")
def nufft() -> None:
    pytest.importorskip("finufft", reason="the extra noncartesian is not installed")
    pytest.importorskip("mrinufft", reason="the extra noncartesian is not installed")


needs_nufft = pytest.mark.usefixtures("nufft")


@dataclass(frozen=True)
class Case:
    """Sizes of a problem; a trajectory for each sample of the batch, or one for all."""

    space: tuple[int, ...]
    samples: int = 23
    sets: int = 1
    batch: int = 1
    own: bool = False
    weighted: bool = True
    coils: int = 3

    def operator(self, dtype: torch.dtype = DOUBLE, seed: int = 0) -> NonCartesianSense:
        real = torch.zeros((), dtype=dtype).real.dtype
        shape = (self.batch, self.samples) if self.own else (self.samples,)
        maps = normal(self.batch, self.sets, self.coils, *self.space, seed=seed, dtype=dtype)
        trajectory = uniform(*shape, len(self.space), seed=seed + 1, dtype=real) - 0.5
        weights = uniform(*shape, seed=seed + 2, dtype=real) if self.weighted else None
        return NonCartesianSense(maps, trajectory, weights)

    def image(self, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
        return normal(self.batch, self.sets, *self.space, seed=seed + 3, dtype=dtype)

    def kspace(self, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
        return normal(self.batch, self.coils, self.samples, seed=seed + 4, dtype=dtype)


CASES = {
    "2D": Case((6, 8)),
    "2D, odd": Case((7, 5)),
    "2D, no weights": Case((6, 5), weighted=False),
    "2D, two sets": Case((5, 6), sets=2, batch=2),
    "2D, a trajectory each": Case((6, 5), batch=3, own=True),
    "2D, a trajectory each, two sets": Case((6, 5), batch=2, own=True, sets=2, weighted=False),
    "2D, one coil": Case((4, 6), coils=1),
    "3D": Case((4, 5, 6), batch=2),
    "3D, two sets": Case((3, 4, 5), sets=2, weighted=False),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
either_dtype = pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])


def matrix(positions: Tensor, space: tuple[int, ...]) -> Tensor:
    """``exp(-2 pi i k . r) / sqrt(pixels)``, samples by pixels, pixel ``n // 2`` the origin."""
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in space]
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(space))
    phase = positions.double() @ pixels.T
    return torch.exp(-2j * math.pi * phase) / math.sqrt(math.prod(space))


def sense_matrix(operator: NonCartesianSense, sample: int) -> Tensor:
    """Coils and samples by map sets and pixels, of one sample of the batch."""
    trajectory = operator.trajectory
    positions = trajectory if trajectory.ndim == 2 else trajectory[sample]
    maps = operator.maps[sample].to(DOUBLE)
    fourier = matrix(positions, maps.shape[2:])
    return torch.cat(
        [torch.cat([fourier * one.flatten() for one in coil], 1) for coil in maps.transpose(0, 1)]
    )


def weights_of(operator: NonCartesianSense, sample: int) -> Tensor:
    """The weight of every row of that matrix."""
    density = operator.density
    one = density if density.ndim == 1 else density[sample]
    return one.double().repeat(operator.maps.shape[2])


@needs_nufft
@every_case
@either_dtype
def test_the_operator_is_the_matrix_of_its_definition(case, dtype):
    operator, x, y = case.operator(dtype), case.image(dtype), case.kspace(dtype)
    results = operator.forward(x), operator.adjoint(y), operator.normal(x)
    for i in range(case.batch):
        a, w = sense_matrix(operator, i), weights_of(operator, i)
        pixels, samples = x[i].flatten().to(DOUBLE), y[i].flatten().to(DOUBLE)
        wanted = a @ pixels, a.mH @ (w * samples), a.mH @ (w * (a @ pixels))
        for got, truth in zip(results, wanted, strict=True):
            assert got.dtype == dtype
            assert relative(got[i].flatten().to(DOUBLE), truth) < TOLERANCE[dtype]


@needs_nufft
@either_dtype
@pytest.mark.parametrize("name", ["2D, no weights", "3D, two sets"])
def test_without_weights_adjoint_is_the_adjoint_of_forward(name, dtype):
    case = CASES[name]
    operator = case.operator(dtype)
    x, y = case.image(dtype), case.kspace(dtype)
    assert_adjoint(operator.forward, operator.adjoint, x, y, TOLERANCE[dtype])


@needs_nufft
@every_case
@either_dtype
def test_normal_is_adjoint_after_forward(case, dtype):
    operator, x = case.operator(dtype), case.image(dtype)
    wanted = operator.adjoint(operator.forward(x))
    assert relative(operator.normal(x), wanted) < TOLERANCE[dtype]


@needs_nufft
@pytest.mark.parametrize("together", [1, 2, 3])
def test_the_normal_operator_is_the_same_in_groups_of_coils(monkeypatch, together):
    case = CASES["2D, two sets"]
    one_coil = 2 * 4 * 30 * 16
    monkeypatch.setattr("physics.noncartesian.CPU_GROUP_BYTES", together * one_coil)
    operator, x = case.operator(), case.image()
    assert operator._together == together
    assert relative(operator.normal(x), operator.adjoint(operator.forward(x))) < 1e-11


def grid(*space: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The positions of a Cartesian scan, in the order of its flattened k-space."""
    axes = [(torch.arange(n, dtype=dtype) - n // 2) / n for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(space))


@needs_nufft
@pytest.mark.parametrize("space", [(6, 8), (5, 7), (4, 3, 5)])
@pytest.mark.parametrize("density", [None, "pipe"])
def test_on_a_cartesian_grid_it_is_the_cartesian_operator(space, density):
    maps, x = normal(2, 1, 3, *space, dtype=DOUBLE), normal(2, 1, *space, dtype=DOUBLE)
    axes = tuple(range(-len(space), 0))
    operator = NonCartesianSense(maps, grid(*space), density)
    assert torch.allclose(operator.density, torch.ones(()).double())
    kspace = fft(maps[:, 0] * x, axes)
    assert relative(operator.forward(x), kspace.flatten(2)) < 1e-11
    coils = ifft(kspace, axes)
    wanted = (maps[:, 0].conj() * coils).sum(1, keepdim=True)
    assert relative(operator.adjoint(kspace.flatten(2)), wanted) < 1e-11
    cartesian = Sense(maps, torch.ones(1, 1, *[1] * len(space)).double())
    assert relative(operator.normal(x), cartesian.normal(x)) < 1e-11


@needs_nufft
@pytest.mark.parametrize("own", [False, True])
def test_pipe_weights_solve_their_equation(own):
    space, positions = (6, 5), uniform(2, 15, 2, dtype=torch.float64) - 0.5
    trajectory = positions if own else positions[0]
    maps = normal(2, 1, 2, *space, dtype=DOUBLE)
    density = NonCartesianSense(maps, trajectory, "pipe").density
    assert density.shape == trajectory.shape[:-1]
    for k, w in zip(positions, density, strict=True) if own else [(positions[0], density)]:
        fourier = matrix(k, space)
        kernel = (fourier @ fourier.mH).abs().square()
        assert torch.allclose(kernel @ w, torch.ones(()).double(), atol=0.05)


@needs_nufft
def test_pipe_weights_of_dense_spokes_grow_with_the_radius():
    n, count = 32, 80
    angles = torch.arange(count) * math.pi / count
    radii = (torch.arange(2 * n) - n) / (2 * n)
    trajectory = radii[:, None, None] * torch.stack([angles.sin(), angles.cos()], -1)
    density = NonCartesianSense(normal(1, 1, 1, n, n), trajectory.reshape(-1, 2), "pipe").density
    got = density.reshape(2 * n, count).mean(1)
    # The area of a ring of k-space, in pixels, is shared by the two ends of all spokes.
    ramp = math.pi * (radii.abs() * n) / (2 * count)
    middle = slice(n + 4, -8)
    assert torch.allclose(got[middle], ramp[middle], rtol=0.02)


@needs_nufft
@pytest.mark.parametrize("name", ["2D, two sets", "2D, a trajectory each", "3D"])
def test_gradients_agree_with_finite_differences(name):
    case = CASES[name]
    small = Case(tuple(min(n, 3) for n in case.space), 4, case.sets, case.batch, case.own, coils=2)
    operator = small.operator()
    x, y = small.image().requires_grad_(), small.kspace().requires_grad_()
    for function, argument in ((operator.forward, x), (operator.normal, x), (operator.adjoint, y)):
        assert torch.autograd.gradcheck(function, (argument,))
    twice = normal(*y.shape, seed=9, dtype=DOUBLE).real  # else it draws from the global state
    assert torch.autograd.gradgradcheck(lambda z: operator.forward(z).abs() ** 2, (x,), (twice,))


@needs_nufft
def test_maps_can_be_learned():
    case = Case((2, 3), 4, coils=2)
    operator, x, y = case.operator(), case.image(), case.kspace()

    def everything(maps: Tensor) -> tuple[Tensor, ...]:
        learned = NonCartesianSense(maps, operator.trajectory, operator.density)
        return learned.forward(x), learned.normal(x), learned.adjoint(y)

    assert torch.autograd.gradcheck(everything, (operator.maps.clone().requires_grad_(),))


@needs_nufft
@pytest.mark.parametrize("weighted", [False, True])
def test_conjugate_gradients_find_the_weighted_least_squares_image(weighted):
    case = Case((4, 5), samples=30, batch=2, weighted=weighted)
    operator, y, shift = case.operator(), case.kspace(), 0.1
    got = conjugate_gradient(operator.normal, operator.adjoint(y), shift, None, 60, 1e-12)
    for i in range(2):
        a, w = sense_matrix(operator, i), weights_of(operator, i)
        system = a.mH @ (w[:, None] * a) + shift * torch.eye(20)
        wanted = torch.linalg.solve(system, a.mH @ (w * y[i].flatten()))
        assert relative(got[i].flatten(), wanted) < 1e-8


@needs_nufft
@pytest.mark.parametrize("kind", ["pgd", "modl"])
def test_unrolled_networks_train_with_it(kind):
    """On a Cartesian grid, outputs and gradients are those with the Cartesian operator."""
    space = (8, 6)
    maps, kspace = normal(2, 1, 3, *space, dtype=DOUBLE), normal(2, 3, *space, dtype=DOUBLE)
    maps = maps / maps.abs().square().sum(2, keepdim=True).sqrt()
    ours = NonCartesianSense(maps, grid(*space))
    theirs = Sense(maps, torch.ones(1, 1, *space).double())
    found = []
    for operator, data in ((ours, kspace.flatten(2)), (theirs, kspace)):
        network = make_network(kind, steps=2).double()
        image = network(SimpleNamespace(operator=operator, zero_filled=operator.adjoint(data)))
        image.abs().square().sum().backward()
        found.append([image.detach(), *(p.grad for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@needs_nufft
def test_nothing_is_modified_in_place():
    case = CASES["2D, two sets"]
    operator, x, y = case.operator(), case.image(), case.kspace()
    parts = (operator.maps, operator.trajectory, operator.density, x, y)
    before = [part.clone() for part in parts]
    operator.forward(x)
    operator.normal(x)
    operator.adjoint(y)
    assert all(torch.equal(a, b) for a, b in zip(parts, before, strict=True))


@needs_nufft
def test_a_trajectory_near_the_centre_is_not_taken_for_another_unit():
    maps, trajectory = normal(1, 1, 1, 6, 6), 0.1 * (uniform(9, 2) - 0.5)
    x = normal(1, 1, 6, 6, seed=1)
    wanted = matrix(trajectory, (6, 6)) @ (maps[:, 0] * x).flatten().to(DOUBLE)
    got = NonCartesianSense(maps, trajectory).forward(x)
    assert relative(got.flatten().to(DOUBLE), wanted) < 1e-4


@pytest.mark.parametrize(
    ("maps", "trajectory", "message"),
    [
        ((1, 1, 2, 4, 4), (5, 3), r"trajectory must be \(samples, 2\).*got \(5, 3\)"),
        ((1, 1, 2, 4, 4), (5,), r"trajectory must be \(samples, 2\)"),
        ((1, 1, 2, 4, 4), (0, 2), r"trajectory must be \(samples, 2\)"),
        ((1, 1, 2, 4, 4, 4), (2, 5, 2), r"trajectory must be \(samples, 3\)"),
        ((2, 1, 2, 4, 4), (3, 5, 2), "batch sizes differ: maps 2, trajectory 3"),
        ((2, 4, 4), (5, 2), r"maps must be \(batch, maps, coils, \*space\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(maps, trajectory, message):
    with pytest.raises(ValueError, match=message):
        NonCartesianSense(normal(*maps), uniform(*trajectory) - 0.5)


@pytest.mark.parametrize("worst", [0.6, -3.1, math.nan, math.inf])
def test_positions_out_of_reach_are_refused(worst):
    trajectory = uniform(5, 2) - 0.5
    trajectory[3, 1] = worst
    with pytest.raises(ValueError, match=r"lie in -0.5 .. 0.5 cycles per pixel.*radians"):
        NonCartesianSense(normal(1, 1, 2, 4, 4), trajectory)


def test_wrong_dtypes_are_refused():
    maps, trajectory = normal(1, 1, 2, 4, 4), uniform(5, 2) - 0.5
    with pytest.raises(TypeError, match="maps must be complex"):
        NonCartesianSense(maps.real, trajectory)
    with pytest.raises(TypeError, match="trajectory must be real"):
        NonCartesianSense(maps, trajectory.double())


@needs_nufft
@pytest.mark.parametrize(
    ("density", "error", "message"),
    [
        (torch.ones(4), ValueError, r"a weight for each sample, \(5,\), got \(4,\)"),
        (torch.tensor([1, 1, 1, 1, -0.1]), ValueError, "not negative"),
        (torch.tensor([1, 1, 1, 1, math.nan]), ValueError, "finite"),
        (torch.ones(5).double(), TypeError, "density must be torch.float32"),
        ("voronoi", ValueError, 'a tensor, "pipe" or None, got "voronoi"'),
    ],
)
def test_weights_that_cannot_be_are_refused(density, error, message):
    with pytest.raises(error, match=message):
        NonCartesianSense(normal(1, 1, 2, 4, 4), uniform(5, 2) - 0.5, density)


@needs_nufft
@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("forward", (2, 1, 4, 6)),
        ("forward", (2, 2, 4, 5)),
        ("normal", (3, 1, 4, 5)),
        ("normal", (2, 4, 5)),
        ("adjoint", (2, 3, 8)),
        ("adjoint", (2, 1, 7)),
        ("adjoint", (1, 3, 7)),
    ],
)
def test_inputs_that_do_not_fit_are_refused(method, shape):
    operator = NonCartesianSense(normal(2, 1, 3, 4, 5), uniform(7, 2) - 0.5)
    wanted = r"\(2, 3, 7\)" if method == "adjoint" else r"\(2, 1, 4, 5\)"
    with pytest.raises(ValueError, match=wanted):
        getattr(operator, method)(normal(*shape))
