"""A trace as it is played: scaled, sliced, and whole in the plan's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import small_plan, trace, workload

from artifacts.errors import ConfigError
from artifacts.traffic import TraceSource
from loadtest.plan import Plan
from loadtest.replay import ReplayedTrace, replayed

TRACE_LENGTHS = {"prompt_tokens": {"kind": "trace"}, "output_tokens": {"kind": "trace"}}


@pytest.fixture
def source(tmp_path: Path) -> TraceSource:
    """Eleven requests, one each two seconds, with 100, 110, ... and 10, 11, ... tokens."""
    lines = [f"{2 * k},{100 + 10 * k},{10 + k}" for k in range(11)]
    (tmp_path / "t.csv").write_text("\n".join(["time_s,prompt_tokens,output_tokens", *lines]))
    return TraceSource(path=str(tmp_path / "t.csv"), format="generic")


def scaled(source: TraceSource, **changes: float) -> TraceSource:
    return source.model_copy(update=changes)


def test_times_and_lengths_are_multiplied(source: TraceSource) -> None:
    found = replayed(scaled(source, time_scale=0.1, length_scale=0.25), None)
    assert found.times_s == pytest.approx([0.2 * k for k in range(11)])
    assert found.prompt_tokens == tuple(round(25 + 2.5 * k) for k in range(11))
    assert found.output_tokens == tuple(round(2.5 + 0.25 * k) for k in range(11))
    assert found.source.sha256 is not None


def test_every_request_keeps_a_token_of_each_kind(source: TraceSource) -> None:
    found = replayed(scaled(source, length_scale=0.001), None)
    assert (set(found.prompt_tokens), set(found.output_tokens)) == ({1}, {1})


@pytest.mark.parametrize(("needed_s", "kept"), [(6.0, 3), (6.001, 4), (20.0, 10), (None, 11)])
def test_only_what_the_run_plays_is_kept(source: TraceSource, needed_s: float | None, kept: int) -> None:
    assert len(replayed(source, needed_s).times_s) == kept


@pytest.mark.parametrize(
    ("changes", "needed_s", "lasts"),
    [
        pytest.param({}, 20.5, "20 s", id="the file ends with its last request"),
        pytest.param({"time_scale": 0.5}, 11, "10 s", id="as it is replayed"),
        pytest.param({"from_s": 4.0, "to_s": 9.0}, 6, "5 s", id="a span lasts to its end"),
    ],
)
def test_a_trace_that_is_too_short_says_how_long_it_lasts(
    source: TraceSource, changes: dict[str, float], needed_s: float, lasts: str
) -> None:
    with pytest.raises(ConfigError, match=rf"lasts {lasts} as it is replayed, the run {needed_s:g} s"):
        replayed(scaled(source, **changes), needed_s)


def test_a_run_that_would_play_nothing_is_refused(source: TraceSource) -> None:
    with pytest.raises(ConfigError, match=r"no request in the run's 0\.5 s"):
        replayed(scaled(source, from_s=1.0), 0.5)


def test_blocks_play_consecutive_slices_that_leave_nothing_out() -> None:
    times = [0.0, 0.1, 0.749999, 0.75, 1.0, 2.9, 3.0]
    plan = small_plan(
        level={"arrivals": {"kind": "trace"}}, trace=trace(times, [9] * 7, [9] * 7), **workload(**TRACE_LENGTHS)
    )
    assert [list(plan.rows(block)) for block in range(4)] == [[0, 1, 2], [3, 4], [], [5]]


def test_a_plan_holds_its_trace_in_a_few_bytes_a_request(tmp_path: Path) -> None:
    count = 2000
    rows = trace(
        [round(0.123457 * k, 6) for k in range(count)],
        [1000 + k % 77 for k in range(count)],
        [100 + k % 13 for k in range(count)],
        blocks=[[k, k + 1] for k in range(count)],
        block_tokens=51,
    )
    plan = small_plan(level={"arrivals": {"kind": "trace"}}, trace=rows, **workload(**TRACE_LENGTHS))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert (tmp_path / "plan.json").stat().st_size < 32 * count
    assert len((tmp_path / "plan.json").read_text().splitlines()) < 100


def test_a_damaged_column_is_refused() -> None:
    raw = trace([0, 1], [1, 2], [1, 2])
    assert ReplayedTrace.parse(raw | {"times_s": "0 1.5"}, "x").times_s == (0.0, 1.5)
    with pytest.raises(ConfigError, match=r"times_s\.1"):
        ReplayedTrace.parse(raw | {"times_s": "0 one"}, "x")


def test_mooncake_blocks_shrink_with_the_lengths(tmp_path: Path) -> None:
    lines = [{"timestamp": 10 * k, "input_length": 1024, "output_length": 8, "hash_ids": [0, k]} for k in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = TraceSource(path=str(tmp_path / "t.jsonl"), format="mooncake", length_scale=0.25)
    found = replayed(source, None)
    assert (found.block_tokens, found.blocks) == (128, ((0, 0), (0, 1), (0, 2)))
    assert found.prompt_tokens == (256,) * 3
