"""The order of play, what a plan refuses, and what the requests of a plan say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plans import small_plan

from artifacts.errors import ConfigError
from artifacts.run import Level, Workload
from loadtest.plan import Plan, Segment
from loadtest.prompts import SALT_TOKENS, first_output_tokens, prompt_ids, request_body


@pytest.mark.parametrize(
    ("arms", "blocks", "order"),
    [
        pytest.param(("a", "b"), 4, "ab ba ab ba", id="two arms are mirrored: ABBA ABBA"),
        pytest.param(("a", "b"), 3, "ab ba ab", id="an odd number of blocks ends unmirrored"),
        pytest.param(("a", "b", "c", "d"), 2, "abcd dcba", id="four arms: ABCD DCBA"),
        pytest.param(("a",), 3, "a a a", id="one arm has nothing to mirror"),
    ],
)
def test_arms_are_played_in_mirrored_order(arms: tuple[str, ...], blocks: int, order: str) -> None:
    plan = small_plan(arms, blocks=blocks)
    played = [[arms[s.arm] for s in plan.segments if s.block == block] for block in range(blocks)]
    assert " ".join("".join(names) for names in played) == order
    assert [s.block for s in plan.segments] == sorted(s.block for s in plan.segments)


def test_mirroring_cancels_a_linear_drift() -> None:
    positions: dict[int, list[int]] = {0: [], 1: []}
    for position, segment in enumerate(small_plan(blocks=8).segments):
        positions[segment.arm].append(position)
    assert sum(positions[0]) == sum(positions[1])


def test_planned_time_counts_lead_ins_and_windows() -> None:
    assert small_plan().planned_s == pytest.approx(2 * 4 * 0.75)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = small_plan()
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"level": {}}, "concurrency or a rate", id="neither loop"),
        pytest.param({"level": {"concurrency": 1, "rate_per_s": 2.0}}, "concurrency or a rate", id="both loops"),
        pytest.param({"level": {"rate_per_s": 2.0}}, "arrivals", id="a rate without arrivals"),
        pytest.param({"blocks": 0}, "blocks", id="no block"),
        pytest.param({"window_s": 0}, "window_s", id="no time"),
        pytest.param({"lead_in_s": -1}, "lead_in_s", id="negative lead-in"),
        pytest.param({"arms": ()}, "arms", id="nothing to measure"),
        pytest.param({"token_range": (9, 9)}, "token_range", id="no ids to draw from"),
    ],
)
def test_an_impossible_plan_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        small_plan(**changes)


def test_arms_of_a_block_get_equal_prompts_but_for_the_salt() -> None:
    plan = small_plan()
    one, two = (prompt_ids(plan, Segment(arm=arm, block=1), index=3) for arm in (0, 1))
    assert one[SALT_TOKENS:] == two[SALT_TOKENS:]
    assert one[:SALT_TOKENS] != two[:SALT_TOKENS]


@pytest.mark.parametrize("other", [{"nonce": 78}, {"workload": Workload(prompt_tokens=20, output_tokens=8, seed=6)}])
def test_another_run_or_seed_gives_another_prompt(other: dict[str, Any]) -> None:
    where = Segment(arm=0, block=0)
    assert prompt_ids(small_plan(), where, 0) != prompt_ids(small_plan(**other), where, 0)


def test_no_two_prompts_of_a_run_share_their_first_tokens_across_segments() -> None:
    plan = small_plan(blocks=8)
    heads = {tuple(prompt_ids(plan, segment, 0)[:SALT_TOKENS]) for segment in plan.segments}
    assert len(heads) == len(plan.segments)


@pytest.mark.parametrize("prompt_tokens", [1, 2, 3, 7, 300])
def test_prompts_have_the_exact_length_and_stay_in_the_range(prompt_tokens: int) -> None:
    plan = small_plan(workload={"prompt_tokens": prompt_tokens, "output_tokens": 1}, token_range=(10, 20))
    ids = prompt_ids(plan, Segment(arm=0, block=0), 0)
    assert len(ids) == prompt_tokens
    assert set(ids) <= set(range(10, 20))


def test_short_prompts_keep_tokens_of_their_own() -> None:
    plan = small_plan(workload={"prompt_tokens": 6, "output_tokens": 1})
    ids = [prompt_ids(plan, Segment(arm=0, block=0), index) for index in range(2)]
    assert ids[0][:3] == ids[1][:3]
    assert ids[0][3:] != ids[1][3:]


def test_a_body_fixes_the_length_of_the_answer() -> None:
    body = json.loads(request_body("m", [5, 6], 9))
    assert (body["prompt"], body["max_tokens"], body["min_tokens"]) == ([5, 6], 9, 9)
    assert (body["ignore_eos"], body["temperature"], body["stream"]) == (True, 0, True)
    assert body["stream_options"] == {"include_usage": True}


def test_first_requests_of_the_streams_end_evenly_spread() -> None:
    assert [first_output_tokens(64, stream, 4) for stream in range(4)] == [16, 32, 48, 64]
    assert [first_output_tokens(2, stream, 4) for stream in range(4)] == [1, 1, 2, 2]


def test_level_labels_name_the_loop() -> None:
    assert small_plan().level.label == "concurrency 2"
    assert Level(rate_per_s=2.5, arrivals="poisson").label == "2.5 requests/s, poisson"
