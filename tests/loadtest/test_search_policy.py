"""The search's next step and its answer, for servers that are known: tables over the pure policy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import log

import pytest

from artifacts.capacity import LimitedBy, Purpose, SearchPolicy, Verdict
from artifacts.errors import ConfigError
from loadtest.search import Conclusion, Step, Tried, bracket, conclude, levels_left, next_step, violations

Server = Callable[[float, Purpose], Verdict]


def drive(policy: SearchPolicy, server: Server) -> list[Tried]:
    tried: list[Tried] = []
    while (step := next_step(policy, tried)) is not None:
        assert not step.again
        verdict = server(step.rate_per_s, step.purpose)
        tried.append(Tried(rate_per_s=step.rate_per_s, purpose=step.purpose, verdict=verdict))
        assert len(tried) <= policy.most_levels
    return tried


def capacity(rate_per_s: float) -> Server:
    return lambda rate, _: "met" if rate <= rate_per_s else "missed"


def tried(*levels: tuple[float, Purpose, Verdict]) -> list[Tried]:
    return [Tried(rate_per_s=rate, purpose=purpose, verdict=verdict) for rate, purpose, verdict in levels]


@pytest.mark.parametrize("start", [0.05, 1.0, 40.0, 900.0])
@pytest.mark.parametrize("true", [0.02, 0.7, 1.0, 7.3, 41.67, 999.0])
@pytest.mark.parametrize("precision", [1.02, 1.1, 1.5])
def test_a_monotone_server_is_bracketed_as_closely_as_asked(true: float, start: float, precision: float) -> None:
    policy = SearchPolicy(start_rate_per_s=start, precision=precision)
    levels = drive(policy, capacity(true))
    answer = conclude(policy, levels)
    assert answer.rate_per_s is not None
    assert answer.rate_per_s <= true
    if answer.above_per_s is not None:
        assert true < answer.above_per_s <= answer.rate_per_s * precision * 1.001
    assert (answer.confirmed, answer.limited_by, answer.violations) == (True, "server", ())
    assert levels[-1] == Tried(rate_per_s=answer.rate_per_s, purpose="confirm", verdict="met")
    doublings = abs(log(true / start, 2))
    assert len(levels) <= doublings + log(log(2) / log(precision), 2) + 5


def test_the_order_of_levels() -> None:
    policy = SearchPolicy(start_rate_per_s=4, precision=1.2)
    assert [(t.rate_per_s, t.purpose) for t in drive(policy, capacity(11))] == [
        (4, "probe"),
        (8, "probe"),
        (16, "probe"),
        (11.31, "bisect"),
        (9.512, "bisect"),
        (9.512, "confirm"),
    ]
    down = drive(policy, capacity(1.5))
    assert [(t.rate_per_s, t.purpose) for t in down[:3]] == [(4, "probe"), (2, "probe"), (1, "probe")]


def test_everything_meets() -> None:
    policy = SearchPolicy(start_rate_per_s=100, highest_rate_per_s=500)
    levels = drive(policy, capacity(1e9))
    assert [t.rate_per_s for t in levels] == [100, 200, 400, 500, 500]
    answer = conclude(policy, levels)
    assert (answer.rate_per_s, answer.above_per_s, answer.confirmed) == (500, None, True)
    assert answer.limited_by == "highest rate"


def test_nothing_meets() -> None:
    policy = SearchPolicy(start_rate_per_s=1, lowest_rate_per_s=0.3)
    levels = drive(policy, capacity(0))
    assert [t.rate_per_s for t in levels] == [1, 0.5, 0.3]
    answer = conclude(policy, levels)
    assert (answer.rate_per_s, answer.above_per_s, answer.confirmed) == (None, 0.3, False)
    assert answer.limited_by == "lowest rate"


def test_a_level_that_stays_undecided_is_not_claimed_and_bounds_the_answer() -> None:
    def server(rate: float, _: Purpose) -> Verdict:
        return "met" if rate < 9 else "undecided" if rate < 12 else "missed"

    policy = SearchPolicy(start_rate_per_s=4)
    answer = conclude(policy, drive(policy, server))
    assert answer.rate_per_s is not None
    assert answer.above_per_s is not None
    assert answer.rate_per_s < 9 <= answer.above_per_s < 12
    assert (answer.limited_by, answer.confirmed) == ("undecided", True)
    assert answer.missed_per_s == 16


@pytest.mark.parametrize("verdict", ["missed", "undecided", "unusable"])
def test_a_failed_confirmation_sends_the_search_below_it(verdict: Verdict) -> None:
    """The level near the limit was lucky the first time: 10 is the server's rate, 13.45 looked met."""
    policy = SearchPolicy(start_rate_per_s=8, precision=1.2)

    def server(rate: float, purpose: Purpose) -> Verdict:
        return "met" if rate <= (10 if purpose == "confirm" else 14) else verdict

    levels = drive(policy, server)
    answer = conclude(policy, levels)
    failed = [t for t in levels if t.purpose == "confirm" and t.verdict == verdict]
    assert [t.rate_per_s for t in failed] == [13.45, 11.31]
    assert answer.rate_per_s == 9.512
    assert answer.above_per_s == failed[-1].rate_per_s
    assert answer.confirmed
    told = {(v.missed_rate_per_s, v.met_rate_per_s) for v in answer.violations}
    assert ((11.31, 13.45) in told) == (verdict == "missed")


