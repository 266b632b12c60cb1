"""The committed run of LayerChop says what the methods page and the log claim of it."""

from __future__ import annotations

from typing import Any

from compressors.catalogue import page

SCRIPT = "layer_chop"


def test_training_brings_back_what_place_alone_took(raw: dict[str, Any]) -> None:
    """Every arm loses by removal and wins by training, and none gets below the dense model."""
    for row in raw["rows"]:
        before, after = row["before"]["loss_nats"], row["after"]["loss_nats"]
        assert raw["dense"]["loss_nats"] < after < before
        assert 0 < row["after"]["js_nats"] < row["before"]["js_nats"] < 0.6931


def test_tokens_are_counted_and_layers_are_the_asked_share(raw: dict[str, Any]) -> None:
    assert {len(row["removed_layers"]) for row in raw["rows"]} == {2}
    assert len({row["trained_tokens"] for row in raw["rows"]}) == 1
    assert all(row["trained_tokens"] >= 25_000 for row in raw["rows"])
    ends = {tuple(row["settings"]): row["removed_layers"] for row in raw["rows"]}
    assert ends[("place=end",)] == [5, 6], "the last two but the final layer"


def test_the_methods_page_shows_the_row(raw: dict[str, Any]) -> None:
    for row in raw["rows"]:
        shown = f"{row['before']['loss_nats']:.3f} | {row['after']['loss_nats']:.3f}" in page()
        assert shown == (row["method"] == "layer_chop")
