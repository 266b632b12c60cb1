"""The committed run of LayerChop says what the methods page and the log claim of it."""

from __future__ import annotations

from typing import Any

from compressors.catalogue import page
from compressors.methods import REGISTRY

SCRIPT = "layer_chop"


def test_training_brings_back_what_place_alone_took(raw: dict[str, Any]) -> None:
    """Every arm loses by removal and wins by training, and none gets below the dense model."""
    for row in raw["rows"]:
        before, after = row["before"]["loss_nats"], row["after"]["loss_nats"]
        assert raw["dense"]["loss_nats"] < after < before
        assert all(0 < row[when]["js_nats"] < 0.6931 for when in ("before", "after"))


def test_spread_removals_cost_less_than_the_end(raw: dict[str, Any]) -> None:
    """Which is why they are the default; and training lowers the loss without bringing the dense predictions back."""
    rows = {tuple(row["settings"]): row for row in raw["rows"] if row["method"] == "layer_chop"}
    spread, end = rows[("place=interleaved",)], rows[("place=end",)]
    assert spread["before"]["loss_nats"] < end["before"]["loss_nats"] - 0.3
    assert REGISTRY.named("layer_chop").resolved_config["place"] == "interleaved"
    assert spread["after"]["js_nats"] > spread["before"]["js_nats"]


def test_tokens_are_counted_and_layers_are_the_asked_share(raw: dict[str, Any]) -> None:
    assert {len(row["removed_layers"]) for row in raw["rows"]} == {2}
    assert len({row["trained_tokens"] for row in raw["rows"]}) == 1
    assert all(row["trained_tokens"] >= 16_000 for row in raw["rows"])
    ends = {tuple(row["settings"]): row["removed_layers"] for row in raw["rows"]}
    assert ends[("place=end",)] == [5, 6], "the last two but the final layer"


def test_the_methods_page_shows_the_row(raw: dict[str, Any]) -> None:
    for row in raw["rows"]:
        shown = f"{row['before']['loss_nats']:.3f} | {row['after']['loss_nats']:.3f}" in page()
        assert shown == (row["method"] == "layer_chop")