def test_a_server_that_contradicts_itself_is_told_and_the_lower_answer_given() -> None:
    levels = tried((8, "probe", "missed"), (4, "probe", "met"), (5.7, "bisect", "missed"), (16, "probe", "met"))
    assert {(v.missed_rate_per_s, v.met_rate_per_s) for v in violations(levels)} == {(8, 16), (5.7, 16)}
    assert bracket(levels) == (4, 5.7)
    assert next_step(SearchPolicy(precision=1.5), levels) == Step(rate_per_s=4, purpose="confirm")


def test_gates_that_fail_at_every_rate_end_the_search_at_once() -> None:
    policy = SearchPolicy()
    levels = drive(policy, lambda *_: "unusable")
    assert [t.rate_per_s for t in levels] == [1, 0.5]
    answer = conclude(policy, levels)
    assert (answer.rate_per_s, answer.above_per_s, answer.limited_by) == (None, 0.5, "client")


def test_gates_that_fail_from_a_rate_on_are_not_taken_for_the_server() -> None:
    policy = SearchPolicy(precision=1.2)
    answer = conclude(policy, drive(policy, lambda rate, _: "met" if rate < 20 else "unusable"))
    assert answer.rate_per_s is not None
    assert answer.above_per_s is not None
    assert answer.rate_per_s < 20 <= answer.above_per_s
    assert (answer.limited_by, answer.confirmed) == ("client", True)


def test_a_server_that_misses_below_a_failing_client_is_the_limit_itself() -> None:
    """An overload may drown the client: the levels between say that the server had missed before."""
    policy = SearchPolicy(start_rate_per_s=4)
    server = capacity(9)
    answer = conclude(policy, drive(policy, lambda rate, p: "unusable" if rate > 12 else server(rate, p)))
    assert (answer.limited_by, answer.confirmed) == ("server", True)


@pytest.mark.parametrize(("most", "limited"), [(3, "levels"), (12, "server")])
def test_the_number_of_levels_is_bounded_and_told(most: int, limited: LimitedBy) -> None:
    policy = SearchPolicy(start_rate_per_s=1, precision=1.05, most_levels=most)
    levels = drive(policy, capacity(7))
    answer = conclude(policy, levels)
    assert len(levels) <= most
    assert (answer.limited_by, answer.confirmed) == (limited, limited == "server")


def test_a_level_that_wants_more_is_played_again_before_anything_else() -> None:
    levels = [*tried((4, "probe", "met")), Tried(rate_per_s=8, purpose="probe", verdict="undecided", wants_more=True)]
    assert next_step(SearchPolicy(most_levels=2), levels) == Step(rate_per_s=8, purpose="probe", again=True)


def test_no_level_was_played() -> None:
    assert conclude(SearchPolicy(), []) == Conclusion(
        rate_per_s=None, above_per_s=None, missed_per_s=None, confirmed=False, limited_by="levels", violations=()
    )


@pytest.mark.parametrize("true", [0.02, 3.0, 700.0])
def test_the_guess_of_levels_left_reaches_one_at_the_end(true: float) -> None:
    policy = SearchPolicy(precision=1.1)
    levels = drive(policy, capacity(true))
    left = [levels_left(policy, levels[:count]) for count in range(len(levels))]
    assert left[-1] == 1
    assert all(guess >= 1 for guess in left)
    bracketed = next(i for i in range(len(levels)) if None not in bracket(levels[:i]))
    assert all(a >= b for a, b in itertools.pairwise(left[bracketed:]))


@pytest.mark.parametrize(
    "wrong",
    [{"precision": 1.0}, {"growth": 1.0}, {"start_rate_per_s": 0}, {"start_rate_per_s": 2000}, {"most_looks": 0}],
)
def test_policies_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SearchPolicy.parse(wrong, "the search")
