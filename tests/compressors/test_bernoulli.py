"""Coin flips for units: unbiased gradients against every mask there is, and the nearest point of a budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from compressors.bernoulli import Limit, draw, others_mean, policy_gradient, project, projected, score_function

EVERY_MASK = torch.tensor(list(product((0.0, 1.0), repeat=6)), dtype=torch.float64)
CHANCES = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.8, 0.95], dtype=torch.float64)


def toy_losses(masks: Tensor) -> Tensor:
    """Of 6 units, with two that only count together."""
    weights = torch.tensor([1.0, -0.5, 2.0, 0.0, 0.3, 0.7], dtype=torch.float64)
    return 3 - masks @ weights + 1.5 * masks[:, 0] * masks[:, 3]


def chances_of(masks: Tensor, probabilities: Tensor) -> Tensor:
    return torch.where(masks == 1, probabilities, 1 - probabilities).prod(dim=1)


def exact_gradient(probabilities: Tensor) -> Tensor:
    """By differentiating the sum over all 64 masks."""
    leaf = probabilities.clone().requires_grad_(True)
    (chances_of(EVERY_MASK, leaf) @ toy_losses(EVERY_MASK)).backward()
    assert leaf.grad is not None
    return leaf.grad


def estimate(count: int, baseline: str, seed: int) -> Tensor:
    masks = draw(CHANCES, count, torch.Generator().manual_seed(seed))
    losses = toy_losses(masks)
    known = {"others": others_mean(losses), "none": torch.zeros_like(losses), "fixed": torch.full_like(losses, 2.0)}
    return policy_gradient(losses, known[baseline], masks, CHANCES)


def test_the_score_function_is_the_gradient_of_the_log_probability() -> None:
    leaf = CHANCES.clone().requires_grad_(True)
    chances_of(EVERY_MASK[37:38], leaf).log().sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(score_function(EVERY_MASK, CHANCES)[37], leaf.grad)
    certain = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    assert score_function(torch.tensor([[0.0, 1.0, 1.0]]).double(), certain).tolist() == [[0.0, 0.0, 2.0]]


@pytest.mark.parametrize("baseline", [0.0, 2.0, -7.0])
def test_the_expected_estimate_over_every_mask_is_the_gradient(baseline: float) -> None:
    """Whatever the baseline: the score function's own expectation is 0."""
    weights = chances_of(EVERY_MASK, CHANCES)
    scores = score_function(EVERY_MASK, CHANCES)
    expected = weights @ ((toy_losses(EVERY_MASK) - baseline)[:, None] * scores)
    torch.testing.assert_close(expected, exact_gradient(CHANCES), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("baseline", ["others", "fixed", "none"])
def test_estimates_scatter_around_the_gradient(baseline: str) -> None:
    """Within 4 standard errors of 1,500 estimates; comparing with the others must not lean on a mask's own loss."""
    found = torch.stack([estimate(4, baseline, seed) for seed in range(1500)])
    errors = found.std(dim=0) / len(found) ** 0.5
    assert ((found.mean(dim=0) - exact_gradient(CHANCES)).abs() < 4 * errors).all()


def test_a_baseline_lowers_the_variance() -> None:
    spread = {
        baseline: float(torch.stack([estimate(4, baseline, seed) for seed in range(500)]).var(dim=0).sum())
        for baseline in ("others", "fixed", "none")
    }
    assert spread["others"] < 0.7 * spread["none"] and spread["fixed"] < 0.7 * spread["none"]


def test_draws_have_their_probabilities_and_follow_the_seed() -> None:
    masks = draw(CHANCES, 20000, torch.Generator().manual_seed(1))
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.mean(dim=0) - CHANCES).abs().max() < 4 * 0.5 / 20000**0.5
    assert torch.equal(masks, draw(CHANCES, 20000, torch.Generator().manual_seed(1)))
    sure = draw(torch.tensor([0.0, 1.0]).double(), 500, torch.Generator().manual_seed(2))
    assert sure.mean(dim=0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", range(8))
def test_the_projection_is_the_nearest_point_of_the_budget(seed: int) -> None:
    """Against a quadratic solver, and by the conditions that single the nearest point out."""
    random = np.random.default_rng(seed)
    point, costs = random.normal(0.5, 0.8, 12), random.uniform(0.2, 3.0, 12)
    most = float(random.uniform(0.1, 0.9) * costs.sum())
    limit = Limit(span=slice(0, 12), costs=torch.from_numpy(costs), most=most)
    found = project(torch.from_numpy(point), limit).numpy()
    solved = minimize(
        lambda x: ((x - point) ** 2).sum(),
        np.full(12, 0.5),
        jac=lambda x: 2 * (x - point),
        bounds=[(0, 1)] * 12,
        constraints={"type": "ineq", "fun": lambda x: most - costs @ x, "jac": lambda x: -costs},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found, solved.x, atol=2e-5)
    assert costs @ found <= most * (1 + 1e-12) and (found >= 0).all() and (found <= 1).all()
    inside = (found > 0) & (found < 1)
    multipliers = (point - found)[inside] / costs[inside]
    if costs @ point.clip(0, 1) > most:
        assert costs @ found == pytest.approx(most, rel=1e-12)
        assert np.ptp(multipliers) < 1e-9 and multipliers.min() >= 0
        multiplier = multipliers[0]
        assert (point[found == 0] <= multiplier * costs[found == 0] + 1e-9).all()
        assert (point[found == 1] >= 1 + multiplier * costs[found == 1] - 1e-9).all()
    else:
        np.testing.assert_array_equal(found, point.clip(0, 1))


@pytest.mark.parametrize(("most", "expected"), [(0.0, [0.0, 0.0, 0.0]), (3.0, [1.0, 1.0, 0.2]), (1.0, [1.0, 0.0, 0.0])])
def test_edges_of_a_budget(most: float, expected: list[float]) -> None:
    limit = Limit(span=slice(0, 3), costs=torch.ones(3, dtype=torch.float64), most=most)
    point = torch.tensor([9.0, 1.0, 0.2], dtype=torch.float64)
    assert project(point, limit).tolist() == pytest.approx(expected, abs=1e-12)


def test_limits_are_kept_each_on_its_own() -> None:
    ones = torch.ones(2, dtype=torch.float64)
    limits = (Limit(span=slice(0, 2), costs=ones, most=1.0), Limit(span=slice(2, 4), costs=ones, most=2.0))
    found = projected(torch.tensor([0.9, 0.7, 0.9, 0.7], dtype=torch.float64), limits)
    assert found.tolist() == pytest.approx([0.6, 0.4, 0.9, 0.7])
