"""What a segment plays is decided by the plan alone: the same for all arms, and for whoever asks for a part of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from plans import small_plan, trace, workload

from artifacts.errors import ConfigError
from loadtest.plan import Plan, Segment
from loadtest.schedule import planned_request, start_times_s

BOTH = {"prompt_tokens": {"kind": "trace"}, "output_tokens": {"kind": "trace"}}
REPLAY = {"level": {"arrivals": {"kind": "trace"}}, **workload(**BOTH)}
LEVELS: list[dict[str, Any]] = [
    {"kind": "constant", "rate_per_s": 30},
    {"kind": "poisson", "rate_per_s": 30},
    {"kind": "gamma", "rate_per_s": 30, "burstiness": 0.5},
    {"kind": "step", "steps": [{"rate_per_s": 30, "for_s": 0.25}, {"rate_per_s": 60, "for_s": 0.25}]},
    {"kind": "ramp", "from_rate_per_s": 10, "to_rate_per_s": 60},
]


def times(plan: Plan, arm: int, block: int) -> tuple[float, ...]:
    return start_times_s(plan, Segment(arm=arm, block=block))


@pytest.mark.parametrize("arrivals", LEVELS, ids=lambda arrivals: arrivals["kind"])
def test_arms_of_a_block_share_their_times_and_blocks_draw_their_own(arrivals: dict[str, Any]) -> None:
    plan = small_plan(level={"arrivals": arrivals})
    assert times(plan, 0, 1) == times(plan, 1, 1)
    assert (times(plan, 0, 1) == times(plan, 0, 2)) == (arrivals["kind"] == "constant")
    assert all(0 <= t < 0.75 for t in times(plan, 0, 1))


def test_a_plan_of_version_1_draws_what_it_drew() -> None:
    """The times of Poisson arrivals at 40/s in block 3 of seed 5, as published runs had them."""
    old = {"concurrency": None, "rate_per_s": 40, "arrivals": "poisson"}
    generator = np.random.default_rng([5, 3])
    expected = np.cumsum(generator.exponential(1 / 40, int(30 + 10 * 30**0.5 + 10)))
    assert times(small_plan(level=old), 0, 3) == pytest.approx(expected[expected < 0.75])


def test_replayed_times_count_from_their_blocks_start() -> None:
    plan = small_plan(trace=trace([0, 0.5, 0.75, 0.9, 2.9], [9] * 5, [9] * 5), **REPLAY)
    assert times(plan, 0, 0) == (0, 0.5)
    assert times(plan, 1, 1) == pytest.approx((0, 0.15))
    assert times(plan, 0, 2) == ()
    assert times(plan, 0, 3) == pytest.approx((0.65,))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="fixed"),
        pytest.param(workload(prompt_tokens={"kind": "uniform", "low": 2, "high": 90}), id="drawn lengths"),
        pytest.param(workload(prefix={"share": 0.5, "prefixes": 3}), id="shared prefixes"),
        pytest.param({"arms": ("a", "a=1,b=1")}, id="a mix"),
        pytest.param(
            {"conversations": [[{"role": "user", "content": str(k)}] for k in range(4)]}
            | workload(prompt_tokens=None, chat={"path": "c"}),
            id="conversations",
        ),
        pytest.param({"trace": trace([0, 1], [5, 50], [6, 60]), **workload(**BOTH)}, id="lengths of a trace"),
    ],
)
def test_any_process_makes_its_own_share_of_a_segment(changes: dict[str, Any]) -> None:
    """Worker k of 3, which knows the plan's file alone, makes the requests with index % 3 == k as one process would."""
    plan, segment = small_plan(**changes), Segment(arm=1, block=2)
    whole = [planned_request(plan, segment, index) for index in range(12)]
    text = plan.model_dump_json()
    for worker in range(3):
        theirs = Plan.model_validate_json(text)
        assert [planned_request(theirs, segment, index) for index in range(worker, 12, 3)] == whole[worker::3]
    assert len({request.body for request in whole}) == 12


def test_what_is_recorded_as_asked_is_what_the_body_asks() -> None:
    law = {"kind": "lognormal", "median": 30, "p95": 90}
    plan = small_plan(context_tokens=64, lead_in_s=0.25, **workload(prompt_tokens=law, output_tokens=law))
    for index in range(40):
        request = planned_request(plan, Segment(arm=0, block=0), index)
        body = json.loads(request.body)
        assert (len(body["prompt"]), body["max_tokens"]) == (request.prompt_tokens, request.output_tokens)
        assert len(body["prompt"]) + body["max_tokens"] <= 64
        assert body["model"] == request.model == "a"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"level": {"arrivals": {"kind": "trace"}}}, "a trace is needed", id="times of no trace"),
        pytest.param(workload(**BOTH), "a trace is needed", id="lengths of no trace"),
        pytest.param({"trace": trace([0], [1], [1])}, "and for nothing else", id="a trace that nobody uses"),
        pytest.param(workload(prompt_tokens=None, chat={"path": "c"}), "chat file", id="a chat without conversations"),
        pytest.param(
            {"level": {"arrivals": {"kind": "step", "steps": [{"rate_per_s": 1, "for_s": 2}]}}},
            "steps last 2 s, a block's window only 0.5 s",
            id="steps longer than the window",
        ),
    ],
)
def test_plans_whose_parts_do_not_belong_together(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        small_plan(**changes)
