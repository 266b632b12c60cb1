"""The committed record of served masks: half zeros, equal losses, and a conclusion that the ratios could overturn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from benchmarks import masked_serving, masked_serving_page
from benchmarks.equal_loss import Try, difference_interval, mean_nats, nearest_try
from benchmarks.masked_serving_page import DENSE, TOLERANCE_NATS, TWINS, judged_over_dense, judged_over_masks, variant
from benchmarks.masked_variants import BOUNDS, MASKS
from loadtest.power import MIN_BLOCKS

SCRIPT = "masked_serving"
ROOT = Path(__file__).resolve().parents[2]
NO_SPEED = "**No**: vLLM gains no speed from zeros."


def multiplied(raw: dict[str, Any], model: str, factor: float) -> dict[str, Any]:
    """The same run with one model faster by `factor` in every block."""
    for level in (level for run in raw["runs"] for level in run["levels"]):
        own = level["block_ratios"][model]
        level["block_ratios"][model] = {name: [factor * ratio for ratio in ratios] for name, ratios in own.items()}
    return raw


def test_half_of_the_weights_of_masks_are_zero_and_none_of_others(record: Any) -> None:
    raw = record.raw
    assert {each["name"] for each in raw["variants"]} == {DENSE, *TWINS, *TWINS.values()}
    for each in raw["variants"]:
        if each["name"] in TWINS:
            assert each["zeros"] == each["weights"] / 2
            assert each["pattern"] == (MASKS[each["name"]] or "unstructured")
        else:
            assert each["zeros"] < 1e-4 * each["weights"]


def test_masks_keep_parameters_and_bytes_and_twins_do_not(record: Any) -> None:
    raw = record.raw
    dense = variant(raw, DENSE)
    for mask, twin in TWINS.items():
        for name in ("params_total", "weights"):
            assert variant(raw, mask)[name] == dense[name] > variant(raw, twin)[name]
        assert variant(raw, mask)["file_bytes"] == pytest.approx(dense["file_bytes"], rel=1e-3)
        assert variant(raw, twin)["file_bytes"] < 0.8 * dense["file_bytes"]


def test_every_pair_lost_the_same(record: Any) -> None:
    raw = record.raw
    losses = {each["name"]: mean_nats(each["window_nats"], each["window_tokens"]) for each in raw["variants"]}
    for mask, twin in TWINS.items():
        assert losses[DENSE] + 0.05 < losses[mask] == pytest.approx(losses[twin], abs=TOLERANCE_NATS)
    assert "pairs are within 0.01 nats" in record.page
    worse = [nats * 1.1 for nats in variant(raw, "equal-50")["window_nats"]]
    variant(raw, "equal-50")["window_nats"] = worse
    assert "pairs are **not** all within 0.01 nats" in masked_serving_page.render(raw)


def test_what_is_said_follows_from_the_ratios(record: Any) -> None:
    masked = [each for each in judged_over_dense(record.raw) if each.model in TWINS]
    assert len(masked) == 10 and not [each for each in masked if each.verdict == "faster"]
    assert NO_SPEED in record.page
    faster = masked_serving_page.render(multiplied(record.raw, "sparse-2of4", 4.0))
    assert "**Yes**, by sparse-2of4 in tokens/s at 1" in faster and NO_SPEED not in faster
    none = masked_serving_page.render(multiplied(multiplied(record.raw, "equal-50", 0.5), "equal-2of4", 0.5))
    assert "**No**. equal-50 over dense lies above 1 in 0 of 5 ratios (*faster* in 0)" in none


def test_twins_are_ahead_of_masks_by_every_interval(record: Any) -> None:
    over_masks = judged_over_masks(record.raw)
    assert len(over_masks) == 10 and {each.side for each in over_masks} == {"above 1"}
    assert {each.side for each in judged_over_dense(record.raw) if each.model in TWINS} == {"contains 1"}


def test_the_documents_have_the_ratios(record: Any) -> None:
    over_dense = [each for each in judged_over_dense(record.raw) if each.where in ("tokens/s at 1", "tokens/s at 8")]
    spans = []
    for models in (TWINS, TWINS.values()):
        values = [each.estimate.value for each in over_dense if each.model in models]
        spans.append(f"{min(values):.2f} to {max(values):.2f} times")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"had {spans[0]} the dense tokens/s, and structured variants that lose as much {spans[1]}" in readme


def test_pairs_are_ratios_within_a_block(record: Any) -> None:
    raw = record.raw
    over_dense = {(each.model, each.where): each.estimate for each in judged_over_dense(raw)}
    for each in judged_over_masks(raw):
        expected = over_dense[each.model, each.where].value / over_dense[each.against, each.where].value
        assert each.estimate.value == pytest.approx(expected)
        assert each.estimate.n == len(raw["runs"]) * raw["blocks"] >= MIN_BLOCKS


def test_the_loads_are_those_of_the_script(record: Any) -> None:
    asked = [
        (load.name, load.workload.prompt_tokens, load.workload.output_tokens, level.concurrency)
        for load in masked_serving.LOADS
        for level in load.levels
    ]
    keys = ("load", "prompt_tokens", "output_tokens", "concurrency")
    for run in record.raw["runs"]:
        assert asked == [tuple(level[key] for key in keys) for level in run["levels"]]
    assert set(BOUNDS) == set(MASKS) == set(TWINS)


def test_runs_of_other_checkpoints_are_not_added(record: Any) -> None:
    variants = record.raw["variants"]
    served = {each["name"]: {"prunebench": {"fingerprint": each["fingerprint"]}} for each in variants}
    masked_serving.require_same(variants, served)
    for other in ({"prunebench": {"fingerprint": "another"}}, {}):
        with pytest.raises(ConfigError, match="sparse-50 is "):
            masked_serving.require_same(variants, served | {"sparse-50": other})


@pytest.mark.parametrize(
    ("wanted", "most", "ratio", "tries"), [(0.25, 9, 0.5, 1), (0.5, 9, 0.703125, 6), (1, 3, 0.875, 3)]
)
def test_a_search_ends_at_the_nearest_try(wanted: float, most: int, ratio: float, tries: int) -> None:
    """The loss is the ratio squared."""
    asked: list[float] = []

    def loss_of(ratio: float) -> float:
        asked.append(ratio)
        return ratio**2

    found = nearest_try(loss_of, wanted, (0.0, 1.0), 0.01, most)
    assert found == Try(ratio=ratio, loss_nats=ratio**2) and len(asked) == tries


def test_a_search_keeps_a_nearer_try_it_went_past() -> None:
    found = nearest_try(lambda ratio: 1.0 if ratio == 0.5 else 9.0, 1.1, (0.0, 1.0), 0.01, 4)
    assert found.ratio == 0.5


def test_differences_are_paired_by_window() -> None:
    """Windows differ by whole nats, the models by 0.1 and 0.3 a token."""
    tokens, hard = [100, 100], [1.0, 5.0]
    first = [100 * (nats + more) for nats, more in zip(hard, (0.1, 0.3), strict=True)]
    value, low, high = difference_interval(first, [100 * nats for nats in hard], tokens)
    assert value == pytest.approx(0.2)
    # Student's t of one degree of freedom at 97.5 % is tan(0.475 pi), and the standard error is 0.1.
    half = math.tan(0.475 * math.pi) * 0.1
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half))
    with pytest.raises(ValueError, match="one window"):
        difference_interval([1.0], [2.0], [3])
