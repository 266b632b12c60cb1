"""The committed record of masks says what the project claims of them."""

from __future__ import annotations

import copy
from statistics import fmean
from typing import Any

import pytest

SCRIPT = "sparse_masks"


def nats(script: dict[str, Any], raw: dict[str, Any], model: str, arm: str, pattern: str) -> float:
    return fmean(script["render"].__globals__["losses"](raw, model, arm, pattern))


@pytest.fixture
def page(script: dict[str, Any]) -> dict[str, Any]:
    """The page module's functions."""
    return script["render"].__globals__


def test_every_cell_has_the_zeros_that_were_asked_for(raw: dict[str, Any], page: dict[str, Any]) -> None:
    for cell in raw["cells"]:
        share = page["PATTERNS"][cell["pattern"]]
        if page["ARMS"][cell["arm"]][1].get("rows") == "floor":
            assert share - 0.02 < cell["zeros"] <= share
        else:
            assert cell["zeros"] == pytest.approx(share, abs=1e-4)


def test_every_cell_is_there_once(raw: dict[str, Any]) -> None:
    keys = [(cell["model"], cell["arm"], cell["pattern"], cell["seed"]) for cell in raw["cells"]]
    assert len(set(keys)) == len(keys)


def test_sparsellm_is_under_the_authors_code_and_under_sparsegpt(
    script: dict[str, Any], raw: dict[str, Any], page: dict[str, Any]
) -> None:
    """Wherever it was measured on the model that they were."""
    dense = raw["models"]["stories260K"]["loss_nats"]
    published = dict(zip(page["PATTERNS"], page["REFERENCES"]["sparsellm"], strict=True))
    measured = {
        cell["pattern"] for cell in raw["cells"] if (cell["model"], cell["arm"]) == ("stories260K", "sparsellm")
    }
    assert measured
    for pattern in measured:
        ours = nats(script, raw, "stories260K", "sparsellm", pattern)
        assert ours - dense < published[pattern] - page["REFERENCE_DENSE"]
        assert ours < nats(script, raw, "stories260K", "SparseGPT", pattern)


def test_sparsellm_takes_at_most_ten_times_as_long_as_sparsegpt(raw: dict[str, Any], page: dict[str, Any]) -> None:
    ratios = [page["time_ratio"](raw, model) for model in raw["models"]]
    measured = [ratio for ratio in ratios if ratio is not None]
    assert measured and all(1 < ratio <= 10 for ratio in measured)


def test_a_missing_or_worse_cell_is_a_miss(raw: dict[str, Any], page: dict[str, Any]) -> None:
    before = page["misses"](raw)
    assert "sparsellm at 50 %" not in before
    worse, fewer = copy.deepcopy(raw), copy.deepcopy(raw)
    for cell in worse["cells"]:
        if (cell["model"], cell["arm"], cell["pattern"]) == ("stories260K", "sparsellm", "50 %"):
            cell["loss_nats"] += 5
    fewer["cells"] = [cell for cell in raw["cells"] if cell["arm"] != "sparsellm"]
    assert any(miss.startswith("sparsellm at 50 %") for miss in page["misses"](worse))
    assert "sparsellm at 50 %" in page["misses"](fewer)


def test_the_page_says_that_nothing_gets_faster(script: dict[str, Any], raw: dict[str, Any]) -> None:
    assert "**no engine here computes a masked checkpoint faster**" in script["render"](raw)
