"""What was planted comes back: from exact times exactly, from noisy ones as close as an order-keeping table can be."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import fmean

import pytest

from artifacts.errors import ConfigError
from artifacts.latency import DecodeShape, HalfUnit, LatencyEntry, LatencyTable, ShapeTiming
from laws.decode_law import (
    Ladder,
    default_widths,
    require_widths,
    shapes_to_measure,
    solve,
    uneven_shapes,
)

LADDER = Ladder(layers=6, kv_groups=(1, 2, 4), ffn_channels=(16, 32, 48))
FIXED_S = 0.5
PLANTED: dict[HalfUnit, dict[int, float]] = {
    "kv": {0: 0.0, 1: 0.25, 2: 0.375, 4: 1.0},
    "ffn": {0: 0.0, 16: 0.5, 32: 0.75, 48: 2.0},
}


def true_step_s(shape: DecodeShape) -> float:
    """Sums of binary fractions, so that recovering them is exact."""
    halves = (("kv", shape.kv_groups), ("ffn", shape.ffn_channels))
    return FIXED_S + sum(PLANTED[unit][count] for unit, counts in halves for count in counts)  # type: ignore[index]


def measured_with(step_s: Callable[[DecodeShape], float], ladder: Ladder = LADDER) -> list[ShapeTiming]:
    return [ShapeTiming(shape=shape, steps_s=(step_s(shape),)) for shape in shapes_to_measure(ladder)]


def table_of(timings: list[ShapeTiming], checks: tuple[ShapeTiming, ...] = ()) -> LatencyTable:
    fixed_s, entries = solve(LADDER, timings)
    return LatencyTable(
        model="planted",
        engine="none",
        hardware="none",
        batch=1,
        context_tokens=64,
        fixed_s=fixed_s,
        entries=entries,
        measured=tuple(timings),
        checks=checks,
    )


def test_planted_seconds_come_back_exactly() -> None:
    fixed_s, entries = solve(LADDER, measured_with(true_step_s))
    assert fixed_s == pytest.approx(FIXED_S, abs=1e-14)
    found = {(entry.unit, entry.count): entry.seconds for entry in entries}
    expected = {(unit, count): s for unit, widths in PLANTED.items() for count, s in widths.items() if count}
    assert found == pytest.approx(expected, abs=1e-14)
    assert [entry.unpooled_s for entry in entries] == pytest.approx([entry.seconds for entry in entries])


def test_an_additive_engine_is_predicted_in_shapes_that_were_not_measured() -> None:
    checks = tuple(ShapeTiming(shape=s, steps_s=(true_step_s(s),)) for s in uneven_shapes(LADDER, 20))
    table = table_of(measured_with(true_step_s), checks)
    assert table.errors == pytest.approx([0.0] * 20, abs=1e-13)
    slower = tuple(check.model_copy(update={"steps_s": (check.seconds * 1.25,)}) for check in checks)
    assert table_of(measured_with(true_step_s), slower).errors == pytest.approx([-0.2] * 20)
    assert table_of(measured_with(true_step_s)).errors == ()


@pytest.mark.parametrize("seed", range(20))
def test_noise_never_makes_a_narrower_half_slower(seed: int) -> None:
    """Noise of half a step: every entry is valid, and as many as were out of order have moved."""
    draw = Random(seed)
    table = table_of(measured_with(lambda shape: true_step_s(shape) + draw.uniform(-4, 4)))
    for unit in ("kv", "ffn"):
        entries = [entry for entry in table.entries if entry.unit == unit]
        seconds = [entry.seconds for entry in entries]
        assert seconds == sorted(seconds) and min(seconds) >= 0
        unpooled = [entry.unpooled_s or 0.0 for entry in entries]
        in_order = unpooled == sorted(unpooled) and min(unpooled) >= 0 and (unit == "ffn" or table.fixed_s > 1e-9)
        assert (seconds == pytest.approx(unpooled)) == in_order
    assert table.fixed_s >= 0


def test_violators_share_their_mean_and_the_move_is_told() -> None:
    """FFN widths 16 and 32 measured in the wrong order, 0.75 and 0.5 s a layer: both become 0.625 s."""
    swapped = {16: 0.75, 32: 0.5, 48: 2.0, 0: 0.0}

    def step_s(shape: DecodeShape) -> float:
        halves_s = [swapped[width] - PLANTED["ffn"][width] for width in shape.ffn_channels]
        return true_step_s(shape) + sum(halves_s)

    table = table_of(measured_with(step_s))
    ffn = {entry.count: entry for entry in table.entries if entry.unit == "ffn"}
    assert [ffn[count].seconds for count in (16, 32, 48)] == pytest.approx([0.625, 0.625, 2.0])
    assert [ffn[count].unpooled_s for count in (16, 32)] == pytest.approx([0.75, 0.5])
    assert table.pooled_s == pytest.approx(0.125)


def test_a_half_that_measures_cheaper_than_nothing_costs_nothing() -> None:
    def step_s(shape: DecodeShape) -> float:
        return true_step_s(shape) - 6 * (shape.ffn_channels == (16,) * 6)

    table = table_of(measured_with(step_s))
    entry = next(entry for entry in table.entries if (entry.unit, entry.count) == ("ffn", 16))
    assert (entry.seconds, entry.unpooled_s) == (0.0, pytest.approx(-0.5))
    assert table.pooled_s == pytest.approx(0.5)


@pytest.mark.parametrize(("sparse_s", "kv_s", "fixed_s"), [(0.0, 6.5 / 6, 0.0), (100.0, 0.0, 6.5)])
def test_the_engine_itself_and_attention_never_cost_less_than_nothing(
    sparse_s: float, kv_s: float, fixed_s: float
) -> None:
    """Without an FFN the step takes 6.5 s; attention can be no more of it than all, and no less than nothing."""

    def step_s(shape: DecodeShape) -> float:
        return sparse_s if 0 in shape.kv_groups else true_step_s(shape)

    table = table_of(measured_with(step_s))
    assert (table.seconds("kv", 4), table.fixed_s) == (pytest.approx(kv_s), pytest.approx(fixed_s))
    assert table.step_s(LADDER.shape()) == pytest.approx(true_step_s(LADDER.shape()))
    assert table.pooled_s > 1


def test_the_full_shape_counts_as_the_mean_of_both_its_timings() -> None:
    timings = measured_with(true_step_s)
    timings[-1] = timings[-1].model_copy(update={"steps_s": (timings[0].seconds * 1.1,)})
    table = table_of(timings)
    assert table.drift == pytest.approx(0.1)
    full = fmean((timings[0].seconds, timings[-1].seconds))
    assert table.step_s(LADDER.shape()) == pytest.approx(full)
    assert LatencyTable.parse({**table.model_dump(), "measured": []}, "table").drift is None


def test_the_shapes_are_those_that_tell_the_terms_apart() -> None:
    shapes = shapes_to_measure(LADDER)
    assert shapes[0] == shapes[-1] == DecodeShape(kv_groups=(4,) * 6, ffn_channels=(48,) * 6)
    assert len(set(shapes)) == len(shapes) - 1 == 1 + 2 + 2 + 2
    assert DecodeShape(kv_groups=(4, 0, 0, 0, 0, 0), ffn_channels=(48,) * 6) in shapes
    assert DecodeShape(kv_groups=(4,) * 6, ffn_channels=(0,) * 6) in shapes
    with pytest.raises(ConfigError, match="one layer"):
        shapes_to_measure(Ladder(layers=1, kv_groups=(4,), ffn_channels=(48,)))


def test_uneven_shapes_are_reproducible_differ_and_can_be_served() -> None:
    shapes = uneven_shapes(LADDER, 8)
    assert shapes == uneven_shapes(LADDER, 8) and len(set(shapes)) == 8
    for shape in shapes:
        assert shape.kv_groups[0] > 0 and shape.layers == 6
        assert set(shape.kv_groups) <= {0, 1, 2, 4} and set(shape.ffn_channels) <= {0, 16, 32, 48}
    assert any(0 in shape.kv_groups for shape in shapes) and any(0 in shape.ffn_channels for shape in shapes)
    assert max(len(set(shape.ffn_channels)) for shape in shapes) > 2


@pytest.mark.parametrize(
    ("unit", "dense", "multiple_of", "widths"),
    [
        ("ffn", 768, 1, (192, 288, 384, 480, 576, 672, 768)),
        ("ffn", 11008, 128, (2816, 4096, 5504, 6912, 8192, 9600, 11008)),
        ("ffn", 4864, 128, (1280, 1792, 2432, 3072, 3584, 4224, 4864)),
        ("kv", 4, 1, (1, 2, 3, 4)),
        ("kv", 8, 1, (1, 2, 3, 4, 5, 6, 7, 8)),
        ("kv", 32, 1, (4, 8, 12, 16, 20, 24, 28, 32)),
        ("kv", 1, 1, (1,)),
        ("ffn", 3, 1, (1, 2, 3)),
    ],
)
def test_default_widths(unit: HalfUnit, dense: int, multiple_of: int, widths: tuple[int, ...]) -> None:
    assert default_widths(unit, dense, multiple_of) == widths


def test_asked_widths_are_ordered_and_include_the_dense_one() -> None:
    assert require_widths("ffn", (32, 16, 32), 48) == (16, 32, 48)
    for wrong in (0, -1, 49):
        with pytest.raises(ConfigError, match=f"width of {wrong} units of ffn .* allowed are 1 to 48"):
            require_widths("ffn", (16, wrong), 48)


def test_the_least_disturbed_repeat_counts() -> None:
    timing = ShapeTiming(shape=LADDER.shape(), steps_s=(2.0, 1.0, 9.0, 2.5, 2.25))
    assert (timing.seconds, timing.spread) == (1.0, pytest.approx(8.0))
    assert LatencyEntry(unit="kv", count=1, seconds=0.0).unpooled_s is None
