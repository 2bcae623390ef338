import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.invertible import Coupling, InvertibleResidual, NormBound
from models.resnet import ResNet, convolution
from models.unrolled import MoDLStep, ProximalGradientStep, UnrolledNetwork
from tests.helpers import dense, make_batch, normal, perturb, relative, seeded

DOUBLE = torch.complex128
KINDS = {"residual": InvertibleResidual, "coupling": Coupling}
both = pytest.mark.parametrize("kind", KINDS)
shapes = pytest.mark.parametrize(
    ("channels", "space"), [(1, (8, 7)), (2, (8, 7)), (3, (6, 5)), (1, (4, 6, 5)), (2, (4, 5, 6))]
)


def make(kind: str, channels: int = 1, ndim: int = 2, scale: float = 1.0, **settings) -> nn.Module:
    """A regularizer with noise for weights; ``scale`` 1 keeps the size of what is convolved."""
    with seeded():
        return perturb(KINDS[kind](channels, 6, **{"layers": 3, "ndim": ndim, **settings}), scale)


def image(channels: int, space: tuple[int, ...], dtype: torch.dtype = DOUBLE) -> Tensor:
    return normal(2, channels, *space, seed=3, dtype=dtype)


@both
@shapes
def test_it_is_the_identity_at_first(kind, channels, space):
    x = image(channels, space)
    with seeded():
        assert torch.equal(KINDS[kind](channels, 6, ndim=len(space))(x), x)


@both
@shapes
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_inverse_undoes_it(kind, channels, space, scale):
    regularizer, x = make(kind, channels, len(space), scale), image(channels, space)
    y = regularizer(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert relative(y, x) > 1e-4
    assert relative(regularizer.inverse(y), x) < (3e-8 if kind == "residual" else 1e-14)


@both
def test_images_in_single_precision_stay_so(kind):
    regularizer, x = make(kind), image(1, (8, 7), torch.complex64)
    assert relative(regularizer.inverse(regularizer(x)), x) < 1e-6


@both
@pytest.mark.parametrize("channels", [1, 2])
def test_every_part_of_the_image_learns_at_once(kind, channels):
    """With another channel that starts as a copy, as networks with inverses have it."""
    with seeded():
        regularizer = KINDS[kind](channels, 6)
    x = image(1, (8, 7))
    moved = regularizer(x.repeat(1, channels, 1, 1))[:, :1]
    (moved - x.flip(2)).abs().sum().backward()
    last = [m.weight for m in regularizer.modules() if isinstance(m, nn.Conv2d)]
    last = [weight for weight in last if not weight.any()]
    learned = sum(int((weight.grad.flatten(1).norm(dim=1) > 0).sum()) for weight in last)
    assert learned == 2  # outputs: the real and the imaginary part


@pytest.mark.parametrize("channels", [2, 4])
def test_a_coupling_moves_each_half_of_the_channels_by_what_the_other_holds(channels):
    coupling, x = make("coupling", channels), image(channels, (8, 7))
    a, b = (torch.view_as_real(part).movedim(-1, 2).flatten(1, 2) for part in x.chunk(2, 1))
    a = a + coupling.first(b.float())
    b = b + coupling.second(a.float())
    y = coupling(x)
    got = [torch.view_as_real(part).movedim(-1, 2).flatten(1, 2) for part in y.chunk(2, 1)]
    assert relative(got[0], a) < 1e-12
    assert relative(got[1], b) < 1e-12


def test_a_coupling_of_one_channel_moves_the_real_part_by_the_imaginary_one_and_back():
    coupling, x = make("coupling", 1), image(1, (8, 7))
    real = x.real + coupling.first(x.imag.float())
    wanted = torch.complex(real, x.imag + coupling.second(real.float()))
    assert relative(coupling(x), wanted) < 1e-6


@both
def test_samples_do_not_meet(kind):
    regularizer, x = make(kind), image(1, (8, 7))
    y = regularizer(x)
    assert relative(regularizer(x[1:]), y[1:]) < 1e-6


@pytest.mark.parametrize("features", [8, 32])
def test_parameters_are_about_as_many_as_those_of_the_resnet(features):
    with seeded():
        ours = [kind(1, features) for kind in KINDS.values()]
        theirs = ResNet(2, features)
    counts = [sum(p.numel() for p in network.parameters()) for network in (*ours, theirs)]
    assert min(counts) / max(counts) > 0.5


@pytest.mark.parametrize(("ndim", "space"), [(2, (7, 6)), (3, (4, 3, 4))])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 1), (2, 2)])
def test_the_bound_is_above_the_norm_of_the_convolutions_matrix(ndim, space, inputs, outputs):
    with seeded():
        layer = perturb(convolution(ndim, inputs, outputs).double())
    matrix = dense(lambda x: layer(x[None])[0], torch.zeros(inputs, *space, dtype=torch.double))
    norm = torch.linalg.matrix_norm(matrix.detach(), 2).item()
    assert norm <= NormBound(ndim)(layer.weight).item() < (1.3 if ndim == 2 else 1.7) * norm


