"""Lengths follow their laws, are the same for all arms, and are cut where the context ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plans import small_plan, trace, workload
from scipy import stats

from artifacts.lengths import NormalTokens, UniformTokens
from loadtest.lengths import Asked, lengths_of, longest_tokens
from loadtest.plan import Plan

TRACE_LENGTHS = {"prompt_tokens": {"kind": "trace"}, "output_tokens": {"kind": "trace"}}


def asked(plan: Plan, count: int = 3000, block: int = 0) -> tuple[list[int], list[int]]:
    found = [lengths_of(plan, block, index) for index in range(count)]
    return [a.prompt_tokens or 0 for a in found], [a.output_tokens for a in found]


def test_plain_numbers_are_every_requests_length() -> None:
    assert {lengths_of(small_plan(), block, index) for block in range(3) for index in range(9)} == {
        Asked(prompt_tokens=20, output_tokens=8)
    }


def test_uniform_lengths_are_equally_likely_from_end_to_end() -> None:
    prompts, outputs = asked(small_plan(**workload(prompt_tokens={"kind": "uniform", "low": 3, "high": 12})))
    assert (min(prompts), max(prompts), set(outputs)) == (3, 12, {8})
    assert stats.chisquare(np.bincount(prompts)[3:]).pvalue > 0.01


def test_log_normal_lengths_have_their_median_and_p95() -> None:
    law = {"kind": "lognormal", "median": 200, "p95": 900}
    prompts, outputs = asked(small_plan(**workload(prompt_tokens=law, output_tokens=law)))
    for lengths in (prompts, outputs):
        assert np.percentile(lengths, [50, 95]) == pytest.approx([200, 900], rel=0.1)
        assert stats.kstest(np.log(lengths), "norm", args=(np.log(200), np.log(4.5) / 1.645)).pvalue > 0.01
    assert abs(np.corrcoef(prompts, outputs)[0, 1]) < 0.06


def test_normal_lengths_are_clipped_to_their_bounds() -> None:
    law = {"kind": "normal", "mean": 50, "std": 20, "low": 30, "high": 80}
    prompts, _ = asked(small_plan(**workload(prompt_tokens=law)))
    shares = [prompts.count(length) / len(prompts) for length in (30, 80)]
    assert shares == pytest.approx([stats.norm.cdf(-0.975), stats.norm.sf(1.475)], abs=0.03)
    assert np.median(prompts) == pytest.approx(50, abs=2)


def test_a_request_is_drawn_alone_and_alike_for_every_arm_and_process() -> None:
    plan = small_plan(**workload(prompt_tokens={"kind": "lognormal", "median": 50, "p95": 200}))
    again = Plan.model_validate_json(plan.model_dump_json())
    backwards = [lengths_of(again, 1, index) for index in reversed(range(50))]
    assert [lengths_of(plan, 1, index) for index in range(50)] == backwards[::-1]
    assert asked(plan, 50, block=0) != asked(plan, 50, block=1)


def test_another_seed_draws_other_lengths() -> None:
    law = {"kind": "uniform", "low": 1, "high": 1000}
    one, two = (asked(small_plan(**workload(prompt_tokens=law, seed=seed)), 50) for seed in (5, 6))
    assert one != two


def test_a_replayed_request_has_its_own_lengths() -> None:
    plan = small_plan(
        level={"arrivals": {"kind": "trace"}},
        trace=trace([0, 0.7, 0.8, 1.6], [10, 20, 30, 40], [1, 2, 3, 4]),
        **workload(**TRACE_LENGTHS),
    )
    found = [lengths_of(plan, block, 0) for block in range(3)]
    assert [(a.prompt_tokens, a.output_tokens) for a in found] == [(10, 1), (30, 3), (40, 4)]


def test_drawn_requests_of_a_trace_keep_prompt_and_answer_together() -> None:
    plan = small_plan(trace=trace([0, 1, 2], [10, 20, 30], [1, 2, 3]), **workload(**TRACE_LENGTHS))
    prompts, outputs = asked(plan, 900)
    assert [p == 10 * o for p, o in zip(prompts, outputs, strict=True)] == [True] * 900
    assert [prompts.count(p) for p in (10, 20, 30)] == pytest.approx([300] * 3, abs=60)


@pytest.mark.parametrize(
    ("prompt", "output", "context", "expected"),
    [
        pytest.param(60, 40, 100, (60, 40, False), id="what fits exactly is left alone"),
        pytest.param(61, 40, 100, (60, 40, True), id="the prompt gives way"),
        pytest.param(90, 80, 100, (50, 50, True), id="an answer keeps up to half of the context"),
        pytest.param(10, 95, 100, (10, 50, True), id="and a short prompt all of itself"),
        pytest.param(9, 9, 2, (1, 1, True), id="the smallest context"),
        pytest.param(61, 40, None, (61, 40, False), id="no context is known"),
    ],
)
def test_what_the_context_cannot_hold_is_cut(
    prompt: int, output: int, context: int | None, expected: tuple[int, int, bool]
) -> None:
    found = lengths_of(small_plan(context_tokens=context, **workload(prompt_tokens=prompt, output_tokens=output)), 0, 0)
    assert (found.prompt_tokens, found.output_tokens, found.clipped) == expected


@pytest.mark.parametrize(
    ("length", "longest"),
    [
        (7, 7),
        (UniformTokens(low=1, high=9), 9),
        (NormalTokens(mean=5, std=2, high=9), 9),
        (NormalTokens(mean=5, std=2), None),
        (None, None),
    ],
)
def test_a_law_knows_whether_it_has_a_bound(length: Any, longest: int | None) -> None:
    assert longest_tokens(length) == longest
