"""Arms that mix models: who is asked, how they are told apart, and what sharing costs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from plans import small_plan

from artifacts.errors import ConfigError
from artifacts.run import RequestRecord, Window
from loadtest.mix import model_of, models_of, shares_of
from loadtest.mixed import summarise_mixes
from loadtest.plan import Segment

MIX = "a=0.9,b=0.1"


@pytest.mark.parametrize(
    ("arm", "shares"),
    [
        ("dense", {"dense": 1.0}),
        ("org/model=v2", {"org/model=v2": 1.0}),
        ("a,b", {"a,b": 1.0}),
        ("a=0.9,b=0.1", {"a": 0.9, "b": 0.1}),
        (" a=9, b=1", {"a": 0.9, "b": 0.1}),
        ("x=1=2,b=2,c=1", {"x=1": 0.4, "b": 0.4, "c": 0.2}),
    ],
)
def test_an_arm_is_a_model_or_its_shares(arm: str, shares: dict[str, float]) -> None:
    assert dict(shares_of(arm)) == pytest.approx(shares)


@pytest.mark.parametrize("arm", ["a=0.9,b=x", "a=1,b", "a=1,b=0", "a=1,b=-1", "a=1,a=2", "a=1,=2", "a=1,b=inf"])
def test_a_mix_that_is_none_is_refused_with_an_example(arm: str) -> None:
    with pytest.raises(ConfigError, match=r"is no mix of models.*as in dense=0\.9,pruned=0\.1"):
        shares_of(arm)


def test_every_model_that_is_asked_is_named_once() -> None:
    assert models_of(("a", MIX, "c", "b=1,c=1")) == ("a", "b", "c")


def test_requests_are_drawn_by_their_shares_and_alike_in_every_arm() -> None:
    plan = small_plan(("a", MIX, "a=0.8,b=0.2"))
    drawn = [[model_of(plan, Segment(arm=arm, block=2), index) for index in range(2000)] for arm in range(3)]
    assert set(drawn[0]) == {"a"}
    assert Counter(drawn[1])["b"] / 2000 == pytest.approx(0.1, abs=0.02)
    assert Counter(drawn[2])["b"] / 2000 == pytest.approx(0.2, abs=0.03)
    assert all(wide == "b" for narrow, wide in zip(drawn[1], drawn[2], strict=True) if narrow == "b")
    assert drawn[1] != [model_of(plan, Segment(arm=1, block=3), index) for index in range(2000)]


@pytest.fixture
def records(make_record: Callable[..., RequestRecord]) -> list[RequestRecord]:
    """Two blocks; `a` alone answers every 10 ms a token, in the mix every 20 ms; `b` is in the mix only."""

    def one(arm: int, block: int, index: int, model: str, gap_s: float) -> RequestRecord:
        start_s = 10.0 * block + 0.1 * index
        events = tuple(start_s + 0.02 + gap_s * k for k in range(5))
        return make_record(start_s, model=model, arm=arm, block=block, index=index, event_s=events)

    return [
        record
        for block in (0, 1)
        for index in range(20)
        for record in (
            one(0, block, index, "a", 0.01),
            one(1, block, index, "b" if index % 4 == 3 else "a", 0.02),
        )
    ]


WINDOWS = tuple(
    Window(arm=arm, block=block, start_s=10 * block, end_s=10 * block + 3) for block in (0, 1) for arm in (0, 1)
)


def test_models_of_a_mix_are_told_apart(records: list[RequestRecord]) -> None:
    served = {"a": {"prunebench": {"fingerprint": "f00d"}}, "b": {}}
    a, b = summarise_mixes(("a", MIX), records, WINDOWS, served)
    assert [(m.arm, m.summary.model, m.summary.requests) for m in (a, b)] == [(1, "a", 30), (1, "b", 10)]
    assert (a.share, b.share) == (pytest.approx(0.9), pytest.approx(0.1))
    assert (a.summary.fingerprint, b.summary.fingerprint) == ("f00d", None)
    assert a.summary.measures["tpot_p50_s"] == pytest.approx(0.02)
    assert a.summary.measures["requests_per_s"] == pytest.approx(30 / 6)
    assert b.summary.measures["ttft_p50_s"] is None  # ten requests certify no median


def test_a_model_is_compared_with_itself_alone(records: list[RequestRecord]) -> None:
    a, b = summarise_mixes(("a", MIX), records, WINDOWS, {})
    assert b.beside_alone is None
    assert a.beside_alone is not None
    assert (a.beside_alone.model, a.beside_alone.against) == (f"a in {MIX}", "a")
    assert a.beside_alone.ratios["speedup_tpot_p50"].value == pytest.approx(0.5)
    assert a.beside_alone.ratios["speedup_ttft_p50"].value == pytest.approx(1)
    assert "speedup_output_tokens_per_s" not in a.beside_alone.ratios


def test_arms_of_one_model_have_nothing_to_tell_apart(records: list[RequestRecord]) -> None:
    assert summarise_mixes(("a", "b"), records, WINDOWS, {}) == ()
