import math

import pytest
import torch
from torch import Tensor, nn

from gleam.batch import Batch
from models.complex import ComplexImages
from models.invertible import Coupling, InvertibleResidual
from models.resnet import ConvNet, ResNet
from models.unrolled import MoDLStep, ProximalGradientStep, UnrolledNetwork
from tests.helpers import dense, make_batch, make_network, normal, perturb, relative, seeded

DOUBLE = torch.complex128
KINDS = pytest.mark.parametrize("kind", ["pgd", "modl"])


class Linear(nn.Module):
    """A fixed linear map, the same for all samples, on all pixels of a sample."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)


def scan(batch: int = 1, maps: int = 1) -> Batch:
    return make_batch(3, 4, batch=batch, maps=maps, dtype=DOUBLE)


def regularizer(size: int, identity: bool = False) -> nn.Module:
    return nn.Identity() if identity else Linear(normal(size, size, seed=9, dtype=DOUBLE) / size)


def normal_matrix(batch: Batch) -> Tensor:
    """A^H A as a matrix, from forward and adjoint."""
    like = torch.zeros_like(batch.zero_filled)
    return dense(lambda x: batch.operator.adjoint(batch.operator.forward(x)), like)


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("identity", [True, False])
def test_a_proximal_gradient_step_is_its_formula(maps, identity):
    batch = scan(maps=maps)
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE)
    prior = regularizer(x.numel(), identity)
    step = ProximalGradientStep(prior, step_size=0.75).double()
    gradient = batch.operator.adjoint(batch.operator.forward(x) - batch.mask * batch.kspace)
    wanted = prior(x - 0.75 * gradient)
    assert relative(step(x, batch), wanted) < 1e-13
    dense_step = x.flatten() - 0.75 * (
        normal_matrix(batch) @ x.flatten() - batch.zero_filled.flatten()
    )
    assert relative(step(x, batch), prior(dense_step.reshape(x.shape))) < 1e-13


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("identity", [True, False])
def test_a_modl_step_solves_its_normal_equations(maps, identity):
    batch, weight = scan(maps=maps), 0.4
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE)
    prior = regularizer(x.numel(), identity)
    step = MoDLStep(prior, weight, iterations=100, tolerance=1e-13).double()
    system = normal_matrix(batch) + weight * torch.eye(x.numel())
    rhs = (batch.zero_filled + weight * prior(x)).flatten()
    wanted = torch.linalg.solve(system, rhs).reshape(x.shape)
    assert relative(step(x, batch), wanted) < 1e-7  # lambda is born in single precision


def test_a_modl_step_minimises_its_objective():
    batch, weight = scan(), 0.4
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE)
    z = regularizer(12)(x)
    step = MoDLStep(regularizer(12), weight, iterations=100, tolerance=1e-13).double()

    def objective(x: Tensor) -> float:
        residual = batch.operator.forward(x) - batch.mask * batch.kspace
        return float(residual.norm() ** 2 + weight * (x - z).norm() ** 2)

    best = step(x, batch).detach()
    for seed in range(5):
        assert objective(best) < objective(best + 1e-2 * normal(*x.shape, seed=seed, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(ProximalGradientStep, "step_size", 0.7), (MoDLStep, "log_weight", math.log(0.3))],
)
def test_the_learned_scalar_gets_the_gradient_of_finite_differences(cls, name, value):
    batch = scan(batch=2)
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE)
    step = cls(regularizer(12)).double()
    if cls is MoDLStep:
        step.iterations, step.tolerance = 60, 1e-14

    def loss(value: float) -> Tensor:
        getattr(step, name).data.fill_(value)
        return (step(x, batch) - batch.target).abs().square().sum()

    loss(value).backward()
    with torch.no_grad():
        slope = (loss(value + 1e-5) - loss(value - 1e-5)) / 2e-5
    assert abs(slope) > 0.1
    assert getattr(step, name).grad.item() == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize("cls", [ProximalGradientStep, MoDLStep])
def test_the_image_and_the_regularizer_get_the_gradients_of_finite_differences(cls):
    batch = make_batch(2, 2, dtype=DOUBLE)
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE).requires_grad_()
    matrix = (normal(4, 4, seed=9, dtype=DOUBLE) / 4).requires_grad_()
    step = cls(regularizer(4)).double()
    if cls is MoDLStep:
        step.iterations, step.tolerance = 20, 1e-14

    def call(x: Tensor, matrix: Tensor) -> Tensor:
        return torch.func.functional_call(step, {"regularizer.matrix": matrix}, (x, batch))

    # The start of conjugate gradients does not matter for the exact solution.
    assert torch.autograd.gradcheck(call, (x, matrix))


def test_the_modl_settings_reach_the_solver():
    batch = scan()
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE)
    calls = []
    plain = batch.operator.normal
    batch.operator.normal = lambda image: calls.append(1) or plain(image)
    for iterations, tolerance, wanted in ((1, 0.0, 2), (7, 0.0, 8), (7, 1e6, 1)):
        calls.clear()
        MoDLStep(nn.Identity(), 0.4, iterations, tolerance)(x, batch)
        assert len(calls) == wanted  # one more for the start


def test_modl_starts_at_the_image_it_was_given():
    batch = scan()
    x = normal(*batch.zero_filled.shape, seed=5, dtype=DOUBLE)
    assert torch.equal(MoDLStep(nn.Identity(), tolerance=1e6)(x, batch), x)


def test_lambda_stays_positive_under_any_update():
    batch = scan()
    step = MoDLStep(regularizer(12), weight=0.01).double()
    optimizer = torch.optim.SGD([step.log_weight], lr=1.0)
    for _ in range(10):
        step.log_weight.grad = torch.full_like(step.log_weight, 3.0)
        optimizer.step()
    output = step(batch.zero_filled, batch)
    assert 0 < step.log_weight.exp().item() < 1e-12
    assert torch.isfinite(torch.view_as_real(output)).all()


@pytest.mark.parametrize("weight", [0, -1.0])
def test_a_lambda_that_is_not_positive_is_refused(weight):
    with pytest.raises(ValueError, match=f"must be positive, got {weight}"):
        MoDLStep(nn.Identity(), weight)


def test_first_values_are_those_asked_for():
    assert MoDLStep(nn.Identity(), 4.0).log_weight.exp().item() == pytest.approx(4.0)
    assert ProximalGradientStep(nn.Identity(), 2.0).step_size.item() == 2.0


@KINDS
@pytest.mark.parametrize(
    ("space", "ndim", "maps", "dynamic"),
    [
        ((8, 7), 2, 1, False),
        ((8, 7), 2, 2, False),
        ((4, 6, 5), 3, 1, False),
        ((4, 6, 5), 3, 2, False),
        ((3, 6, 5), 3, 1, True),
        ((3, 6, 5), 3, 2, True),
    ],
)
def test_a_network_is_its_steps_in_order(kind, space, ndim, maps, dynamic):
    batch = make_batch(*space, batch=2, maps=maps, dynamic=dynamic)
    network = make_network(kind, steps=3, ndim=ndim, maps=maps)
    with torch.no_grad():
        state = network.start(batch)
        assert torch.equal(state, batch.operator.adjoint(batch.kspace))
        for index, step in enumerate(network.steps):
            following = network.step(index, state, batch)
            assert torch.equal(following, step(state, batch))
            assert relative(following, state) > 1e-3
            state = following
        image = network.image(state, batch)
        assert torch.equal(network(batch), image)
    assert image.shape == batch.target.shape
    assert image.dtype == torch.complex64


@KINDS
def test_frames_meet_only_in_the_network(kind):
    batch = make_batch(3, 6, 5, dynamic=True)
    step = make_network(kind, steps=1, ndim=3).steps[0]
    step.regularizer = nn.Identity()
    together = step(batch.zero_filled, batch)
    for t in range(3):
        frame = Batch(batch.kspace[:, :, t], batch.mask[:, :, t], batch.maps[:, :, :, 0])
        if kind == "modl":  # a frame alone may stop earlier
            step.iterations, step.tolerance = 30, 1e-6
            together = step(batch.zero_filled, batch)
        assert relative(together[:, :, t], step(frame.zero_filled, frame)) < 1e-4


@KINDS
def test_an_untrained_network_is_the_plain_algorithm(kind):
    batch = make_batch(6, 7)
    network = make_network(kind, steps=3)
    for step in network.steps:
        cnn = step.regularizer.network
        last = cnn.last if kind == "pgd" else cnn.layers[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    with torch.no_grad():
        image = network(batch)
        for step in network.steps:
            step.regularizer = nn.Identity()
        assert relative(image, network(batch)) < 1e-6


@KINDS
def test_shared_weights_are_one_step_many_times(kind):
    shared, separate = (make_network(kind, steps=3, shared=flag) for flag in (True, False))
    assert len(shared.steps) == len(separate.steps) == 3
    assert all(step is shared.steps[0] for step in shared.steps)
    assert len({id(step) for step in separate.steps}) == 3
    count = sum(p.numel() for p in shared.parameters())
    assert 3 * count == sum(p.numel() for p in separate.parameters())


@KINDS
def test_a_network_does_not_modify_its_batch(kind):
    batch = make_batch(6, 7, maps=2)
    tensors = (batch.kspace, batch.mask, batch.maps, batch.zero_filled)
    before = [tensor.clone() for tensor in tensors]
    make_network(kind, maps=2)(batch).abs().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_a_network_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        UnrolledNetwork(nn.Identity, 0)


REGULARIZERS = {
    "resnet": lambda: ComplexImages(ResNet(2, 6, blocks=2, ndim=3)),
    "separable resnet": lambda: ComplexImages(ResNet(2, 6, blocks=1, ndim=3, separable=True)),
    "convnet": lambda: ComplexImages(ConvNet(2, 6, layers=4, ndim=3)),
    "residual": lambda: InvertibleResidual(1, 6, layers=3, ndim=3),
    "coupling": lambda: Coupling(1, 6, layers=2, ndim=3),
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_looks_as_far_as_its_reach_and_no_further(name):
    with seeded():
        regularizer = perturb(REGULARIZERS[name](), scale=1.0).double()
    reach = UnrolledNetwork(lambda: ProximalGradientStep(regularizer), 2).reach
    image = normal(1, 1, 15, 3, 3, dtype=torch.complex128).requires_grad_()
    regularizer(image)[0, 0, 7].abs().sum().backward()
    seen = image.grad[0, 0].abs().sum((1, 2)) > 0
    assert seen.nonzero().flatten().tolist() == [*range(7 - reach, 8 + reach)]
