"""The options of `prunebench loadtest`: what they come to, what they refuse, and that a run repeats its own command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from artifacts.arrivals import Constant, Gamma, Poisson, Ramp, Replay, Spacing, Step, Steps
from artifacts.lengths import LogNormalTokens, NormalTokens, TraceTokens, UniformTokens
from artifacts.run import Level, Workload
from artifacts.traffic import ChatFile, SharedPrefix, TraceFormat, TraceSource
from loadtest.runner import LoadTestRequest
from prunebench import loading
from prunebench.choices import Arrivals, TraceLayout
from tests.prunebench.conftest import Verb

PLAIN = Workload(prompt_tokens=128, output_tokens=64)


@pytest.fixture
def asked(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `loadtest` with these options and returns what it would have measured."""

    def ask(options: str) -> LoadTestRequest:
        seen: list[LoadTestRequest] = []
        monkeypatch.setattr(loading, "measure_load", lambda request, *_: seen.append(request) or True)
        outcome = verb("loadtest", "--url", "http://h:1", "--model", "m", "--out", "run", *shlex.split(options))
        assert (outcome.code, outcome.stderr) == (0, "")
        return seen[0]

    return ask


LEVELS = [
    ("--concurrency 8", Level(concurrency=8)),
    ("--rate 5", Level(arrivals=Poisson(rate_per_s=5))),
    ("--rate 5 --arrivals constant", Level(arrivals=Constant(rate_per_s=5))),
    ("--rate 5 --arrivals gamma --burstiness 0.5", Level(arrivals=Gamma(rate_per_s=5, burstiness=0.5))),
    ("--ramp 1:8", Level(arrivals=Ramp(from_rate_per_s=1, to_rate_per_s=8))),
    (
        "--ramp 8:0 --arrivals gamma --burstiness 2",
        Level(arrivals=Ramp(from_rate_per_s=8, to_rate_per_s=0, spacing="gamma", burstiness=2)),
    ),
    (
        "--step 2x10,0.5x2.5 --arrivals constant",
        Level(
            arrivals=Steps(steps=(Step(rate_per_s=2, for_s=10), Step(rate_per_s=0.5, for_s=2.5)), spacing="constant")
        ),
    ),
    ("--trace t.csv", Level(arrivals=Replay())),
    ("--trace t.csv --concurrency 4", Level(concurrency=4)),
    ("--trace t.csv --rate 4", Level(arrivals=Poisson(rate_per_s=4))),
]


@pytest.mark.parametrize(("options", "level"), LEVELS, ids=[options for options, _ in LEVELS])
def test_a_load_is_what_its_options_say(asked: Any, options: str, level: Level) -> None:
    request = asked(options)
    assert request.level == level
    trace = request.trace.options if request.trace else ""
    assert asked(f"{level.options} {trace}").level == level


WORKLOADS = [
    ("", PLAIN),
    ("--prompt-tokens 64 --output-tokens 2 --seed 3", Workload(prompt_tokens=64, output_tokens=2, seed=3)),
    (
        "--prompt-tokens uniform:64:256 --output-tokens lognormal:128:512.5",
        Workload(prompt_tokens=UniformTokens(low=64, high=256), output_tokens=LogNormalTokens(median=128, p95=512.5)),
    ),
    (
        "--prompt-tokens normal:100:20 --output-tokens normal:50:9:10:90",
        Workload(
            prompt_tokens=NormalTokens(mean=100, std=20), output_tokens=NormalTokens(mean=50, std=9, low=10, high=90)
        ),
    ),
    ("--prefix-share 0.5", PLAIN.model_copy(update={"prefix": SharedPrefix(share=0.5)})),
    (
        "--prefix-share 0.25 --prefixes 9 --natural-ends",
        PLAIN.model_copy(update={"prefix": SharedPrefix(share=0.25, prefixes=9), "natural_ends": True}),
    ),
    ("--chat 'my c.jsonl'", Workload(chat=ChatFile(path="my c.jsonl"), output_tokens=64)),
    ("--trace t.csv", Workload(prompt_tokens=TraceTokens(), output_tokens=TraceTokens())),
    ("--trace t.csv --output-tokens 9", Workload(prompt_tokens=TraceTokens(), output_tokens=9)),
    ("--trace t.csv --chat c", Workload(chat=ChatFile(path="c"), output_tokens=TraceTokens())),
    (
        "--trace t.jsonl --trace-format mooncake",
        Workload(prompt_tokens=TraceTokens(shared_blocks=True), output_tokens=TraceTokens()),
    ),
]


@pytest.mark.parametrize(("options", "workload"), WORKLOADS, ids=[options for options, _ in WORKLOADS])
def test_work_is_what_its_options_say(asked: Any, options: str, workload: Workload) -> None:
    request = asked(f"--concurrency 1 {options}")
    assert request.workload == workload
    trace = request.trace.options if request.trace else ""
    assert asked(f"--concurrency 1 {workload.options} {trace}").workload == workload


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ("", TraceSource(path="t.csv")),
        (
            "--trace-format generic --trace-span 600:1200 --time-scale 0.1 --length-scale 0.5",
            TraceSource(path="t.csv", format="generic", from_s=600, to_s=1200, time_scale=0.1, length_scale=0.5),
        ),
        ("--trace-span 60:", TraceSource(path="t.csv", from_s=60)),
        ("--trace-span :60", TraceSource(path="t.csv", to_s=60)),
    ],
)
def test_a_trace_is_what_its_options_say(asked: Any, options: str, source: TraceSource) -> None:
    assert asked(f"--trace t.csv {options}").trace == source
    assert asked(source.options).trace == source


