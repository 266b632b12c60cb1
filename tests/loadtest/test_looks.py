"""One level from its looks: what pilots may say, how long looks are, what a failed gate does, which seeds they have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from queueing import Queue, QueuePlayer

from artifacts.arrivals import Poisson
from artifacts.capacity import Look, Purpose, SearchedLevel, SearchPolicy, Verdict
from artifacts.progress import silent
from artifacts.run import Gate, Level, Workload
from artifacts.slo import parse_slo
from loadtest import gates
from loadtest.arrivals import arrival_times_s
from loadtest.attainment import requests_to_show
from loadtest.looks import (
    OUTCOMES,
    Played,
    decision_quantile,
    full_look_s,
    least_look_s,
    look_seed,
    searched_level,
    unusable_because,
    wants_more,
)
from loadtest.runner import LoadTestRequest

SLO = parse_slo("ttft_p90<150ms")
POLICY = SearchPolicy(most_looks=3)
QUEUE = Queue()
LEAD_IN_S = 1.0
ABOUT_THE_CLIENT = {
    "send lateness p99",
    "event-loop lag p99",
    "client calibration",
    "length mismatch",
    "events per read",
    "client CPU share",
    "prefix cache hits",
}


def gate(name: str) -> Gate:
    return Gate(name=name, observed=1, limit=0, unit="s", passed=False, cause="", remedy="")


def look(rate: float, duration_s: float, seed: int, *, pilot: bool = False, failed: str | None = None) -> Played:
    arrivals = arrival_times_s(Poisson(rate_per_s=rate), LEAD_IN_S + duration_s, (seed,))
    records = QUEUE.records("a", 0, arrivals, LEAD_IN_S)
    described = Look(
        folder="x",
        pilot=pilot,
        duration_s=duration_s,
        seed=seed,
        failed_gates=() if failed is None else (gate(failed),),
    )
    return Played(
        look=described, records=records, windows=(), measures={"output_tokens_per_s": rate, "requests_per_s": 1}
    )


def level(looks: Sequence[Played], rate: float) -> SearchedLevel:
    return searched_level(SLO, POLICY, rate, "probe", looks)


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ([(20, False, None)], "met"),
        ([(90, False, None)], "missed"),
        ([(90, True, None)], "missed"),
        ([(20, True, None)], "undecided"),
        ([(20, True, None), (20, False, None)], "met"),
        ([(20, False, "client CPU share")], "undecided"),
        ([(20, False, "client CPU share"), (20, False, None)], "met"),
        ([(20, False, "client CPU share"), (20, False, "send lateness p99")], "unusable"),
        ([(90, False, "client CPU share"), (90, False, "client CPU share")], "unusable"),
        ([(90, True, "client CPU share"), (90, False, None)], "missed"),
        ([], "undecided"),
    ],
)
def test_what_looks_say_together(rates: list[tuple[float, bool, str | None]], verdict: Verdict) -> None:
    looks = [look(r, 30, 7 + i, pilot=pilot, failed=failed) for i, (r, pilot, failed) in enumerate(rates)]
    assert level(looks, 20).verdict == verdict


def test_a_pilot_adds_nothing_to_a_met_level() -> None:
    pilot, full = look(20, 7.5, 1, pilot=True), look(20, 30, 2)
    both = level([pilot, full], 20)
    assert both.attainments == level([full], 20).attainments
    assert both.requests == sum(not r.warmup for r in full.records)
    assert level([pilot], 20).requests == sum(not r.warmup for r in pilot.records)


def test_an_unusable_look_is_not_counted_but_named() -> None:
    bad, good = look(90, 30, 1, failed="send lateness p99"), look(20, 30, 2)
    found = level([bad, good], 20)
    assert found.requests == sum(not r.warmup for r in good.records)
    assert found.failed_gates == ("send lateness p99",)
    assert len(found.looks) == 2


def test_looks_at_the_very_limit_stay_undecided_until_they_are_used_up() -> None:
    """At the rate whose true share is the required one, 3 looks of 30 s decide nothing."""
    low = 34.56
    looks: list[Played] = []
    for seed in range(3):
        assert seed == 0 or wants_more(POLICY, level(looks, low))
        looks.append(look(low, 30, seed + 20))
    found = level(looks, low)
    assert (found.verdict, wants_more(POLICY, found)) == ("undecided", False)
    assert found.attainments[0].effective_requests < 0.7 * found.attainments[0].requests


def test_every_gate_is_either_an_outcome_of_load_or_about_the_client() -> None:
    """A new gate must be placed: taken for the client's it ends searches, taken for the server's it does not."""
    source = Path(gates.__file__).read_text(encoding="utf-8")
    known = set(re.findall(r'^\s+name="([^"]+)"', source, re.MULTILINE))
    assert len(known) >= 9
    assert known <= OUTCOMES | ABOUT_THE_CLIENT
    assert OUTCOMES.isdisjoint(ABOUT_THE_CLIENT)


@pytest.mark.parametrize("name", sorted(OUTCOMES | ABOUT_THE_CLIENT))
def test_only_failed_gates_about_the_client_make_a_look_unusable(name: str, tmp_path: Path) -> None:
    player = QueuePlayer({"a": QUEUE}, fail=lambda _: name)
    request = LoadTestRequest(
        url="http://x",
        models=("a",),
        against=None,
        level=Level.parse({"rate_per_s": 20, "arrivals": "poisson"}, "a level"),
        workload=Workload(prompt_tokens=8, output_tokens=20),
        duration_s=5,
        out=tmp_path / "run",
        blocks=1,
    )
    unusable = unusable_because(player(request, silent))
    assert [g.name for g in unusable] == ([name] if name in ABOUT_THE_CLIENT else [])


@pytest.mark.parametrize("precision", [1.05, 1.1, 1.5])
def test_an_overload_by_the_precision_shows_in_a_least_look(precision: float) -> None:
    """At constant arrivals a fluid queue's wait passes the limit at the middle of the window."""
    needed_s = least_look_s(parse_slo("ttft_p95<500ms,e2e_p95<200ms,tpot_p95<50ms"), precision)
    wait_grows_per_s = 1 - 1 / precision
    assert wait_grows_per_s * needed_s / 2 == pytest.approx(0.5)


