"""What prompts share, and what keeps everything else apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from plans import small_plan, trace, workload

from loadtest.plan import Plan, Segment
from loadtest.prompts import SALT_TOKENS, prompt_ids

HERE = Segment(arm=0, block=0)


def ids(plan: Plan, count: int, segment: Segment = HERE) -> list[list[int]]:
    return [prompt_ids(plan, segment, index) for index in range(count)]


def common(one: list[int], two: list[int]) -> int:
    """How many tokens both begin with."""
    return next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


@pytest.mark.parametrize(("share", "tokens"), [(0.5, 100), (0.1, 20), (1.0, 200)])
def test_the_share_of_a_prompt_is_common_and_the_rest_is_not(share: float, tokens: int) -> None:
    prompts = ids(small_plan(**workload(prompt_tokens=200, prefix={"share": share})), 6)
    assert {len(p) for p in prompts} == {200}
    assert [tokens <= common(a, b) <= min(200, tokens + 2) for a, b in pairwise(prompts)] == [True] * 5


def test_without_a_share_nothing_but_the_salt_is_common() -> None:
    prompts = ids(small_plan(**workload(prompt_tokens=200)), 6)
    assert max(common(a, b) for a, b in pairwise(prompts)) < SALT_TOKENS + 3


def test_every_prefix_is_used_about_equally_often() -> None:
    prompts = ids(small_plan(**workload(prompt_tokens=40, prefix={"share": 0.5, "prefixes": 4})), 400)
    heads = [tuple(p[:20]) for p in prompts]
    assert len(set(heads)) == 4
    assert [heads.count(head) for head in set(heads)] == pytest.approx([100] * 4, abs=40)
    assert len({tuple(p) for p in prompts}) == 400


def test_shorter_prompts_begin_as_longer_ones_do() -> None:
    law = {"kind": "uniform", "low": 20, "high": 400}
    prompts = ids(small_plan(**workload(prompt_tokens=law, prefix={"share": 0.5})), 12)
    for one, two in pairwise(prompts):
        assert common(one, two) >= min(len(one), len(two)) // 2 - 1


def test_a_cache_stays_warm_over_the_blocks_of_an_arm_and_cold_for_others() -> None:
    plan = small_plan(**workload(prompt_tokens=100, prefix={"share": 0.5}))
    places = [Segment(arm=0, block=0), Segment(arm=0, block=3), Segment(arm=1, block=0)]
    first, later, other = (prompt_ids(plan, place, 0) for place in places)
    again = prompt_ids(plan.model_copy(update={"nonce": 78}), HERE, 0)
    assert common(first, later) >= 50
    assert common(first, other) < SALT_TOKENS
    assert common(first, again) < SALT_TOKENS
    assert first[SALT_TOKENS:] == other[SALT_TOKENS:] == again[SALT_TOKENS:]


def test_requests_of_a_trace_share_the_blocks_it_names() -> None:
    plan = small_plan(
        level={"arrivals": {"kind": "trace"}},
        trace=trace(
            [0.0, 0.1, 0.2], [250, 260, 250], [5] * 3, blocks=[[7, 8, 9], [7, 8, 10], [11, 8, 9]], block_tokens=100
        ),
        **workload(prompt_tokens={"kind": "trace", "shared_blocks": True}, output_tokens={"kind": "trace"}),
    )
    one, two, three = ids(plan, 3)
    assert [len(p) for p in (one, two, three)] == [250, 260, 250]
    assert 200 <= common(one, two) < 203
    assert common(one, three) < SALT_TOKENS + 3
    assert one[100:] == three[100:]


def test_blocks_are_left_out_where_nobody_asked_for_them() -> None:
    plan = small_plan(
        trace=trace([0.0], [250], [5], blocks=[[7, 8, 9]], block_tokens=100),
        **workload(prompt_tokens={"kind": "trace"}),
    )
    one, two = ids(plan, 2)
    assert common(one, two) < SALT_TOKENS + 3
