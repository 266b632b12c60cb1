"""Do many metric pages make one that Prometheus accepts, with nothing lost and every sample told apart?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.exposition import merged_exposition


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


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.lists(st.floats(0, 1e6), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_every_sample_survives_with_its_variant(first: list[float], second: list[float]) -> None:
    pages = [("a", page(*first)), ("b", page(*second))]
    merged = samples(merged_exposition("", pages))
    expected = {}
    for variant, text in pages:
        for (name, labels), value in samples(text).items():
            expected[name, tuple(sorted((*labels, ("variant", variant))))] = value
    assert merged == expected


def test_each_family_has_one_help_and_one_type_and_stays_together() -> None:
    text = merged_exposition(page(1.0), [("a", page(2.0)), ("b", page(3.0))])
    for kind in ("# HELP ", "# TYPE "):
        named = [line.split()[2] for line in text.splitlines() if line.startswith(kind)]
        assert len(named) == len(set(named)) > 3
    families = list(text_string_to_metric_families(text))
    assert len(families) == len({family.name for family in families})


def test_own_samples_get_no_label() -> None:
    assert ("up_seconds", ()) in samples(merged_exposition(page(1.0), []))


LINES = [
    ("up 1", 'up{variant="a"} 1', "no labels"),
    ("up{} 1", 'up{variant="a"} 1', "empty braces"),
    ('up{x="y"} 1', 'up{variant="a",x="y"} 1', "one label"),
    ('up{x="a b{c}"} 1 123', 'up{variant="a",x="a b{c}"} 1 123', "braces and spaces in a value, a timestamp"),
]


@pytest.mark.parametrize(("line", "labelled", "what"), LINES)
def test_labelling(line: str, labelled: str, what: str) -> None:
    assert merged_exposition("", [("a", line + "\n")]) == labelled + "\n", what


def test_a_sample_without_header_keeps_a_family_of_its_own() -> None:
    text = "# TYPE known gauge\nknown 1\nstray 2\n"
    assert merged_exposition(text, [("a", "known 3\n")]).splitlines() == [
        "# TYPE known gauge",
        "known 1",
        'known{variant="a"} 3',
        "stray 2",
    ]
