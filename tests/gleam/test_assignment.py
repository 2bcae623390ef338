"""Which worker trains which modules, against every possible way of cutting the row."""

from itertools import combinations, pairwise

import pytest

from gleam.parallel.assignment import assign, speed_up
from tests.helpers import uniform


def every_assignment(modules: int, workers: int) -> list[list[range]]:
    """All ways of cutting a row of modules into so many parts, none of them empty."""
    cuts = combinations(range(1, modules), workers - 1)
    return [[range(a, b) for a, b in pairwise((0, *cut, modules))] for cut in cuts]


def slowest(costs: list[float], assignment: list[range]) -> float:
    return max(sum(costs[module] for module in modules) for modules in assignment)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("modules", [1, 2, 5, 9])
def test_no_assignment_has_a_faster_slowest_worker(modules: int, seed: int):
    costs = (uniform(modules, seed=seed) ** 3).tolist()  # very unequal
    for workers in range(1, modules + 1):
        found = assign(costs, workers)
        possible = every_assignment(modules, workers)
        assert found in possible
        best = min(slowest(costs, one) for one in possible)
        assert slowest(costs, found) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize(("modules", "workers"), [(4, 2), (6, 4), (7, 3), (8, 5)])
def test_of_equally_good_assignments_earlier_workers_have_more(modules: int, workers: int):
    costs = [1.0] * modules
    possible = every_assignment(modules, workers)
    best = min(slowest(costs, one) for one in possible)
    good = [one for one in possible if slowest(costs, one) == best]
    assert assign(costs, workers) == max(good, key=lambda one: [part.stop for part in one])


def test_one_expensive_module_has_a_worker_of_its_own():
    assert assign([1, 1, 9, 1, 1], 3) == [range(2), range(2, 3), range(3, 5)]
    assert assign([9, 1, 1, 1], 2) == [range(1), range(1, 4)]


def test_costs_of_zero_are_assigned_too():
    assert [module for part in assign([0.0, 0.0, 0.0], 2) for module in part] == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 4])
def test_as_many_workers_as_have_something_to_do_are_asked_for(workers: int):
    with pytest.raises(ValueError, match=f"3 modules can keep 1 to 3 workers busy, got {workers}"):
        assign([1.0, 2.0, 3.0], workers)


def test_the_speed_up_is_the_work_over_that_of_the_slowest_worker():
    assert speed_up([1, 1, 1, 1], [range(4)]) == 1
    assert speed_up([1, 1, 1, 1], [range(2), range(2, 4)]) == 2
    assert speed_up([1, 1, 9, 1], [range(2), range(2, 3), range(3, 4)]) == pytest.approx(12 / 9)