@pytest.mark.parametrize(
    ("options", "duration_s"),
    [
        ("--concurrency 1", 60),
        ("--concurrency 1 --duration 12.5", 12.5),
        ("--step 2x10,4x5 --blocks 4", 60),
        ("--step 2x10,4x10 --blocks 4", 80),
        ("--step 2x10 --duration 90 --blocks 4", 90),
    ],
)
def test_steps_decide_the_duration_unless_it_is_given(asked: Any, options: str, duration_s: float) -> None:
    assert asked(options).duration_s == duration_s


def test_the_context_and_a_mix_are_passed_on(asked: Any) -> None:
    request = asked("--rate 1 --context-tokens 512 --model a=0.9,b=0.1 --against m")
    assert (request.context_tokens, request.models, request.against) == (512, ("m", "a=0.9,b=0.1"), "m")


WRONG = [
    ("", ("--concurrency", "--rate", "--step", "--ramp", "--trace")),
    ("--rate 1 --ramp 1:2", ("not --rate and --ramp",)),
    ("--rate 0", ("--rate 0", "greater than 0")),
    ("--rate 1 --arrivals gamma", ("--burstiness", "belong together")),
    ("--rate 1 --burstiness 2", ("--arrivals gamma",)),
    ("--concurrency 2 --arrivals gamma --burstiness 2", ("--rate, --step or --ramp",)),
    ("--rate 1 --arrivals gamma --burstiness 0", ("burstiness", "greater than 0")),
    ("--ramp 1-8", ("'1-8'", "FROM:TO", "1:8")),
    ("--ramp 0:0", ("above 0",)),
    ("--step 2@10", ("'2@10'", "2x10,4x10")),
    ("--step 2x0", ("for_s", "greater than 0")),
    ("--concurrency 1 --prompt-tokens many", ("--prompt-tokens 'many'", "lognormal:MEDIAN:P95")),
    ("--concurrency 1 --prompt-tokens 0", ("--prompt-tokens '0'", "from 1 up")),
    ("--concurrency 1 --output-tokens 1", ("--output-tokens '1'", "from 2 up")),
    ("--concurrency 1 --output-tokens uniform:9:8", ("'uniform:9:8'", "uniform:LOW:HIGH")),
    ("--concurrency 1 --output-tokens uniform:9", ("'uniform:9'", "uniform:LOW:HIGH")),
    ("--concurrency 1 --output-tokens uniform:1:2:3", ("'uniform:1:2:3'",)),
    ("--concurrency 1 --time-scale 2", ("--time-scale", "without --trace")),
    ("--trace t.csv --time-scale 0", ("time_scale", "greater than 0")),
    ("--trace t.csv --trace-span x:2", ("from_s", "valid number")),
    ("--trace none.csv", ("none.csv", "cannot be read")),
    ("--trace none.csv --rate 1 --prompt-tokens 5 --output-tokens 5", ("no effect", "--trace")),
    ("--concurrency 1 --chat c --prompt-tokens 5", ("--prompt-tokens", "--chat")),
    ("--concurrency 1 --chat none.jsonl", ("none.jsonl", "cannot be read")),
    ("--concurrency 1 --prefixes 5", ("--prefixes", "--prefix-share")),
    ("--concurrency 1 --prefix-share 2", ("prefix.share", "less than or equal to 1")),
    ("--concurrency 1 --model a=1,b=x", ("'a=1,b=x'", "dense=0.9,pruned=0.1")),
    ("--step 2x10 --duration 8", ("10 s", "8 s")),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=[options or "nothing" for options, _ in WRONG])
def test_what_cannot_be_asked_is_one_sentence_that_says_what_can(
    verb: Verb, tmp_path: Path, options: str, words: tuple[str, ...]
) -> None:
    where = ("--url", "http://127.0.0.1:9", "--model", "m", "--out", tmp_path / "run", "--blocks", 1)
    outcome = verb("loadtest", *where, *shlex.split(options))
    last = outcome.stderr.strip().splitlines()[-1]
    assert (outcome.code, last[:7]) == (2, "error: ")
    assert [word for word in words if word not in last] == []
    assert list(tmp_path.iterdir()) == []


def test_the_choices_are_what_the_load_tester_knows() -> None:
    assert {choice.value for choice in Arrivals} == set(get_args(Spacing))
    assert {choice.value for choice in TraceLayout} == set(get_args(TraceFormat))


def test_the_help_teaches_every_option(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = verb("loadtest", "--help").stdout
    for word in (
        "--burstiness",
        "--step",
        "--ramp",
        "--trace-span",
        "--length-scale",
        "--prefix-share",
        "hash_ids",
        "--hardware",
    ):
        assert word in shown
