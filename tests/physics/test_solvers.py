import pytest
import torch
from torch import Tensor

from physics.operators import Sense
from physics.solvers import conjugate_gradient, power_iteration
from tests.helpers import normal, random_mask, relative

DOUBLE = torch.complex128


class Matrices:
    """One Hermitian positive definite matrix for each sample; counts how often it is applied."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]) -> None:
        self.matrix, self.shape, self.calls = matrix, shape, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.einsum("bij,bj->bi", self.matrix, x.flatten(1)).reshape(x.shape)

    def solve(self, rhs: Tensor, shift: float = 0.0) -> Tensor:
        shifted = self.matrix + shift * torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype)
        return torch.linalg.solve(shifted, rhs.flatten(1)).reshape(rhs.shape)


def positive(batch: int, *shape: int, dtype: torch.dtype = DOUBLE, floor: float = 0.1) -> Matrices:
    """Random, with eigenvalues of the order of one and above the floor."""
    n = torch.Size(shape).numel()
    factor = normal(batch, n, n, dtype=dtype)
    matrix = factor @ factor.mH / n
    return Matrices(matrix + floor * torch.eye(n, dtype=dtype), (batch, *shape))


def diagonal(*rows: list[float]) -> Matrices:
    matrix = torch.diag_embed(torch.tensor(rows, dtype=torch.float64)).to(DOUBLE)
    return Matrices(matrix, (len(rows), len(rows[0])))


def rhs_of(operator: Matrices, dtype: torch.dtype = DOUBLE, seed: int = 1) -> Tensor:
    return normal(*operator.shape, seed=seed, dtype=dtype)


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float64])
@pytest.mark.parametrize("warm", [False, True])
def test_the_solution_is_that_of_a_dense_solver(shift, dtype, warm):
    operator = positive(3, 1, 2, 3, dtype=dtype)
    rhs = rhs_of(operator, dtype)
    start = rhs_of(operator, dtype, seed=2) if warm else None
    solution = conjugate_gradient(operator, rhs, shift, start, iterations=60, tolerance=1e-13)
    assert relative(solution, operator.solve(rhs, shift)) < 1e-11


def test_n_unknowns_need_n_iterations():
    operator = positive(2, 5, floor=1.0)
    rhs = rhs_of(operator)
    solution = conjugate_gradient(operator, rhs, iterations=5, tolerance=0.0)
    assert relative(solution, operator.solve(rhs)) < 1e-9
    almost = conjugate_gradient(operator, rhs, iterations=4, tolerance=0.0)
    assert relative(almost, operator.solve(rhs)) > 1e-6


@pytest.mark.parametrize("iterations", [1, 3, 12])
def test_each_sample_is_solved_as_if_it_were_alone(iterations):
    together = positive(4, 2, 3)
    rhs = rhs_of(together) * torch.tensor([1.0, 1e-3, 1e3, 0.0]).reshape(-1, 1, 1)
    solution = conjugate_gradient(together, rhs, 0.1, iterations=iterations, tolerance=1e-4)
    for i in range(4):
        one = Matrices(together.matrix[i : i + 1], (1, 2, 3))
        alone = conjugate_gradient(one, rhs[i : i + 1], 0.1, iterations=iterations, tolerance=1e-4)
        torch.testing.assert_close(solution[i : i + 1], alone, rtol=1e-12, atol=0)


def test_a_finished_sample_waits_unchanged_for_a_hard_one():
    both = diagonal([2.0] * 6, [1e-3, 1e-2, 0.1, 1.0, 3.0, 9.0])
    rhs = rhs_of(both)
    solution = conjugate_gradient(both, rhs, iterations=100, tolerance=1e-10)
    assert both.calls > 5
    assert torch.isfinite(torch.view_as_real(solution)).all()
    assert relative(solution, both.solve(rhs)) < 1e-8
    easy = diagonal([2.0] * 6)
    alone = conjugate_gradient(easy, rhs[:1], iterations=100, tolerance=1e-10)
    assert easy.calls == 1
    assert torch.equal(solution[:1], alone)


def test_a_start_at_the_solution_is_returned():
    operator = diagonal([1.0, 2.0, 4.0], [2.0, 8.0, 1.0])
    start = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5j, 2.0]], dtype=DOUBLE)
    rhs = operator(start)
    for tolerance in (0.0, 1e-6):
        assert torch.equal(
            conjugate_gradient(operator, rhs, start=start, tolerance=tolerance), start
        )


def test_a_zero_right_hand_side_has_a_zero_solution():
    operator = positive(2, 4)
    zero = torch.zeros(2, 4, dtype=DOUBLE)
    assert torch.equal(conjugate_gradient(operator, zero), zero)
    assert operator.calls == 0
    start = rhs_of(operator)
    solution = conjugate_gradient(operator, zero, start=start, iterations=40)
    assert solution.abs().max() < 1e-12


def test_more_iterations_than_needed_do_no_harm():
    operator = positive(2, 3)
    rhs = rhs_of(operator)
    solution = conjugate_gradient(operator, rhs, iterations=500, tolerance=0.0)
    assert relative(solution, operator.solve(rhs)) < 1e-12


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex64])
def test_a_singular_operator_without_shift_gives_the_smallest_solution(dtype):
    operator = diagonal([0.0, 0.0, 1.0, 2.0], [0.0] * 4)
    operator.matrix = operator.matrix.to(dtype)
    inside = torch.tensor([[0.0, 0.0, 3.0, 4.0], [0.0] * 4], dtype=dtype)
    wanted = torch.tensor([[0.0, 0.0, 3.0, 2.0], [0.0] * 4], dtype=dtype)
    torch.testing.assert_close(conjugate_gradient(operator, inside), wanted)


def test_it_stops_as_soon_as_the_tolerance_is_met():
    operator, calls = positive(1, 30, floor=0.01), []
    rhs = rhs_of(operator)
    for tolerance in (0.5, 1e-2, 1e-4):
        operator.calls = 0
        solution = conjugate_gradient(operator, rhs, iterations=200, tolerance=tolerance)
        calls.append(operator.calls)
        assert (operator(solution) - rhs).norm() <= 1.001 * tolerance * rhs.norm()
        early = conjugate_gradient(operator, rhs, iterations=calls[-1] - 1, tolerance=0.0)
        assert (operator(early) - rhs).norm() > tolerance * rhs.norm()
    assert calls[0] < calls[1] < calls[2] < 200


@pytest.mark.parametrize("iterations", [1, 4, 9])
def test_it_applies_the_operator_once_an_iteration_and_once_for_a_start(iterations):
    operator = positive(1, 30)
    rhs = rhs_of(operator)
    conjugate_gradient(operator, rhs, iterations=iterations, tolerance=0.0)
    assert operator.calls == iterations
    conjugate_gradient(operator, rhs, start=rhs, iterations=iterations, tolerance=0.0)
    assert operator.calls == 2 * iterations + 1


@pytest.mark.parametrize("iterations", [1, 4, 9])
def test_the_backward_pass_is_one_more_solve_with_the_same_iterations(iterations):
    operator = positive(1, 30)
    rhs = rhs_of(operator).requires_grad_()
    solution = conjugate_gradient(operator, rhs, 0.1, iterations=iterations, tolerance=0.0)
    operator.calls = 0
    weight = rhs_of(operator, seed=7)
    solution.backward(weight)
    assert operator.calls == iterations
    wanted = conjugate_gradient(operator, weight, 0.1, iterations=iterations, tolerance=0.0)
    assert torch.equal(rhs.grad, wanted)


def test_the_backward_pass_stops_at_the_same_tolerance():
    operator, calls = positive(1, 30, floor=0.01), []
    weight = rhs_of(operator, seed=7)
    for tolerance in (0.3, 1e-3):
        rhs = rhs_of(operator).requires_grad_()
        solution = conjugate_gradient(operator, rhs, iterations=200, tolerance=tolerance)
        operator.calls = 0
        solution.backward(weight)
        calls.append(operator.calls)
        wanted = conjugate_gradient(operator, weight, iterations=200, tolerance=tolerance)
        assert operator.calls == 2 * calls[-1]
        assert torch.equal(rhs.grad, wanted)
    assert calls[0] < calls[1] < 200


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float64])
def test_gradients_agree_with_finite_differences(dtype):
    operator = positive(2, 1, 3, dtype=dtype)
    rhs = rhs_of(operator, dtype).requires_grad_()
    start = rhs_of(operator, dtype, seed=5)
    for shape in ((), (1,)):
        shift = torch.full(shape, 0.4, dtype=torch.float64, requires_grad=True)

        def solve(rhs: Tensor, shift: Tensor) -> Tensor:
            return conjugate_gradient(operator, rhs, shift, start, iterations=40, tolerance=1e-13)

        assert torch.autograd.gradcheck(solve, (rhs, shift))


def test_a_shift_in_single_precision_learns_from_a_double_one():
    operator = positive(2, 3)
    rhs, weight = rhs_of(operator), rhs_of(operator, seed=6)
    shift = torch.tensor(0.4, requires_grad=True)
    solution = conjugate_gradient(operator, rhs, shift, iterations=40, tolerance=1e-13)
    torch.autograd.backward(solution, weight)
    step = 1e-4
    up, down = (operator.solve(rhs, shift.item() + sign * step) for sign in (1, -1))
    slope = ((up - down).conj() * weight).real.sum() / (2 * step)
    assert shift.grad is not None
    assert shift.grad.dtype == torch.float32
    assert shift.grad.item() == pytest.approx(slope.item(), rel=1e-5)


def test_nothing_of_the_iterations_is_stored():
    operator = positive(1, 8)
    stored: list[Tensor] = []

    def store(tensor: Tensor) -> Tensor:
        stored.append(tensor)
        return tensor

    counts = []
    for iterations in (1, 20):
        stored.clear()
        rhs = rhs_of(operator).requires_grad_()
        shift = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
            conjugate_gradient(operator, rhs, shift, iterations=iterations, tolerance=0.0)
        counts.append(sum(tensor.numel() for tensor in stored))
    assert counts == [9, 9]  # the solution and the shift


def test_arguments_are_not_modified():
    operator = positive(2, 3)
    rhs, start = rhs_of(operator), rhs_of(operator, seed=3)
    before = rhs.clone(), start.clone()
    conjugate_gradient(operator, rhs, 0.2, start)
    assert torch.equal(rhs, before[0])
    assert torch.equal(start, before[1])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_operator_may_return_its_argument_or_a_tensor_it_keeps(scale):
    rhs = normal(2, 3, dtype=DOUBLE)
    kept = torch.empty_like(rhs)

    def operator(x: Tensor) -> Tensor:
        return x if scale == 1 else torch.mul(x, scale, out=kept)

    solution = conjugate_gradient(operator, rhs, shift=1.0)
    torch.testing.assert_close(solution, rhs / (scale + 1))


def test_lazily_conjugated_tensors_are_as_good_as_any():
    operator, weight = positive(2, 3), normal(2, 3, seed=6, dtype=DOUBLE)
    rhs = normal(2, 3, dtype=DOUBLE)
    wanted = conjugate_gradient(operator, rhs.conj().resolve_conj(), 0.5)
    assert relative(conjugate_gradient(operator, rhs.conj(), 0.5), wanted) < 1e-14
    rhs.requires_grad_()
    solution = conjugate_gradient(operator, rhs, 0.5)
    solution.backward(weight.conj())  # as from a loss that multiplies by a conjugate
    wanted = conjugate_gradient(operator, weight.conj().resolve_conj(), 0.5)
    assert relative(rhs.grad, wanted) < 1e-14


def test_settings_out_of_range_are_refused():
    rhs = torch.ones(1, 2)
    with pytest.raises(ValueError, match="got 0 and"):
        conjugate_gradient(lambda x: 2 * x, rhs, iterations=0)
    with pytest.raises(ValueError, match="and -1"):
        conjugate_gradient(lambda x: 2 * x, rhs, tolerance=-1.0)


@pytest.mark.parametrize("sets", [1, 2])
def test_it_inverts_the_sense_operator(sets):
    maps = normal(2, sets, 4, 5, 6, dtype=DOUBLE)
    operator = Sense(maps, random_mask(2, 1, 1, 6, dtype=torch.float64))
    image = normal(2, sets, 5, 6, seed=4, dtype=DOUBLE)
    rhs = operator.normal(image) + 0.3 * image
    solution = conjugate_gradient(operator.normal, rhs, 0.3, iterations=200, tolerance=1e-13)
    assert relative(solution, image) < 1e-10


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float64])
def test_power_iteration_finds_the_largest_eigenvalue_of_each_sample(dtype):
    operator = positive(3, 2, 4, dtype=dtype)
    operator.matrix *= torch.tensor([1.0, 20.0, 0.01]).reshape(-1, 1, 1)
    largest = torch.linalg.eigvalsh(operator.matrix)[:, -1]
    found = power_iteration(operator, rhs_of(operator, dtype), iterations=300)
    torch.testing.assert_close(found, largest, rtol=1e-6, atol=0)
    early = power_iteration(operator, rhs_of(operator, dtype), iterations=4)
    later = power_iteration(operator, rhs_of(operator, dtype), iterations=8)
    assert ((early < later) & (later <= largest * (1 + 1e-12))).all()


def test_power_iteration_treats_each_sample_alone():
    operator = positive(3, 4)
    start = rhs_of(operator)
    found = power_iteration(operator, start, iterations=7)
    for i in range(3):
        one = Matrices(operator.matrix[i : i + 1], (1, 4))
        alone = power_iteration(one, start[i : i + 1], iterations=7)
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-13, atol=0)


def test_power_iteration_of_nothing_is_zero():
    start = normal(2, 3, dtype=DOUBLE)
    assert torch.equal(power_iteration(torch.zeros_like, start), torch.zeros(2).double())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_values_that_are_not_finite_or_overflow_are_not_hidden(value):
    rhs = torch.ones(1, 4, dtype=torch.complex64)
    rhs[0, 2] = value
    solution = conjugate_gradient(lambda x: x, rhs, 1.0, start=torch.zeros_like(rhs))
    assert not torch.isfinite(torch.view_as_real(solution)).all()


def test_a_shift_that_is_nan_is_not_hidden():
    rhs = torch.ones(1, 4, dtype=torch.complex64)
    solution = conjugate_gradient(lambda x: x, rhs, float("nan"))
    assert not torch.isfinite(torch.view_as_real(solution)).all()


def test_an_operator_that_gives_nan_is_not_hidden():
    rhs = torch.ones(1, 4, dtype=torch.complex64)
    solution = conjugate_gradient(lambda x: x * float("nan"), rhs)
    assert not torch.isfinite(torch.view_as_real(solution)).all()
