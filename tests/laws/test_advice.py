"""Does advice follow from the study? Made-up studies where the right answer is plain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from artifacts.errors import ConfigError
from artifacts.slo import parse_slo
from artifacts.study import CellRecord
from laws.studies.advice import Advice, Target, advise, choose, choose_level, front, parse_allowance
from laws.studies.candidates import Candidate, gather, quality_name
from laws.studies.comparison import analyse
from laws.studies.predictions import fit_time_share
from laws.studies.records import Study, on_hardware
from laws.studies.speeds import load_order, rate_of, speed_points
from tests.laws.synthetic import LEVEL, World, study_of

GIGA = 1_000_000_000
WORLD = World(
    models={"big": 4 * GIGA},
    methods=("random", "obs"),
    ratios=(0.1, 0.2, 0.3, 0.4, 0.6),
    seeds=(0, 1),
    modes=("paper", "serving"),
    noise=0.002,
    loss_factor=lambda method, r, d: 1 + (0.5 if method == "random" else 0.25) * r,
)


def answer(world: World, target: Target, extra: tuple[CellRecord, ...] = ()) -> Advice:
    study = study_of(world)
    whole = Study(study.folder, study.cells + extra, (), None)
    return advise(analyse(whole, on=quality_name(whole, target.on), replicates=100), target)


def test_the_fastest_within_the_allowance() -> None:
    """At most 5.5 % more loss: obs up to 0.2, random up to 0.1."""
    advice = answer(WORLD, Target(max_loss=0.055, relative=True))
    assert advice.recommended == "big obs 0.2"
    assert advice.level == LEVEL and advice.reference == "big"
    chosen = next(p for p in advice.candidates if p.candidate.name == advice.recommended)
    assert chosen.on_front and chosen.misses == ()
    assert chosen.candidate.speed == pytest.approx(1 / 0.9, rel=0.02)
    assert any("4 of 11 variants meet the target" in reason for reason in advice.reasons)


def test_relative_and_absolute_allowances_are_the_same_question() -> None:
    base = 2.5 - 0.1 * 0.60206
    relative, absolute = (
        answer(WORLD, target) for target in (Target(max_loss=0.055, relative=True), Target(max_loss=0.055 * base))
    )
    assert relative.recommended == absolute.recommended
    assert relative.max_rise == pytest.approx(absolute.max_rise, rel=1e-4)


def test_who_bounds_latency_alone_wants_quality() -> None:
    """40 ms a token when dense; 36 ms is reached from r = 0.2 on, and obs loses less there."""
    advice = answer(WORLD, Target(slo=parse_slo("tpot_p95<47ms")))
    assert advice.recommended == "big obs 0.2"
    assert answer(WORLD, Target(slo=parse_slo("tpot_p95<60ms"))).recommended == "big"


def test_a_limit_that_nobody_meets_recommends_nothing_and_says_who_is_near() -> None:
    advice = answer(WORLD, Target(slo=parse_slo("tpot_p95<1ms"), max_loss=10))
    assert advice.recommended is None
    assert advice.reasons[1].startswith("Nearest is ") and "allowed is 1 ms" in advice.reasons[1]


def test_a_percentile_that_was_not_measured_is_not_met() -> None:
    advice = answer(WORLD, Target(slo=parse_slo("tpot_p99<10s")))
    assert advice.recommended is None
    assert advice.candidates[0].misses == (f"tpot_p99_s was not measured at {LEVEL}",)


def test_a_smaller_dense_model_competes() -> None:
    """It loses 0.06 nats and is twice as fast: better than any pruned one within the allowance."""
    two = replace(WORLD, models={"big": 4 * GIGA, "small": GIGA})
    advice = answer(two, Target(max_loss=0.1))
    assert advice.recommended == "small"
    ahead = {p.candidate.name for p in advice.candidates if p.on_front}
    assert {"big", "small"} <= ahead and "big obs 0.2" not in ahead


def test_a_quantised_twin_competes() -> None:
    dense = study_of(WORLD).cells[0]
    speeds = tuple(
        row.model_copy(update={"speedup": 1.9, "low": 1.88, "high": 1.92, "value": row.base_value})
        for cell in study_of(WORLD).cells[1:2]
        for row in cell.speeds
    )
    losses = tuple(row.model_copy(update={"loss_nats": row.loss_nats + 0.01}) for row in dense.losses)
    twin = dense.model_copy(update={"cell": "big-fp8", "method": "fp8", "losses": losses, "speeds": speeds})
    assert answer(WORLD, Target(max_loss=0.1), (twin,)).recommended == "big fp8 0"


def test_a_slow_day_of_one_measurement_decides_nothing() -> None:
    """One cell was measured while all took ten times as long: ratios are paired, the rest is a median.

    Dense models have no speeds of their own here: they stand beside each of their variants.
    """
    two = replace(WORLD, models={"big": 4 * GIGA, "small": GIGA})
    cells = [cell.model_copy(update={"speeds": ()}) if cell.is_dense else cell for cell in study_of(two).cells]
    at = next(i for i, cell in enumerate(cells) if cell.model == "small" and cell.speeds and cell.ratio)
    slow = tuple(
        row.model_copy(update={"base_value": (row.base_value or 0) * 10, "value": (row.value or 0) * 10})
        for row in cells[at].speeds
    )
    cells[at] = cells[at].model_copy(update={"speeds": slow})
    field = gather(Study(study_of(two).folder, tuple(cells), (), None), LEVEL)
    small = next(c for c in field.candidates if c.name == "small")
    assert field.scales["small"] == small.speed == pytest.approx(2)
    assert small.latencies_s["tpot_p50_s"] == pytest.approx(0.02)


def test_another_tokenizer_is_left_out_with_the_reason() -> None:
    two = replace(WORLD, models={"big": 4 * GIGA, "other": GIGA})
    cells = tuple(
        cell.model_copy(update={"losses": tuple(row.model_copy(update={"tokens": 7}) for row in cell.losses)})
        if cell.model == "other"
        else cell
        for cell in study_of(two).cells
    )
    field = gather(Study(study_of(two).folder, cells, (), None), LEVEL)
    assert {c.model for c in field.candidates} == {"big"}
    assert "tokenizer" in field.left_out["other"]


def test_accuracy_is_lost_by_falling() -> None:
    world = replace(WORLD, tasks=("piqa",), accuracy_factor=lambda m, r, d: 1 - 0.5 * r)
    advice = answer(world, Target(max_loss=0.06, relative=True, on="piqa"))
    assert advice.unit == "accuracy"
    assert advice.recommended in {"big obs 0.1", "big random 0.1"}
    assert advice.predictions and all(0 < p.rise_low < p.rise < p.rise_high for p in advice.predictions)


def test_predictions_are_for_what_is_not_there_and_hold_the_truth() -> None:
    advice = answer(WORLD, Target(max_loss=0.1, relative=True))
    for prediction in advice.predictions:
        assert all(abs(prediction.ratio - built) > 0.02 for built in WORLD.ratios)
        true = (2.5 - 0.1 * 0.60206) * (0.5 if prediction.method == "random" else 0.25) * prediction.ratio
        assert prediction.rise_low < prediction.rise < prediction.rise_high
        if 0.1 < prediction.ratio < 0.6:
            assert prediction.rise == pytest.approx(true, abs=0.03)
        assert prediction.speed == pytest.approx(1 / (1 - 0.5 * prediction.ratio), rel=0.01)


def test_the_next_build_is_faster_than_what_there_is_and_within_the_allowance() -> None:
    """10 % allows obs 0.4; between 0.3 and 0.4 there is 0.35, which 9.2 % allows and nothing built uses."""
    advice = answer(WORLD, Target(max_loss=0.092, relative=True))
    assert advice.recommended == "big obs 0.3"
    assert advice.next_build is not None
    assert (advice.next_build.method, advice.next_build.ratio) == ("obs", 0.35)
    assert answer(WORLD, Target(max_loss=0.101, relative=True)).next_build is None


def candidate(name: str, speed: float, rise: float, doubt: float = 0.0) -> Candidate:
    return Candidate(
        name=name,
        model="m",
        method="x",
        ratio=0.1,
        recovery="none",
        recovery_tokens=0,
        params=1,
        quality=rise,
        rise=rise,
        rise_low=rise - doubt,
        rise_high=rise + doubt,
        speed=speed,
        speed_low=speed - doubt,
        speed_high=speed + doubt,
        requests_per_s=None,
        latencies_s={},
        cells=(),
    )


def test_of_those_not_told_apart_the_other_axis_decides() -> None:
    rows = [candidate("a", 2.0, 0.5), candidate("b", 1.95, 0.1), candidate("c", 1.0, 0.0)]
    assert choose(rows, by_speed=True) == rows[0]
    assert choose(rows, by_speed=False) == rows[2]
    doubtful = [candidate(r.name, r.speed, r.rise, 0.06) for r in rows]
    assert choose(doubtful, by_speed=True) == doubtful[1]
    assert choose(doubtful, by_speed=False) == doubtful[1]
    assert choose([], by_speed=True) is None


def test_the_front_holds_whom_nobody_beats() -> None:
    rows = [candidate("a", 2.0, 0.5), candidate("b", 1.5, 0.5), candidate("c", 1.0, 0.1), candidate("d", 0.9, 0.2)]
    assert front(rows) == {"a", "c"}


@pytest.mark.parametrize(("text", "found"), [("0.1", (0.1, False)), ("5%", (0.05, True)), (" 5 %", (0.05, True))])
def test_allowances(text: str, found: tuple[float, bool]) -> None:
    assert parse_allowance(text) == found


@pytest.mark.parametrize("text", ["", "-1", "a", "5%%", "1.2.3", "5 nats"])
def test_allowances_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-loss"):
        parse_allowance(text)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(), "Nothing is asked for"),
        (Target(rate_per_s=9.0), "highest rate is rate 8/s"),
        (Target(max_loss=1, level="rate 1/s"), "no level 'rate 1/s'. It has"),
        (Target(max_loss=1, on="c4"), "no quality on 'c4'. It has wikitext2"),
        (Target(max_loss=1, reference="x"), "no model 'x'. It has big"),
    ],
)
def test_what_the_study_has_not_is_named(target: Target, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        answer(replace(WORLD, ratios=(0.1, 0.3), methods=("obs",)), target)


def test_without_speeds_there_is_no_advice() -> None:
    with pytest.raises(ConfigError, match="no speeds"):
        answer(replace(WORLD, modes=()), Target(max_loss=1))


def test_rates_choose_the_lowest_level_that_is_enough() -> None:
    study = study_of(WORLD)
    assert choose_level(study, Target(rate_per_s=3.0)) == LEVEL
    closed = study_of(replace(WORLD, modes=("paper",)))
    assert choose_level(closed, Target(rate_per_s=3.0)) == "forward 1x2048"
    advice = answer(replace(WORLD, modes=("paper",)), Target(rate_per_s=3.0))
    assert advice.recommended is None and "an unknown rate" in advice.candidates[0].misses[0]


def test_hardware_narrows_the_speeds() -> None:
    study = study_of(WORLD)
    assert on_hardware(study, "a processor").speeds == study.speeds
    assert on_hardware(study, None) is study
    with pytest.raises(ConfigError, match="No speed was measured on 'H200', but on A processor"):
        on_hardware(study, "H200")


def test_levels_are_ordered_by_load() -> None:
    levels = ["rate 8/s", "poisson 2/s", "concurrency 16", "concurrency 4", "forward 1x2048"]
    assert sorted(levels, key=load_order) == [
        "concurrency 4",
        "concurrency 16",
        "forward 1x2048",
        "poisson 2/s",
        "rate 8/s",
    ]
    assert [rate_of(level) for level in levels] == [8, 2, None, None, None]


def test_time_share_is_found_from_speed_ups() -> None:
    points = [point for point in speed_points(study_of(WORLD)) if point.at.mode == "paper" and point.method == "obs"]
    share = fit_time_share(points)
    assert share is not None
    assert share.fit.parameter("f").value == pytest.approx(0.5, abs=0.01)
    assert fit_time_share(points[:1]) is None
