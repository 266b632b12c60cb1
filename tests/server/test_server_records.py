"""The committed measurements of the server say what the documents claim, and could say otherwise."""

from __future__ import annotations

import copy
from statistics import median
from typing import Any

import pytest

from benchmarks import abandoned_requests, gateway_overhead
from benchmarks.pages import read_raw


@pytest.fixture(scope="module")
def abandoned() -> dict[str, Any]:
    return read_raw(abandoned_requests.STEM)


@pytest.fixture(scope="module")
def overhead() -> dict[str, Any]:
    return read_raw(gateway_overhead.STEM)


def test_the_engine_rests_within_a_tenth_of_a_second(abandoned: dict[str, Any]) -> None:
    rows = abandoned["rows"]
    assert len(rows) == 200
    assert max(row["idle_after_s"] for row in rows) <= 0.1
    assert {(row["streamed"], row["reset"]) for row in rows} == {(a, b) for a in (True, False) for b in (True, False)}


def test_the_engine_left_most_tokens_ungenerated(abandoned: dict[str, Any]) -> None:
    asked = len(abandoned["rows"]) * abandoned_requests.TOKENS
    assert 0 < abandoned["generated_tokens"] < asked / 2


def test_a_slower_end_would_be_told(abandoned: dict[str, Any]) -> None:
    slow = copy.deepcopy(abandoned)
    slow["rows"][7]["idle_after_s"] = 0.101
    assert "**Yes**" in abandoned_requests.render(abandoned)
    assert "**No**: of 200 abandoned requests the slowest took 101 ms" in abandoned_requests.render(slow)


def test_hardly_any_throughput_is_lost_and_the_page_names_what_is_missed(overhead: dict[str, Any]) -> None:
    """The run shared its machine: processor time is within a tenth of its target per token at least."""
    assert overhead["repeats"] == 5
    reached = gateway_overhead.reached(overhead["rows"])
    assert reached["tokens_per_s"]
    tokens = gateway_overhead.column(overhead["rows"], gateway_overhead.OURS, "cpu_us_per_token")
    assert median(tokens) < 1.1 * gateway_overhead.TARGETS["cpu_us_per_token"]
    missed = ", ".join(name for name, ok in reached.items() if not ok)
    told = f"**Not all of it:** {missed}." if missed else "**Yes.**"
    assert told in gateway_overhead.render(overhead)


@pytest.mark.parametrize("name", gateway_overhead.TARGETS)
def test_a_missed_target_would_be_told(overhead: dict[str, Any], name: str) -> None:
    worse = copy.deepcopy(overhead)
    for row in worse["rows"]:
        if row["arm"] == gateway_overhead.OURS:
            row[name] = 0.0 if name == "tokens_per_s" else 1e6
    assert not gateway_overhead.reached(worse["rows"])[name]
    assert name in gateway_overhead.render(worse).partition("**Not all of it:**")[2].partition(".")[0]


@pytest.mark.parametrize("peer", ["starlette-aiohttp", "fastapi-httpx"])
def test_the_proxies_that_people_write_cost_more(overhead: dict[str, Any], peer: str) -> None:
    rows = overhead["rows"]
    for name in ("cpu_us_per_token", "cpu_us_per_request"):
        ours = gateway_overhead.column(rows, gateway_overhead.OURS, name)
        assert median(gateway_overhead.column(rows, peer, name)) > 1.5 * median(ours)
