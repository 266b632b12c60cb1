"""The committed grid says what the documents claim of it."""

from __future__ import annotations

from typing import Any

import pytest

SCRIPT = "methods_grid"
WIDTH_METHODS = ("random", "magnitude", "wanda_sp", "flap", "taylor", "obs", "modegpt_mlp", "prunenet")
RATIOS = (0.125, 0.25, 0.375, 0.5)


@pytest.fixture(scope="module")
def losses(raw: dict[str, Any]) -> dict[tuple[str, str, float], float]:
    """Uniform cells of stories260K by method, repair and ratio."""
    cells = [(row["cell"], row["loss_nats"]) for row in raw["rows"]]
    return {
        (cell["method"], cell["repair"], cell["ratio"]): loss
        for cell, loss in cells
        if cell["model"] == "stories260K" and cell["allocation"] == "uniform"
    }


def test_ridge_pays_for_every_width_method_at_every_ratio(losses: dict[tuple[str, str, float], float]) -> None:
    for method in WIDTH_METHODS:
        for ratio in RATIOS:
            assert losses[method, "ridge", ratio] < losses[method, "none", ratio], (method, ratio)


def test_second_order_selection_leads_but_at_the_smallest_ratio(
    losses: dict[tuple[str, str, float], float],
) -> None:
    """Level with the best there, ahead of all others above."""
    for ratio in RATIOS:
        others = [losses[method, "ridge", ratio] for method in WIDTH_METHODS if method != "obs"]
        ahead = min(others) - losses["obs", "ridge", ratio]
        assert ahead > (-0.01 if ratio == 0.125 else 0.01), ratio


def test_random_choice_with_repair_beats_every_choice_without(losses: dict[tuple[str, str, float], float]) -> None:
    assert all(losses["random", "ridge", 0.25] < losses[method, "none", 0.25] for method in WIDTH_METHODS)


def test_every_cell_kept_its_budget(raw: dict[str, Any]) -> None:
    """Width cells remove the asked share of the blocks' parameters, by less than one unit more."""
    for row in raw["rows"]:
        if row["cell"]["method"] in WIDTH_METHODS:
            over = row["params_blocks_ratio"] - row["cell"]["ratio"]
            assert -1e-9 <= over < 0.005, row["cell"]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("model", ["stories260K", "demo"])
def test_the_flagship_is_best_or_level_with_the_best(
    script: dict[str, Any], raw: dict[str, Any], model: str, ratio: float
) -> None:
    """Level: what its best seed is behind is less than its seeds are apart."""
    own = script["excess"](raw, script["FLAGSHIP"], model=model, ratio=ratio)
    arms = [arm for arm in script["arms"](raw, model) if arm != script["FLAGSHIP"]]
    others = [nats for arm in arms for nats in script["excess"](raw, arm, model=model, ratio=ratio)]
    assert len(own) == 3 and len(others) >= 20
    assert min(own) - min(others) <= max(0.0, max(own) - min(own))


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_search_finds_what_uniform_widths_miss(script: dict[str, Any], raw: dict[str, Any], ratio: float) -> None:
    """On the demo, whose four KV groups a layer are dear: at most a third of the same method's loss."""
    searched = script["excess"](raw, script["FLAGSHIP"], model="demo", ratio=ratio)
    (uniform,) = script["excess"](raw, ("obs", "ridge", "uniform"), model="demo", ratio=ratio)
    assert max(searched) < uniform / 3
