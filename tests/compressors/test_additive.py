"""The dynamic programme against every combination there is."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from compressors.allocation.additive import Option, best_options


def random_halves(seed: int, halves: int = 5, levels: int = 4) -> list[list[Option]]:
    """Wider levels cost more; their errors are mostly lower, but not always."""
    random = Random(seed)
    return [
        [Option(count, count * random.choice((3, 16, 7.25)), random.random() * 3 - count) for count in range(1, levels)]
        for _ in range(halves)
    ]


def cost_of(options: tuple[Option, ...]) -> float:
    return sum(option.cost for option in options)


def error_of(options: tuple[Option, ...]) -> float:
    return sum(option.error for option in options)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 1.0])
def test_as_good_as_trying_everything(seed: int, share: float) -> None:
    halves = random_halves(seed)
    limit = share * sum(max(option.cost for option in options) for options in halves)
    allowed = [chosen for chosen in product(*halves) if cost_of(chosen) <= limit]
    found = best_options(halves, limit)
    if not allowed:
        assert found is None
        return
    assert found is not None and cost_of(found) <= limit
    assert error_of(found) == pytest.approx(min(map(error_of, allowed)), abs=1e-12)


def test_options_come_in_the_order_of_their_halves() -> None:
    halves = [[Option(1, 1, 0)], [Option(2, 1, 0)], [Option(3, 1, 0)]]
    found = best_options(halves, 3)
    assert found is not None and [option.count for option in found] == [1, 2, 3]


def test_of_equal_errors_the_cheaper() -> None:
    found = best_options([[Option(5, 9.0, 1.0), Option(4, 2.0, 1.0)]], 10)
    assert found == (Option(4, 2.0, 1.0),)


def test_more_budget_never_errs_more() -> None:
    halves = random_halves(3, halves=8)
    errors = [error_of(found) for limit in range(20, 400, 5) if (found := best_options(halves, limit)) is not None]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


@pytest.mark.parametrize("most_states", [2, 5, 40])
def test_thinned_states_still_hold_the_budget(most_states: int) -> None:
    """Costs stay exact when states are dropped; the least cost there is stays reachable."""
    random = Random(1)
    halves = [[Option(n, n + random.random(), random.random() - n) for n in range(1, 7)] for _ in range(12)]
    least = sum(min(option.cost for option in options) for options in halves)
    exact = best_options(halves, 2 * least)
    thin = best_options(halves, 2 * least, most_states)
    assert thin is not None and exact is not None
    assert cost_of(thin) <= 2 * least and error_of(thin) >= error_of(exact)
    assert best_options(halves, least, most_states) is not None
    assert best_options(halves, least - 0.01, most_states) is None


def test_thinning_costs_little() -> None:
    random = Random(2)
    halves = [[Option(n, n + random.random(), (7 - n) ** 2 * random.random()) for n in range(1, 8)] for _ in range(20)]
    limit = 80.0
    exact, thin = best_options(halves, limit, 10**6), best_options(halves, limit, 400)
    assert exact is not None and thin is not None
    assert error_of(thin) == pytest.approx(error_of(exact), rel=0.02)