@pytest.mark.parametrize(("ndim", "slack"), [(2, 1.04), (3, 1.11)])
def test_the_bound_is_at_most_its_margin_above_the_norm_in_the_plane(ndim, slack):
    with seeded():
        weight = perturb(convolution(ndim, 4, 5)).weight.detach()
    symbols = np.fft.fftn(weight.double().numpy(), [48] * ndim, axes=range(2, 2 + ndim))
    norm = np.linalg.norm(np.moveaxis(symbols, (0, 1), (-2, -1)), 2, axis=(-2, -1)).max()
    assert norm <= NormBound(ndim)(weight).item() <= slack * norm * 1.001


@pytest.mark.parametrize(("ndim", "grid"), [(2, 16), (3, 12)])
def test_a_peak_between_the_frequencies_of_the_grid_is_below_the_bound(ndim, grid):
    """Taps that turn by an angle answer loudest to the wave that turns them back: 3 an axis."""
    angle = math.pi / grid  # half way between two frequencies
    taps = torch.cartesian_prod(*[torch.arange(-1, 2)] * ndim).sum(1) * angle
    turns = torch.stack([taps.cos(), -taps.sin(), taps.sin(), taps.cos()])
    weight = turns.reshape(2, 2, *[3] * ndim).double()
    assert NormBound(ndim)(weight).item() == pytest.approx(3.0**ndim, rel=0.07)
    assert NormBound(ndim)(weight).item() >= 3.0**ndim


def test_the_bound_follows_its_weights():
    with seeded():
        weight = perturb(convolution(2, 3, 3)).weight.detach()
    bound = NormBound(2)
    before = bound(weight).item()
    other = normal(3, 3, 3, 3, dtype=torch.float32)
    wanted = NormBound(2)(other).item()
    assert wanted != pytest.approx(before, rel=1e-3)
    assert bound(other).item() == pytest.approx(wanted)
    weight.data.copy_(other)
    assert bound(weight).item() == pytest.approx(wanted)
    assert copy.deepcopy(bound)(2 * other).item() == pytest.approx(2 * wanted)


