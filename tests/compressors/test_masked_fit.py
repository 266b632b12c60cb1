"""A sweep makes zeros where others make good for them; where the optimum is known it is found."""

from __future__ import annotations

import itertools

import pytest
import torch

from artifacts.errors import CompressionError
from compressors.masked_fit import BLOCK_COLUMNS, Hessian
from compressors.masks import Pattern, matrix_mask

PATTERNS = [Pattern(0.3), Pattern(0.5), Pattern(0.9), Pattern(0.5, 4), Pattern(0.75, 4), Pattern(1 / 3, 3)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int, columns: int) -> torch.Tensor:
    return draw(tokens, columns) @ (torch.eye(columns, dtype=torch.float64) + 0.5 * draw(columns, columns, seed=1))


def error(inputs: torch.Tensor, weights: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((inputs @ (weights - wanted).T).square().sum())


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: f"{pattern.name}-{pattern.share:.2f}")
@pytest.mark.parametrize("columns", [24, 3 * BLOCK_COLUMNS + 24])
def test_zeros_are_exactly_those_asked_for(pattern: Pattern, columns: int) -> None:
    inputs, weights = correlated(600, columns), draw(17, columns, seed=2)
    swept = Hessian(inputs.T @ inputs, 0.01).sweep(weights, pattern)
    gone = swept == 0
    assert int(gone.sum()) == pattern.quota(0, weights.numel())
    if pattern.group is not None:
        assert bool((gone.view(17, -1, pattern.group).sum(dim=2) == pattern.zeros).all())


@pytest.mark.parametrize("columns", [48, BLOCK_COLUMNS + 52])
def test_a_sweep_loses_less_than_its_own_mask_without_making_good(columns: int) -> None:
    inputs, weights = correlated(2000, columns), draw(30, columns, seed=3)
    for pattern in PATTERNS:
        swept = Hessian(inputs.T @ inputs, 1e-6).sweep(weights, pattern)
        assert error(inputs, swept, weights) < error(inputs, weights.masked_fill(swept == 0, 0.0), weights)


def test_uncorrelated_inputs_leave_nothing_to_make_good() -> None:
    """Then the cheapest weights are those of least magnitude times norm, and the others stay as they are."""
    inputs = torch.linalg.qr(draw(200, 12))[0] * torch.linspace(0.5, 2, 12, dtype=torch.float64)
    weights = draw(9, 12, seed=4)
    swept = Hessian(inputs.T @ inputs, 1e-12).sweep(weights, Pattern(0.5))
    mask = matrix_mask(weights.abs() * inputs.norm(dim=0), Pattern(0.5))
    assert torch.allclose(swept, weights.masked_fill(mask, 0.0), atol=1e-9)


def test_a_twin_takes_over_exactly() -> None:
    """Columns 0 and 5 always read the same: all of one can go without loss, and nothing else can."""
    inputs = draw(300, 6)
    inputs[:, 5] = inputs[:, 0]
    weights = draw(8, 6, seed=5) + 3.0
    swept = Hessian(inputs.T @ inputs, 1e-9).sweep(weights, Pattern(1 / 6))
    assert bool((swept[:, 0] == 0).all())
    assert torch.allclose(swept[:, 5], weights[:, 0] + weights[:, 5], atol=1e-4)
    assert error(inputs, swept, weights) < 1e-6


def test_one_zero_per_row_is_the_best_one() -> None:
    """With one zero in a row's only group the surgeon's formula is exact: compare with trying all.

    The step goes to later columns alone, so the comparison is with refits of what stands behind the zero.
    """
    inputs, weights = correlated(500, 4), draw(40, 4, seed=6)
    gram = inputs.T @ inputs
    swept = Hessian(gram, 1e-9).sweep(weights, Pattern(0.25, 4))
    for row, found in zip(weights, swept, strict=True):
        tried = [_refitted_behind(gram, row, column) for column in range(4)]
        best = min(range(4), key=lambda column: float(_loss(gram, tried[column] - row)))
        assert int((found == 0).nonzero()) == best
        assert torch.allclose(found, tried[best], atol=1e-6)


def _refitted_behind(gram: torch.Tensor, row: torch.Tensor, column: int) -> torch.Tensor:
    tried, behind = row.clone(), slice(column + 1, None)
    tried[column] = 0.0
    if column + 1 < len(row):
        tried[behind] += torch.linalg.solve(gram[behind, behind], gram[behind, column]) * row[column]
    return tried


def _loss(gram: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
    return difference @ gram @ difference


def test_a_planted_mask_is_found() -> None:
    """The wanted output comes from a sparse matrix; from its dense least-squares copy the sweep returns to it."""
    inputs, planted = correlated(4000, 20), draw(15, 20, seed=7) + 2.0
    planted[matrix_mask(draw(15, 20, seed=8), Pattern(0.6))] = 0.0
    wanted = inputs @ planted.T
    hessian = Hessian(inputs.T @ inputs, 1e-9)
    optimum = hessian.solve(wanted.T @ inputs, torch.zeros_like(planted))
    assert torch.allclose(optimum, planted, atol=1e-5)
    swept = hessian.sweep(optimum, Pattern(0.6))
    assert torch.equal(swept == 0, planted == 0) and torch.allclose(swept, planted, atol=1e-5)


def test_columns_without_signal_go_first_and_otherwise_stay() -> None:
    inputs, weights = correlated(300, 10), 5 + draw(6, 10, seed=9).abs()
    inputs[:, [2, 7]] = 0.0
    swept = Hessian(inputs.T @ inputs, 0.01).sweep(weights, Pattern(0.2))
    assert bool((swept[:, [2, 7]] == 0).all()) and int((swept == 0).sum()) == 12
    some = Hessian(inputs.T @ inputs, 0.01).sweep(weights, Pattern(0.1))
    kept = some[:, [2, 7]] != 0
    assert int(kept.sum()) == 6 and torch.equal(some[:, [2, 7]][kept], weights[:, [2, 7]][kept])


def test_inputs_that_are_all_zero_leave_magnitudes_to_go_by() -> None:
    weights = draw(5, 8, seed=10)
    swept = Hessian(torch.zeros(8, 8, dtype=torch.float64), 0.01).sweep(weights, Pattern(0.5))
    assert int((swept == 0).sum()) == 20


def test_damaged_activations_are_refused() -> None:
    gram = torch.eye(4, dtype=torch.float64)
    gram[1, 1] = torch.nan
    with pytest.raises(CompressionError, match="not finite"):
        Hessian(gram, 0.01)


def test_every_pair_of_patterns_at_equal_share_has_equal_counts() -> None:
    inputs, weights = correlated(300, 16), draw(12, 16, seed=11)
    hessian = Hessian(inputs.T @ inputs, 0.01)
    for free, grouped in itertools.pairwise([Pattern(0.5), Pattern(0.5, 4), Pattern(0.5, 8)]):
        assert int((hessian.sweep(weights, free) == 0).sum()) == int((hessian.sweep(weights, grouped) == 0).sum())
