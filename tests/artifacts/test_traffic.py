"""Levels and workloads: what they say of themselves, what they refuse, and what runs of version 1 mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from artifacts.arrivals import Arrivals, Constant, Gamma, Poisson, Ramp, Replay, Step, Steps
from artifacts.errors import ConfigError
from artifacts.lengths import (
    Length,
    LogNormalTokens,
    NormalTokens,
    TraceTokens,
    UniformTokens,
    length_spec,
    mean_tokens,
)
from artifacts.traffic import ChatFile, Level, SharedPrefix, TraceSource, Workload

STEPS = (Step(rate_per_s=2, for_s=10), Step(rate_per_s=4, for_s=30))


@pytest.mark.parametrize(
    ("arrivals", "rate_per_s", "label"),
    [
        (Constant(rate_per_s=2.5), 2.5, "2.5 requests/s, constant"),
        (Poisson(rate_per_s=2.5), 2.5, "2.5 requests/s, poisson"),
        (Gamma(rate_per_s=8, burstiness=0.5), 8, "8 requests/s, gamma, burstiness 0.5"),
        (Steps(steps=STEPS), 3.5, "steps of 2 for 10 s, 4 for 30 s, requests/s, poisson"),
        (Ramp(from_rate_per_s=1, to_rate_per_s=8, spacing="constant"), 4.5, "1 to 8 requests/s, constant"),
        (Replay(rate_per_s=5.4321), 5.4321, "trace, 5.43 requests/s"),
        (Replay(), None, "trace"),
    ],
)
def test_arrivals_name_themselves_and_their_mean_rate(arrivals: Arrivals, rate_per_s: float | None, label: str) -> None:
    level = Level(arrivals=arrivals)
    assert (level.loop, level.label) == ("open", label)
    assert level.stationary == (arrivals.kind in ("constant", "poisson", "gamma"))
    assert level.rate_per_s == (None if rate_per_s is None else pytest.approx(rate_per_s))
    assert Level.model_validate_json(level.model_dump_json()) == level


@pytest.mark.parametrize(
    ("old", "level"),
    [
        ({"concurrency": 4, "rate_per_s": None, "arrivals": None}, Level(concurrency=4)),
        ({"concurrency": None, "rate_per_s": 2.5, "arrivals": "poisson"}, Level(arrivals=Poisson(rate_per_s=2.5))),
        ({"concurrency": None, "rate_per_s": 3, "arrivals": "constant"}, Level(arrivals=Constant(rate_per_s=3))),
    ],
)
def test_levels_of_version_1_mean_what_they_meant(old: dict[str, Any], level: Level) -> None:
    assert Level.parse(old, "an old run") == level


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"rate_per_s": 2.0}, "a rate needs arrivals"),
        ({"rate_per_s": 2.0, "arrivals": "gamma"}, "a rate needs arrivals: constant or poisson"),
        ({"rate_per_s": 2.0, "arrivals": "poisson", "concurrency": 2}, "either a concurrency or a rate"),
        ({"rate_per_s": 2.0, "arrivals": "poisson", "speed": 2}, "speed: Extra inputs"),
        ({"arrivals": {"kind": "poisson", "rate_per_s": 0}}, "greater than 0"),
        ({"arrivals": {"kind": "poisson", "rate_per_s": float("inf")}}, "finite"),
        ({"arrivals": {"kind": "gamma", "rate_per_s": 1, "burstiness": 0}}, "burstiness"),
        ({"arrivals": {"kind": "step", "steps": []}}, "steps"),
        ({"arrivals": {"kind": "step", "steps": [{"rate_per_s": 0, "for_s": 1}]}}, "above 0"),
        ({"arrivals": {"kind": "ramp", "from_rate_per_s": 0, "to_rate_per_s": 0}}, "above 0"),
        ({"arrivals": {"kind": "flood", "rate_per_s": 1}}, "'constant', 'poisson', 'gamma', 'step', 'ramp', 'trace'"),
    ],
)
def test_impossible_levels_are_refused_with_what_is_allowed(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Level.parse(fields, "the level")


@pytest.mark.parametrize(
    ("length", "mean", "spec"),
    [
        (128, 128, "128"),
        (UniformTokens(low=64, high=256), 160, "uniform:64:256"),
        (NormalTokens(mean=100, std=20), 100, "normal:100:20"),
        (NormalTokens(mean=100, std=20, low=10), 100, "normal:100:20:10:"),
        (NormalTokens(mean=100, std=20, low=10, high=150), 100, "normal:100:20:10:150"),
        (LogNormalTokens(median=100, p95=100), 100, "lognormal:100:100"),
        (TraceTokens(), None, "trace"),
        (None, None, None),
    ],
)
def test_lengths_name_themselves_and_their_mean(length: Length | None, mean: float | None, spec: str | None) -> None:
    assert mean_tokens(length) == mean
    assert length is None or length_spec(length) == spec


def test_a_log_normal_law_has_the_median_and_the_percentile_it_is_named_by() -> None:
    law = LogNormalTokens(median=120, p95=600)
    drawn = law.median * np.exp(law.sigma * np.random.default_rng(1).standard_normal(200_000))
    assert np.percentile(drawn, [50, 95]) == pytest.approx([120, 600], rel=0.02)
    assert np.mean(drawn) == pytest.approx(law.mean_tokens or 0, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt_tokens": 0}, "greater than 0"),
        ({"prompt_tokens": None}, "either prompt_tokens or a chat file"),
        ({"chat": {"path": "c.jsonl"}}, "either prompt_tokens or a chat file"),
        ({"prompt_tokens": None, "chat": {"path": "c"}, "prefix": {"share": 0.5}}, "shared prefix"),
        ({"prompt_tokens": {"kind": "trace", "shared_blocks": True}, "prefix": {"share": 0.5}}, "shared prefix"),
        ({"prompt_tokens": {"kind": "uniform", "low": 9, "high": 8}}, "9 is above 8"),
        ({"prompt_tokens": {"kind": "lognormal", "median": 9, "p95": 8}}, "8 is below 9"),
        ({"output_tokens": {"kind": "normal", "mean": 9, "std": 1, "low": 10}}, "between low and high"),
        ({"prefix": {"share": 1.5}}, "share"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_workloads_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Workload.parse({"prompt_tokens": 8, "output_tokens": 8} | changes, "the workload")


def test_only_workloads_that_share_on_purpose_say_so() -> None:
    plain = Workload(prompt_tokens=8, output_tokens=8)
    shared = plain.model_copy(update={"prefix": SharedPrefix(share=0.5)})
    mooncake = plain.model_copy(update={"prompt_tokens": TraceTokens(shared_blocks=True)})
    azure = plain.model_copy(update={"prompt_tokens": TraceTokens()})
    assert [w.shares_prefixes for w in (plain, shared, mooncake, azure)] == [False, True, True, False]
    assert [w.uses_trace for w in (plain, shared, mooncake, azure)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("workload", "label"),
    [
        (Workload(prompt_tokens=8, output_tokens=9), "8 prompt and 9 output tokens"),
        (
            Workload(prompt_tokens=UniformTokens(low=1, high=2), output_tokens=9, prefix=SharedPrefix(share=0.25)),
            "uniform:1:2 prompt, 25% of it one of 1 prefixes and 9 output tokens",
        ),
        (
            Workload(chat=ChatFile(path="c.jsonl"), output_tokens=9, natural_ends=True),
            "conversations and at most 9 output tokens",
        ),
    ],
)
def test_workloads_name_themselves(workload: Workload, label: str) -> None:
    assert workload.label == label


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (TraceSource(path="t.csv"), "--trace t.csv --trace-format azure --time-scale 1 --length-scale 1"),
        (
            TraceSource(path="my t.jsonl", format="mooncake", from_s=60, time_scale=0.5, length_scale=0.1),
            "--trace 'my t.jsonl' --trace-format mooncake --trace-span 60: --time-scale 0.5 --length-scale 0.1",
        ),
        (
            TraceSource(path="t.csv", to_s=90.5),
            "--trace t.csv --trace-format azure --trace-span 0:90.5 --time-scale 1 --length-scale 1",
        ),
    ],
)
def test_a_trace_says_how_to_ask_for_it(source: TraceSource, options: str) -> None:
    assert source.options == options