@pytest.mark.parametrize("factor", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("lipschitz", [0.5, 0.8])
def test_no_weights_can_make_the_residual_expand(factor, lipschitz):
    regularizer = make("residual", layers=2, lipschitz=lipschitz)
    with torch.no_grad():
        for parameter in regularizer.parameters():
            parameter.mul_(factor)
    regularizer = regularizer.double()
    x = image(1, (5, 4))[:1]

    def move(parts: Tensor) -> Tensor:
        state = torch.view_as_complex(parts)
        return torch.view_as_real(regularizer(state) - state)

    jacobian = torch.autograd.functional.jacobian(move, torch.view_as_real(x).contiguous())
    norm = torch.linalg.matrix_norm(jacobian.reshape(x.numel() * 2, -1), 2).item()
    assert 0.2 * lipschitz < norm < lipschitz
    assert regularizer.bound().item() > 1
    assert relative(regularizer.inverse(regularizer(x)), x) < 3e-8


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_gradients_are_those_of_finite_differences_scaled_down_or_not(scale):
    with seeded():
        regularizer = perturb(InvertibleResidual(1, 2, layers=2), scale).double()
    assert (regularizer.bound() > 0.9) == (scale > 1)
    names, weights = zip(*regularizer.named_parameters(), strict=True)

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        changed = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(regularizer, changed, (x,))

    x = image(1, (3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *(w.detach().requires_grad_() for w in weights)))


def test_fixed_point_iterations_end_at_their_number_or_at_the_tolerance():
    x = image(1, (8, 7))
    loud = partial(make, "residual", layers=2)
    y = loud()(x)
    errors = [relative(loud(iterations=count).inverse(y), x) for count in (1, 2, 3, 100)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 1e4 * errors[3]
    rough = relative(loud(tolerance=1e-2).inverse(y), x)
    assert 1e-5 < rough < 1e-2


@pytest.mark.parametrize("lipschitz", [0.0, 1.0, -0.5, 2.0])
def test_a_residual_without_an_inverse_is_refused(lipschitz):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {lipschitz}"):
        InvertibleResidual(lipschitz=lipschitz)


@both
def test_wrong_settings_and_shapes_are_refused(kind):
    with pytest.raises(ValueError, match="at least two convolutions, got 1"):
        KINDS[kind](layers=1)
    with pytest.raises(ValueError, match="2 axes of space"):
        make(kind)(image(1, (4, 5, 6)))
    with pytest.raises(ValueError, match="2 axes of space"):
        make(kind).inverse(image(1, (4, 5, 6)))


STEPS = {
    "pgd": ProximalGradientStep,
    "small": partial(ProximalGradientStep, step_size=0.1),
    "modl": MoDLStep,
    "light": partial(MoDLStep, weight=0.05),
}


@both
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("space", "maps", "hidden", "dynamic"),
    [
        ((8, 7), 1, 0, False),
        ((8, 7), 2, 1, False),
        ((4, 6, 5), 1, 1, False),
        ((3, 6, 5), 1, 0, True),
    ],
)
def test_the_inverse_of_a_step_undoes_it(kind, step, space, maps, hidden, dynamic):
    batch = make_batch(*space, batch=2, maps=maps, dynamic=dynamic)
    regularizer = make(kind, maps + hidden, len(space))
    network = UnrolledNetwork(lambda: STEPS[step](regularizer), 2, hidden=hidden)
    with torch.no_grad():
        first = network.start(batch)
        second = network.step(0, first, batch)
        third = network.step(1, second, batch)
        assert first.dtype == second.dtype == torch.complex128
        assert network.image(third, batch).dtype == torch.complex64
        limit = 1e-7 if kind == "residual" or step == "modl" else 1e-10
        limit = 2e-6 if step == "light" else limit
        assert relative(network.inverse(1, third, batch), second) < limit
        assert relative(network.inverse(0, second, batch), first) < limit


@both
def test_an_invertible_modl_step_solves_its_normal_equations_to_double_precision(kind):
    batch = make_batch(8, 7, dtype=DOUBLE)
    single = make_batch(8, 7)
    step = MoDLStep(make(kind), 0.05)
    x = normal(1, 1, 8, 7, seed=5, dtype=DOUBLE)
    matrix = dense(lambda x: single.operator.normal(x), torch.zeros_like(batch.zero_filled))
    with torch.no_grad():
        weight = step.log_weight.exp().double()
        rhs = single.zero_filled + weight * step.regularizer(x)
        wanted = torch.linalg.solve(matrix + weight * torch.eye(56), rhs.flatten())
        assert relative(step(x, single), wanted.reshape(x.shape)) < 1e-11


@both
def test_gradients_of_an_invertible_modl_step_are_those_of_finite_differences(kind):
    batch = make_batch(3, 3, dtype=DOUBLE)
    step = MoDLStep(make(kind), 0.3, tolerance=1e-12).double()
    x = normal(1, 1, 3, 3, seed=5, dtype=DOUBLE).requires_grad_()

    def call(x: Tensor, log_weight: Tensor) -> Tensor:
        return torch.func.functional_call(step, {"log_weight": log_weight}, (x, batch))

    log_weight = step.log_weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(call, (x, log_weight))


def test_training_cannot_bring_the_step_size_to_its_bound():
    step = ProximalGradientStep(make("coupling"), 0.3)
    assert step.size().item() == pytest.approx(0.3)
    for wanted, value in ((0.5, 8.0), (0.0, -8.0)):
        step.step_logit.data.fill_(value)
        assert step.size().item() == pytest.approx(wanted, abs=1e-3)
        assert 0 < step.size().item() < 0.5
    for refused in (0.5, 1.0, 0.0, -1.0):
        with pytest.raises(ValueError, match=rf"between 0 and 0.5, got {refused}"):
            ProximalGradientStep(make("coupling"), refused)


def test_first_values_depend_on_whether_the_step_is_to_be_undone():
    plain, ours = nn.Identity(), make("coupling")
    assert ProximalGradientStep(plain).size().item() == 1.0
    assert ProximalGradientStep(ours).size().item() == pytest.approx(0.45)
    for regularizer, weight, iterations in ((plain, 0.05, 10), (ours, 0.25, 100)):
        step = MoDLStep(regularizer)
        assert step.log_weight.exp().item() == pytest.approx(weight)
        assert step.iterations == iterations
        assert MoDLStep(regularizer, 4.0, 3).iterations == 3
        assert MoDLStep(regularizer, 4.0, 3).log_weight.exp().item() == pytest.approx(4.0)
