"""A mask has exactly the zeros that were asked for, where the scores are lowest."""

from __future__ import annotations

import pytest
import torch

from artifacts.errors import ConfigError
from compressors.masks import Pattern, group_mask, lowest, matrix_mask, parse_pattern, row_mask


def scores_of(rows: int = 13, columns: int = 24) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("share", [0.0, 0.01, 1 / 3, 0.5, 0.7, 0.9, 0.999])
def test_matrix_and_rows_have_the_same_exact_count(share: float) -> None:
    scores, pattern = scores_of(), Pattern(share)
    whole, rows = matrix_mask(scores, pattern), row_mask(scores, pattern)
    asked = int(share * scores.numel() + 0.5)
    assert int(whole.sum()) == int(rows.sum()) == asked
    per_row = rows.sum(dim=1)
    assert int(per_row.max() - per_row.min()) <= 1, "rows differ by one at most"


def test_the_lowest_go() -> None:
    scores = scores_of()
    gone = matrix_mask(scores, Pattern(0.6))
    assert float(scores[gone].max()) < float(scores[~gone].min())
    for row, mask in zip(scores, row_mask(scores, Pattern(0.6)), strict=True):
        assert float(row[mask].max()) < float(row[~mask].min())


@pytest.mark.parametrize(
    ("text", "ratio", "zeros", "group"), [("2:4", 0.5, 2, 4), ("3:4", 0.75, 3, 4), ("1:3", 0.333, 1, 3)]
)
def test_every_group_has_its_zeros_where_they_are_lowest(text: str, ratio: float, zeros: int, group: int) -> None:
    pattern, scores = parse_pattern(text, ratio), scores_of()
    assert (pattern.zeros, pattern.group, pattern.name) == (zeros, group, text)
    for mask in (matrix_mask(scores, pattern), row_mask(scores, pattern), group_mask(scores, pattern)):
        groups = mask.view(-1, group)
        assert bool((groups.sum(dim=1) == zeros).all())
        for values, gone in zip(scores.view(-1, group), groups, strict=True):
            assert float(values[gone].max()) < float(values[~gone].min())


def test_equal_scores_go_in_order_of_place() -> None:
    assert lowest(torch.zeros(2, 3), 2).tolist() == [[True, True, False], [False, False, False]]
    assert group_mask(torch.zeros(1, 4), Pattern(0.5, 4)).tolist() == [[True, True, False, False]]


def test_quotas_of_neighbours_add_up() -> None:
    pattern = Pattern(0.7)
    pieces = [pattern.quota(first, min(first + 37, 1000)) for first in range(0, 1000, 37)]
    assert sum(pieces) == pattern.quota(0, 1000) == 700


@pytest.mark.parametrize(
    ("text", "ratio", "sentence"),
    [
        ("2:4", 0.4, "makes 0.5 of the weights zero, but ratio is 0.4"),
        ("4:4", 0.5, "is not n:m with n below m"),
        ("0:4", 0.5, "is not n:m"),
        ("half", 0.5, "Give n zeros in m weights, as in 2:4"),
    ],
)
def test_what_is_no_pattern_is_refused(text: str, ratio: float, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_pattern(text, ratio)


def test_nothing_asked_is_nothing_whatever_the_pattern() -> None:
    assert parse_pattern("2:4", 0.0) == parse_pattern(None, 0.0) == Pattern(0.0)
    assert not bool(matrix_mask(scores_of(), Pattern(0.0)).any())
