"""Do the claims' verdicts say what is so? Each claim in a world where it holds and in one where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from laws.claims.catalogue import CLAIMS
from laws.claims.claim import Claim, Measurement, Number, Range, Verdict, judge
from laws.claims.law_claims import seen_critical_ratio
from laws.claims.recovery_claims import gains_of
from laws.claims.score_claims import knees_of
from laws.studies.comparison import Analysis, analyse
from laws.studies.records import MEAN_OF_TASKS, Study
from laws.studies.samples import Scope
from tests.laws.synthetic import World, analysis_of, cells_of_world, study_of

BY_ID = {claim.id: claim for claim in CLAIMS}
GIGA = 1_000_000_000
LAW = World(models={"m": 2 * GIGA, "n": 8 * GIGA}, methods=("random",), budgets=(0, 25_000_000), noise=0.01)
TASKS = replace(LAW, tasks=("piqa", "arc_easy"))
SIZES = {"a": GIGA // 2, "b": 3 * GIGA, "c": 7 * GIGA, "d": 14 * GIGA}
SPEED = World(models=SIZES, methods=("random",), seeds=(0,), modes=("paper", "serving"), noise=0.001, sets=())


def falls(power: float) -> Callable[[str, float, float], float]:
    return lambda method, r, d: (1 + r) ** power


def collapse(method: str, r: float, d: float) -> float:
    """Flat up to 0.7, then down to nothing much."""
    return 1 - 0.1 * r - 3 * max(0.0, r - 0.7)


def gain(at_most: float) -> Callable[[str, float, float], float]:
    """Recovery takes at most this share of the loss away at r = 0.9."""
    return lambda method, r, d: (1 + r) ** 2 * (1 - (at_most * r / 0.9 if d else 0))


def kept(without: float, recovered: float) -> Callable[[str, float, float], float]:
    return lambda method, r, d: recovered if d else without


HOLDS: dict[str, World] = {
    "C1": LAW,
    "C2": TASKS,
    "C3": replace(LAW, loss_factor=gain(0.5)),
    "C4": replace(TASKS, accuracy_factor=kept(0.57, 0.84)),
    "C5": replace(SPEED, speed_gain=lambda n, r: 1 + 0.8 * r),
    "C6": replace(SPEED, speed_gain=lambda n, r: 1 + 0.3 * r),
    "C7": replace(SPEED, speed_gain=lambda n, r: 1 / (1 - 0.24 - 0.1 * (r - 0.5))),
    "C8": replace(SPEED, speed_gain=lambda n, r: 1 + r * n / (20 * GIGA)),
    "C9": replace(SPEED, tasks=("piqa",), speed_gain=lambda n, r: 1 + 2 * r, accuracy_factor=kept(0.8, 0.8)),
    "C10": replace(SPEED, tasks=("piqa",), accuracy_factor=kept(0.5, 0.5)),
    "C12": TASKS,
    "C13": TASKS,
    "C14": replace(LAW, budgets=(0,), loss_factor=lambda m, r, d: (1 - r) ** -0.6),
    "C16": replace(TASKS, budgets=(0,), accuracy_factor=collapse, loss_factor=lambda m, r, d: 1 / collapse(m, r, d)),
}
FAILS: dict[str, World] = {
    "C1": replace(LAW, loss_factor=falls(0.8)),
    "C2": replace(TASKS, accuracy_factor=falls(-2.5)),
    "C3": replace(LAW, loss_factor=gain(0.1)),
    "C4": replace(TASKS, accuracy_factor=kept(0.9, 0.95)),
    "C5": replace(SPEED, speed_gain=lambda n, r: 1 + 0.3 * r),
    "C6": replace(SPEED, speed_gain=lambda n, r: 1 + r),
    "C7": replace(SPEED, speed_gain=lambda n, r: 1 + 2 * r),
    "C8": replace(SPEED, speed_gain=lambda n, r: 1 + r * GIGA / n),
    "C9": replace(SPEED, tasks=("piqa",), speed_gain=lambda n, r: 1.2, accuracy_factor=kept(0.5, 0.5)),
    "C10": replace(SPEED, tasks=("piqa",), accuracy_factor=kept(1.0, 1.0), removed=0.2),
    "C12": replace(LAW, noise=0.3),
    "C13": replace(TASKS, accuracy_factor=lambda m, r, d: 0.75 if r > 0.15 else 0.95),
    "C14": replace(LAW, budgets=(0,), loss_factor=lambda m, r, d: (1 + r) ** 2),
    "C16": replace(TASKS, budgets=(0,), accuracy_factor=falls(-2), loss_factor=falls(2)),
}


def verdicts(claim: str, world: World) -> tuple[Verdict, ...]:
    return judge(BY_ID[claim], analysis_of(world, replicates=60))


@cache
def poor() -> Analysis:
    return analysis_of(World(models={"m": GIGA}, methods=("random",), ratios=(0.3,), seeds=(0,)), replicates=0)


@cache
def where_it_holds(claim: str) -> tuple[Verdict, ...]:
    """All that is asked of a claim where no world is named."""
    return verdicts(claim, HOLDS.get(claim, TASKS))


@pytest.mark.parametrize("claim", HOLDS)
def test_a_claim_that_holds_is_supported(claim: str) -> None:
    found = where_it_holds(claim)
    assert {(v.verdict, v.certainty) for v in found} == {("supported", "clear")}, [v.numbers for v in found]


@pytest.mark.parametrize("claim", FAILS)
def test_a_claim_that_does_not_hold_is_refuted(claim: str) -> None:
    found = verdicts(claim, FAILS[claim])
    assert {v.verdict for v in found} == {"not supported"}, [v.numbers for v in found]
    assert "refuted" in {v.certainty for v in found}, [v.numbers for v in found]


@pytest.mark.parametrize("claim", BY_ID)
def test_a_verdict_says_with_what_on_what_and_from_where(claim: str) -> None:
    for verdict in where_it_holds(claim):
        if verdict.verdict == "not testable here":
            assert verdict.reason
            continue
        assert verdict.numbers and all(number.n > 0 for number in verdict.numbers)
        assert verdict.conditions and verdict.cells and verdict.threshold
        assert verdict.measured_on == "A processor, 2 cores; commit 0123456789ab"


@pytest.mark.parametrize("claim", BY_ID)
def test_what_a_study_lacks_is_not_testable(claim: str) -> None:
    """One ratio, no tasks, no speeds, no recovery."""
    (verdict,) = judge(BY_ID[claim], poor())
    assert (verdict.verdict, verdict.certainty) == ("not testable here", "none")
    assert verdict.reason.startswith("Needs ")


def test_a_claim_about_a_large_model_is_measured_but_not_judged_on_a_small_one() -> None:
    for verdict in verdicts("C5", replace(SPEED, models={"a": GIGA, "b": 7 * GIGA})):
        assert verdict.verdict == "not testable here" and "14 billion" in verdict.reason
        assert verdict.numbers[0].value == pytest.approx(1 / (1 - 0.45), rel=0.02)


def test_both_modes_are_judged_by_themselves() -> None:
    found = verdicts("C6", SPEED)
    assert [v.mode for v in found] == ["paper", "serving"]
    assert found[0].conditions.endswith("forward_s") and found[1].conditions.endswith("tpot_p50_s")


def test_time_saved_is_not_the_speed_up() -> None:
    (paper, _) = verdicts("C5", replace(SPEED, speed_gain=lambda n, r: 2.5))
    numbers = {number.name: number.value for number in paper.numbers}
    assert numbers["time saved"] == pytest.approx(1 - 1 / numbers["speed-up"])
    assert numbers["time saved"] == pytest.approx(0.6, abs=0.01)


def test_calibration_free_recovers_better_and_varies_more() -> None:
    def accuracy(method: str, r: float, d: float) -> float:
        return 0.9 - 0.2 * r + (0.05 if method == "random" and d else 0)

    rng = np.random.default_rng(0)

    def loss(method: str, r: float, d: float) -> float:
        return (1 + r) * float(np.exp((0.05 if method == "random" else 0.001) * rng.standard_normal()))

    few = replace(TASKS, methods=("random", "obs"), ratios=(0.1, 0.3, 0.5, 0.7), noise=0.001)
    world = replace(few, accuracy_factor=accuracy, loss_factor=loss)
    (verdict,) = verdicts("C11", world)
    assert verdict.scope == "random beside obs" and verdict.verdict == "supported"
    assert verdict.numbers[0].value > 0.95 and verdict.numbers[1].value > 0.95
    worse = replace(world, accuracy_factor=lambda m, r, d: accuracy("obs", r, d) - 0.1 * (m == "random"))
    (turned,) = verdicts("C11", worse)
    assert turned.verdict == "not supported" and turned.numbers[0].value == 0


def test_fragility_needs_all_three_families_and_their_order() -> None:
    world = replace(LAW, budgets=(0,), tasks=("coqa", "lambada", "piqa"), sets=())
    cells = tuple(cells_of_world(world))
    powers = {"coqa": 2.4, "lambada": 0.7, "piqa": 0.2}

    def bent(order: dict[str, float]) -> tuple[Verdict, ...]:
        changed = tuple(
            cell.model_copy(
                update={
                    "accuracies": tuple(
                        row.model_copy(update={"accuracy": row.base_accuracy * (1 - cell.ratio) ** order[row.task]})
                        for row in cell.accuracies
                    )
                }
            )
            for cell in cells
        )
        return judge(BY_ID["C15"], analyse(Study(study_of(world).folder, changed, (), None), replicates=20))

    (held,) = bent(powers)
    assert held.verdict == "supported"
    assert held.numbers[2].value == pytest.approx(2.4, abs=0.01)
    (turned,) = bent({"coqa": 0.2, "lambada": 0.7, "piqa": 2.4})
    assert turned.verdict == "not supported"
    (missing,) = verdicts("C15", TASKS)
    assert missing.verdict == "not testable here" and "CoQA" in missing.reason


def test_gain_is_paired_by_seed() -> None:
    world = replace(LAW, models={"m": GIGA}, ratios=(0.5,), noise=0.0, loss_factor=gain(0.45))
    gains = gains_of(list(cells_of_world(world)), "wikitext2")
    assert list(gains.values()) == [pytest.approx([0.25] * 3)]


def test_seen_critical_ratio_is_where_the_means_cross() -> None:
    world = replace(TASKS, models={"m": GIGA}, noise=0.0, accuracy_factor=lambda m, r, d: 1 - 0.5 * r)
    scope = Scope(kind="accuracy", name=MEAN_OF_TASKS, method="random", recovery="full")
    analysis = analysis_of(world, replicates=0)
    assert seen_critical_ratio(analysis, scope, 0.9) == pytest.approx(0.2)
    assert seen_critical_ratio(analysis, scope, 0.78) == pytest.approx(0.44)
    assert seen_critical_ratio(analysis, scope, 0.5) == pytest.approx(0.9)


def test_knee_of_two_lines() -> None:
    ratio = np.repeat(np.linspace(0.1, 0.9, 9), 2)
    kept_share = 1 - 0.1 * ratio - 2 * np.maximum(0, ratio - 0.62)
    (at,), (change,) = knees_of(ratio, kept_share, np.ones((1, 18)))
    assert at == pytest.approx(0.62, abs=0.011) and change == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize(
    ("value", "ends", "word", "certainty"),
    [
        (0.5, (0.4, 0.6), "supported", "clear"),
        (0.5, (0.4, 1.1), "not supported", "open"),
        (1.2, (0.9, 1.4), "not supported", "open"),
        (1.2, (1.1, 1.4), "not supported", "refuted"),
        (0.5, (None, None), "supported", "no interval"),
        (1.5, (None, None), "not supported", "refuted"),
    ],
)
def test_when_a_claim_holds(value: float, ends: tuple[float | None, float | None], word: str, certainty: str) -> None:
    number = Number.within("x", value, 3, ends)
    claim = Claim(
        id="X",
        statement="x is small",
        metric="x",
        conditions="",
        paper="v1",
        ranges=(Range("x", 0.0, 1.0),),
        ours=True,
        measure=lambda analysis: [Measurement(scope="s", conditions="c", numbers=(number,))],
        needs="Needs x.",
    )
    (verdict,) = judge(claim, poor())
    assert (verdict.verdict, verdict.certainty) == (word, certainty)
    assert verdict.threshold == "x within 0 and 1"


def test_the_catalogue_is_complete() -> None:
    assert [claim.id for claim in CLAIMS] == [f"C{i}" for i in range(1, 17)]
    assert all(claim.ranges and claim.needs.endswith(".") for claim in CLAIMS)
    assert {claim.id for claim in CLAIMS if claim.paper == "v2"} == {"C14", "C15", "C16"}
    covered = HOLDS.keys() & FAILS.keys()
    assert covered == {claim.id for claim in CLAIMS} - {"C11", "C15"}