def test_a_look_lasts_until_its_strictest_percentile_can_be_shown() -> None:
    z = decision_quantile(POLICY)
    slow = full_look_s(parse_slo("ttft_p50<1s,tpot_p99<1s"), POLICY, 10, 2.0)
    assert slow == pytest.approx(1.5 * requests_to_show(0.99, z) / 2.0)
    assert full_look_s(parse_slo("ttft_p50<1s"), POLICY, 10, 1000) == 10


@pytest.mark.parametrize(
    "other", [(1, "probe", 4.0, 0), (0, "confirm", 4.0, 0), (0, "probe", 5.0, 0), (0, "probe", 4.0, 1)]
)
def test_seeds_are_equal_for_equal_looks_and_fresh_for_others(other: tuple[int, Purpose, float, int]) -> None:
    assert look_seed(0, "probe", 4.0, 0) == look_seed(0, "probe", 4.0, 0) >= 0
    assert look_seed(*other) != look_seed(0, "probe", 4.0, 0)


def test_measures_are_percentiles_over_all_looks_and_mean_throughputs() -> None:
    first, second = look(20, 60, 1), look(30, 60, 2)
    found = level([first, second], 25)
    assert found.measures["output_tokens_per_s"] == 25
    assert found.measures["tpot_p50_s"] == pytest.approx(QUEUE.itl_s)
    assert found.measures["ttft_p99_s"] is not None
    assert found.measures["ttft_p99_s"] > QUEUE.ttft_s
