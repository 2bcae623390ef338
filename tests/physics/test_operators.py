from dataclasses import dataclass

import pytest
import sigpy.mri.linop
import torch
from torch import Tensor

from physics import operators
from physics.operators import Sense
from tests.helpers import assert_adjoint, dense, normal, random_mask, relative, uniform

DOUBLE, SINGLE = torch.complex128, torch.complex64
TOLERANCE = {DOUBLE: 1e-13, SINGLE: 1e-5}


@dataclass(frozen=True)
class Case:
    """Sizes of a problem; None for ``maps_space`` and ``axes`` means all of space."""

    space: tuple[int, ...]
    mask: tuple[int, ...]
    sets: int = 1
    batch: int = 1
    mask_batch: int | None = None
    maps_space: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    coils: int = 3

    def operator(self, dtype: torch.dtype = DOUBLE, seed: int = 0, binary: bool = True) -> Sense:
        real = torch.float64 if dtype == DOUBLE else torch.float32
        shape = (self.mask_batch or self.batch, 1, *self.mask)
        draw = random_mask if binary else uniform
        return Sense(
            normal(
                self.batch,
                self.sets,
                self.coils,
                *(self.maps_space or self.space),
                seed=seed,
                dtype=dtype,
            ),
            draw(*shape, seed=seed + 1, dtype=real) * (1 if binary else 2),
            self.axes,
        )

    def image(self, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
        return normal(self.batch, self.sets, *self.space, seed=seed + 2, dtype=dtype)

    def kspace(self, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
        return normal(self.batch, self.coils, *self.space, seed=seed + 3, dtype=dtype)


CINE = {"maps_space": (1, 5, 6), "axes": (-2, -1)}
CASES = {
    "2D, columns": Case((6, 8), (1, 8), batch=2),
    "2D, rows, odd": Case((7, 5), (7, 1)),
    "2D, points, odd": Case((5, 7), (5, 7), batch=2),
    "2D, points, even": Case((6, 8), (6, 8)),
    "2D, one mask for the batch": Case((6, 5), (6, 5), batch=3, mask_batch=1),
    "2D, nothing varies": Case((5, 6), (1, 1)),
    "2D, two sets, columns": Case((6, 7), (1, 7), sets=2, batch=2),
    "2D, two sets, nothing varies": Case((6, 7), (1, 1), sets=2),
    "2D, one coil": Case((6, 7), (6, 7), coils=1),
    "2D, one axis encoded": Case((6, 7), (1, 7), axes=(-1,)),
    "2D, two columns": Case((6, 2), (1, 2)),
    "1D": Case((9,), (9,)),
    "3D, planes": Case((4, 5, 6), (4, 5, 1), batch=2),
    "3D, everything": Case((3, 5, 4), (3, 5, 4)),
    "3D, one axis": Case((3, 5, 4), (1, 5, 1), sets=2),
    "cine, mask of each frame": Case((4, 5, 6), (4, 1, 6), batch=2, **CINE),
    "cine, points of each frame": Case((4, 5, 6), (4, 5, 6), **CINE),
    "cine, two sets": Case((4, 5, 6), (4, 1, 6), sets=2, batch=2, **CINE),
    "cine, one mask": Case((4, 5, 6), (1, 1, 6), **CINE),
    "cine, weights of frames": Case((4, 5, 6), (4, 1, 1), **CINE),
    "cine, maps of each frame": Case((4, 5, 6), (4, 1, 6), axes=(-2, -1)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
binary_or_not = pytest.mark.parametrize("binary", [True, False], ids=["mask", "weights"])


@every_case
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_adjoint_is_the_adjoint_of_forward(case, dtype, seed):
    operator = case.operator(dtype, seed, binary=False)
    x, y = case.image(dtype, seed), case.kspace(dtype, seed)
    assert_adjoint(operator.forward, operator.adjoint, x, y, TOLERANCE[dtype])


@every_case
@binary_or_not
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_normal_is_adjoint_after_forward(case, binary, dtype):
    operator, x = case.operator(dtype, binary=binary), case.image(dtype)
    wanted = operator.adjoint(operator.forward(x))
    assert relative(operator.normal(x), wanted) < TOLERANCE[dtype]


@every_case
def test_normal_is_hermitian_and_positive(case):
    operator, x = case.operator(binary=False), case.image()
    assert_adjoint(operator.normal, operator.normal, x, case.image(seed=50), 1e-13)
    assert torch.vdot(x.flatten(), operator.normal(x).flatten()).real > 0


@binary_or_not
@pytest.mark.parametrize(
    ("space", "mask"),
    [((6, 8), (1, 8)), ((5, 7), (5, 7)), ((7, 6), (7, 1)), ((3, 4, 5), (3, 4, 1))],
)
def test_operator_agrees_with_sigpy(space, mask, binary):
    case = Case(space, mask)
    operator, x, y = case.operator(binary=binary), case.image(), case.kspace()
    # sigpy multiplies by the square root of its weights.
    weights = operator.mask[0, 0].square().expand(space).numpy()
    theirs = sigpy.mri.linop.Sense(operator.maps[0, 0].numpy(), weights=weights)
    assert relative(operator.forward(x)[0], torch.from_numpy(theirs(x[0, 0].numpy()))) < 1e-13
    assert relative(operator.adjoint(y)[0, 0], torch.from_numpy(theirs.H(y[0].numpy()))) < 1e-13
    theirs_normal = torch.from_numpy(theirs.N(x[0, 0].numpy()))
    assert relative(operator.normal(x)[0, 0], theirs_normal) < 1e-13


def dft(n: int) -> Tensor:
    """Centred orthonormal DFT matrix from its definition."""
    index = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-2j * torch.pi * index[:, None] * index / n) / n**0.5


@pytest.mark.parametrize("sets", [1, 2])
def test_operator_is_the_matrix_of_coils_fourier_and_mask(sets):
    case = Case((3, 4), (3, 4), sets=sets, coils=2)
    operator = case.operator(binary=False)
    fourier = torch.kron(dft(3), dft(4))
    weights = torch.diag(operator.mask.flatten()).to(DOUBLE)
    rows = [
        torch.cat([weights @ fourier @ torch.diag(one.flatten()) for one in one_coil], 1)
        for one_coil in operator.maps[0].transpose(0, 1)
    ]
    matrix = torch.cat(rows)
    assert relative(dense(operator.forward, case.image()), matrix) < 1e-13
    assert relative(dense(operator.adjoint, case.kspace()), matrix.mH.contiguous()) < 1e-13
    assert relative(dense(operator.normal, case.image()), matrix.mH @ matrix) < 1e-13


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_every_frame_is_encoded_on_its_own(dtype):
    case = CASES["cine, mask of each frame"]
    operator, x, y = case.operator(dtype), case.image(dtype), case.kspace(dtype)
    for t in range(4):
        frame = Sense(operator.maps[:, :, :, 0], operator.mask[:, :, t])
        assert relative(operator.forward(x)[:, :, t], frame.forward(x[:, :, t])) < TOLERANCE[dtype]
        assert relative(operator.adjoint(y)[:, :, t], frame.adjoint(y[:, :, t])) < TOLERANCE[dtype]
        assert relative(operator.normal(x)[:, :, t], frame.normal(x[:, :, t])) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["2D, points, odd", "2D, two sets, columns", "cine, two sets"])
def test_every_sample_is_encoded_on_its_own(name):
    operator, x = CASES[name].operator(), CASES[name].image()
    for i in range(len(x)):
        alone = Sense(operator.maps[i : i + 1], operator.mask[i : i + 1], operator.axes)
        assert relative(operator.forward(x)[i : i + 1], alone.forward(x[i : i + 1])) < 1e-14
        assert relative(operator.normal(x)[i : i + 1], alone.normal(x[i : i + 1])) < 1e-14


@pytest.mark.parametrize(
    "name", ["2D, columns", "2D, two sets, columns", "2D, nothing varies", "1D"]
)
def test_gradients_agree_with_finite_differences(name):
    case = CASES[name]
    space = tuple(min(n, 3) for n in case.space)
    small = Case(space, tuple(min(n, 3) for n in case.mask), case.sets, coils=2)
    operator = small.operator(binary=False)
    x, y = small.image().requires_grad_(), small.kspace().requires_grad_()
    for function, argument in ((operator.forward, x), (operator.normal, x), (operator.adjoint, y)):
        assert torch.autograd.gradcheck(function, (argument,))


def test_maps_can_be_learned():
    case = Case((2, 3), (1, 3), coils=2)
    operator, x, y = case.operator(binary=False), case.image(), case.kspace()

    def everything(maps: Tensor) -> tuple[Tensor, ...]:
        learned = Sense(maps, operator.mask)
        return learned.forward(x), learned.normal(x), learned.adjoint(y)

    assert torch.autograd.gradcheck(everything, (operator.maps.clone().requires_grad_(),))


@every_case
def test_nothing_is_modified_in_place(case):
    operator, x, y = case.operator(), case.image(), case.kspace()
    parts = (operator.maps, operator.mask, x, y)
    before = [part.clone() for part in parts]
    operator.forward(x)
    operator.normal(x)
    operator.adjoint(y)
    assert all(torch.equal(a, b) for a, b in zip(parts, before, strict=True))


def test_positions_that_the_mask_leaves_out_are_ignored():
    case = CASES["2D, points, even"]
    operator, y = case.operator(), case.kspace()
    assert torch.equal(operator.adjoint(y), operator.adjoint(y * operator.mask))
    assert torch.equal(operator.forward(case.image()) * (1 - operator.mask), 0 * y)


def test_normal_transforms_only_the_axes_on_which_the_mask_varies(monkeypatch):
    seen = []
    plain = torch.fft.fftn

    def spy(*args, dim, **settings):
        seen.append(dim)
        return plain(*args, dim=dim, **settings)

    monkeypatch.setattr(torch.fft, "fftn", spy)
    for name in ("3D, planes", "3D, one axis", "2D, nothing varies", "cine, mask of each frame"):
        CASES[name].operator().normal(CASES[name].image())
    assert seen == [(-3, -2), (-3, -2), (-2,), (-2,), (-1,), (-1,)]  # there and back


def parts(maps=(1, 1, 3, 4, 5), mask=(1, 1, 1, 5)) -> tuple[Tensor, Tensor]:
    return normal(*maps), random_mask(*mask)


@pytest.mark.parametrize(
    ("maps", "mask", "axes", "message"),
    [
        ((1, 1, 3, 4, 5), (1, 1, 1, 6), None, "axis -1 of space: the maps have size 5.*has 6"),
        ((1, 1, 3, 4, 5), (1, 1, 3, 5), None, "axis -2 of space"),
        ((1, 1, 3, 1, 5), (1, 1, 4, 5), None, "axis -2 of space"),
        ((2, 1, 3, 4, 5), (3, 1, 1, 5), None, "batch sizes differ: maps 2, mask 3"),
        ((1, 1, 3, 4, 5), (1, 3, 1, 5), None, "mask \\(batch, 1, \\*space\\)"),
        ((1, 1, 3, 4, 5), (1, 5), None, "mask \\(batch, 1, \\*space\\)"),
        ((1, 3, 4), (1, 1), None, "maps must be"),
        ((1, 1, 3, 4, 5), (1, 1, 1, 5), (2, 3), "axes must lie in -2 .. -1"),
        ((1, 1, 3, 4, 5), (1, 1, 1, 5), (-3,), "axes must lie in -2 .. -1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(maps, mask, axes, message):
    with pytest.raises(ValueError, match=message):
        Sense(*parts(maps, mask), axes)


def test_real_maps_and_complex_masks_are_refused():
    maps, mask = parts()
    with pytest.raises(TypeError, match="coil maps must be complex"):
        Sense(maps.real, mask)
    with pytest.raises(TypeError, match="mask must be real"):
        Sense(maps, mask.to(SINGLE))


@pytest.mark.parametrize("method", ["forward", "normal"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 4, 6), (1, 1, 5, 4), (1, 4, 5), (1, 3, 4, 5), (1, 1, 4, 1), (1, 1, 1, 4, 5)]
)
def test_an_image_that_does_not_fit_is_refused(method, shape):
    operator = Sense(*parts())
    with pytest.raises(ValueError, match=r"batch, maps.*= \(batch, 1, 4, 5\)"):
        getattr(operator, method)(normal(*shape))


@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (1, 3, 4, 6), (3, 4, 5), (1, 3, 1, 5)])
def test_kspace_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=r"batch, coils.*= \(batch, 3, 4, 5\)"):
        Sense(*parts()).adjoint(normal(*shape))


def test_kspace_of_several_coils_is_refused_for_the_map_of_one():
    with pytest.raises(ValueError, match=r"batch, coils.*= \(batch, 1, 4, 5\)"):
        Sense(*parts(maps=(1, 1, 1, 4, 5))).adjoint(normal(1, 3, 4, 5))


@pytest.mark.parametrize("method", ["forward", "normal", "adjoint"])
@pytest.mark.parametrize(("maps", "mask", "batch"), [(2, 2, 3), (2, 1, 3), (1, 2, 3)])
def test_a_batch_that_does_not_fit_is_refused_by_name(method, maps, mask, batch):
    operator = Sense(*parts((maps, 1, 3, 4, 5), (mask, 1, 1, 5)))
    channels = 3 if method == "adjoint" else 1
    with pytest.raises(ValueError, match="batch"):
        getattr(operator, method)(normal(batch, channels, 4, 5))


def test_frames_may_be_many_when_neither_maps_nor_mask_know_of_them():
    operator = Sense(*parts((1, 1, 3, 1, 4, 5), (1, 1, 1, 1, 5)), (-2, -1))
    x = normal(1, 1, 7, 4, 5)
    assert relative(operator.normal(x), operator.adjoint(operator.forward(x))) < 1e-5
    with pytest.raises(ValueError, match="batch, maps"):
        operator.forward(normal(1, 1, 7, 4, 6))


def test_frames_must_be_as_many_as_masks():
    operator = Sense(*parts((1, 1, 3, 1, 4, 5), (1, 1, 6, 1, 5)), (-2, -1))
    with pytest.raises(ValueError, match="6, 4, 5"):
        operator.forward(normal(1, 1, 7, 4, 5))


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("together", [1, 2, 3, 5])
def test_the_normal_operator_is_the_same_in_groups_of_coils(monkeypatch, sets, together):
    space, coils = (6, 7), 5
    maps, image = (
        normal(2, sets, coils, *space, dtype=DOUBLE),
        normal(2, sets, *space, dtype=DOUBLE),
    )
    mask = (normal(1, 1, 1, 7, dtype=DOUBLE).real > 0).double()
    one_coil = 2 * 42 * maps.element_size()
    monkeypatch.setattr(operators, "CPU_GROUP_BYTES", together * one_coil)
    operator = Sense(maps, mask)
    assert len(operator._groups) == -(-coils // together)
    wanted = operator.adjoint(operator.forward(image))
    torch.testing.assert_close(operator.normal(image), wanted)
    image.requires_grad_()
    assert torch.autograd.gradcheck(operator.normal, (image,))
