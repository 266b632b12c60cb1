"""Do many metric pages make one that Prometheus accepts, with nothing lost and every sample told apart?"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_pages import drained, merged, samples
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.exposition import PIECE_LINES, Page, in_pieces, merging


def page(*values: float) -> str:
    """A registry's page with a counter, a gauge without labels and a histogram."""
    registry = CollectorRegistry()
    counter = Counter("vllm:tokens", "Tokens.", ("model_name",), registry=registry)
    gauge = Gauge("up_seconds", "No labels.", registry=registry)
    histogram = Histogram("vllm:ttft_seconds", "A histogram.", ("model_name",), registry=registry, buckets=(1, 2))
    for value in values:
        counter.labels('quo"te\\ and } brace').inc(value)
        gauge.set(value)
        histogram.labels("m").observe(value)
    return generate_latest(registry).decode()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.lists(st.floats(0, 1e6), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_every_sample_survives_with_its_variant(first: list[float], second: list[float]) -> None:
    pages = [("a", page(*first)), ("b", page(*second))]
    found = samples(merged("", pages))
    expected = {}
    for variant, text in pages:
        for (name, labels), value in samples(text).items():
            expected[name, tuple(sorted((*labels, ("variant", variant))))] = value
    assert found == expected


def test_each_family_has_one_help_and_one_type_and_stays_together() -> None:
    text = merged(page(1.0), [("a", page(2.0)), ("b", page(3.0))])
    for kind in ("# HELP ", "# TYPE "):
        named = [line.split()[2] for line in text.splitlines() if line.startswith(kind)]
        assert len(named) == len(set(named)) > 3
    families = list(text_string_to_metric_families(text))
    assert len(families) == len({family.name for family in families})


def test_own_samples_get_no_label() -> None:
    assert ("up_seconds", ()) in samples(merged(page(1.0), []))


LINES = [
    ("up 1", 'up{variant="a"} 1', "no labels"),
    ("up{} 1", 'up{variant="a"} 1', "empty braces"),
    ('up{x="y"} 1', 'up{variant="a",x="y"} 1', "one label"),
    ('up{x="a b{c}"} 1 123', 'up{variant="a",x="a b{c}"} 1 123', "braces and spaces in a value, a timestamp"),
]


@pytest.mark.parametrize(("line", "labelled", "what"), LINES)
def test_labelling(line: str, labelled: str, what: str) -> None:
    assert merged("", [("a", line + "\n")]) == labelled + "\n", what


def test_a_sample_without_header_keeps_a_family_of_its_own() -> None:
    text = "# TYPE known gauge\nknown 1\nstray 2\n"
    assert merged(text, [("a", "known 3\n")]).splitlines() == [
        "# TYPE known gauge",
        "known 1",
        'known{variant="a"} 3',
        "stray 2",
    ]


def test_the_work_pauses_often_enough_for_streams_in_between() -> None:
    text = "".join(f'm{{i="{index}"}} 1\n' for index in range(1000))
    page, pauses = drained(merging([Page(text, {"variant": name}) for name in "abc"]))
    assert page.count("\n") == 3000
    assert pauses >= 3 * 1000 // PIECE_LINES == 30


def test_others_have_their_turn_while_a_page_is_made() -> None:
    text = "".join(f"m{index} 1\n" for index in range(1000))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> str:
        other = asyncio.create_task(take_turns())
        page = await in_pieces(merging([Page(text)]))
        other.cancel()
        return page

    assert asyncio.run(run()) == text
    assert turns >= 10


def test_label_values_are_escaped_and_line_ends_of_other_alphabets_are_none() -> None:
    text, _ = drained(merging([Page('up{x="a\u2028b\x0bc"} 1\n', {"variant": "v", "replica": 'a"b\\c\nd'})]))
    assert samples(text) == {
        ("up", (("replica", 'a"b\\c\nd'), ("variant", "v"), ("x", "a\u2028b\x0bc"))): 1,
    }
