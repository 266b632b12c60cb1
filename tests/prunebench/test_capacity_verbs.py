"""`search` and `sweep` from the command line: what they refuse, how they read levels, what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.capacity import CapacityRatio, CapacitySearch, SearchPolicy, VariantCapacity
from artifacts.errors import ConfigError
from artifacts.provenance import collect_provenance
from artifacts.run import Level, Workload
from artifacts.slo import PRESETS, parse_slo
from loadtest import saturation
from prunebench.capacity import capacity_summary, parse_levels, patience_s
from tests.prunebench.conftest import Verb

NOWHERE = ("--url", "http://127.0.0.1:9", "--model", "dense")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "--slo", "ttft<1s"), ("'ttft<1s' is no limit", "ttft_p95<500ms")),
        (("search", "--slo", "ttft_p95<1s"), ("127.0.0.1:9", "cannot be reached")),
        (("search", "--slo", "ttft_p95<1s", "--precision", "1"), ("precision", "1.01")),
        (("search", "--slo", "ttft_p95<1s", "--start-rate", "0"), ("start_rate_per_s",)),
        (("search", "--slo", "ttft_p95<1s", "--highest-rate", "0.5"), ("start rate must lie between",)),
        (("search", "--slo", "ttft_p95<1s", "--look", "0"), ("longer than 0 s",)),
        (("search", "--slo", "ttft_p95<1s", "--model", "dense"), ("distinct",)),
        (("sweep",), ("127.0.0.1:9", "cannot be reached")),
        (("sweep", "--levels", "1,x"), ("--levels '1,x'",)),
        (("sweep", "--levels", "1,1"), ("each given once",)),
        (("sweep", "--levels", "0"), ("concurrency",)),
        (("sweep", "--rates", "1,-1"), ("rate_per_s",)),
        (("sweep", "--rates", "1;2"), ("--rates '1;2'",)),
        (("sweep", "--levels", "1", "--rates", "1"), ("--levels and --rates",)),
        (("sweep", "--slo", "fast"), ("'fast' is no limit",)),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("search", "sweep") else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    verb: Verb, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    outcome = verb(*arguments, *NOWHERE, "--out", tmp_path / "out")
    said = outcome.stderr.strip().splitlines()[-1]
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said.startswith("error: ")
    assert all(word in said for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("levels", "rates", "parsed"),
    [
        (None, None, tuple(Level(concurrency=n) for n in (1, 2, 4, 8, 16))),
        ("3", None, (Level(concurrency=3),)),
        (None, "0.5,2", tuple(Level.parse({"rate_per_s": r, "arrivals": "poisson"}, "x") for r in (0.5, 2.0))),
    ],
)
def test_levels(levels: str | None, rates: str | None, parsed: tuple[Level, ...]) -> None:
    assert parse_levels(levels, rates) == parsed


def test_a_level_is_one_or_the_other() -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        parse_levels("1", "1")


@pytest.mark.parametrize(("longest_s", "expected_s"), [(None, 600), (0.5, 10), (8.3, 33.2), (1000.0, 600)])
def test_a_request_is_given_up_when_it_is_late_by_any_limit(longest_s: float | None, expected_s: float) -> None:
    assert patience_s(longest_s) == pytest.approx(expected_s)


def test_help_names_every_preset(verb: Verb) -> None:
    said = " ".join(verb("search", "--help").stdout.replace("│", " ").split())
    assert "mlperf-llama3.1-8b-conversational (2 s, 100 ms), -interactive (500 ms, 30 ms)" in said
    families = {name.removesuffix("-conversational").removesuffix("-interactive") for name in PRESETS}
    assert all(family in said for family in families)


def variant(model: str, rate_per_s: float | None, confirmed: bool) -> VariantCapacity:
    return VariantCapacity(
        model=model,
        fingerprint=None,
        rate_per_s=rate_per_s,
        above_per_s=12,
        missed_per_s=12,
        goodput_per_s=rate_per_s,
        confirmed=confirmed,
        limited_by="server",
        verdict=f"{model} was searched.",
        levels=(),
    )


def found(confirmed: bool) -> CapacitySearch:
    return CapacitySearch(
        url="http://x",
        slo=parse_slo("ttft_p95<1s"),
        workload=Workload(prompt_tokens=8, output_tokens=8),
        policy=SearchPolicy(),
        arrivals="poisson",
        confidence=0.95,
        look_s=1,
        warmup_s=1,
        timeout_s=1,
        variants=(variant("dense", 8, True), variant("pruned", 10, confirmed)),
        ratios=(CapacityRatio(model="pruned", against="dense", value=1.25, low=0.83, high=1.5),),
        provenance=collect_provenance(),
    )


@pytest.mark.parametrize(("confirmed", "code"), [(True, 0), (False, 1)])
def test_the_answer_is_sentences_and_one_json_line(
    verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confirmed: bool, code: int
) -> None:
    asked: list[Any] = []

    def instead(request: Any, progress: Any) -> CapacitySearch:
        asked.append(request)
        return found(confirmed)

    monkeypatch.setattr(saturation, "search_capacity", instead)
    slo = "mlperf-llama3.1-8b-interactive"
    outcome = verb("search", *NOWHERE, "--slo", slo, "--precision", "1.25", "--out", tmp_path / "out")
    assert outcome.code == code
    assert "pruned was searched." in outcome.stderr
    (line,) = outcome.stdout.splitlines()
    assert json.loads(line) == {
        "out": str(tmp_path / "out"),
        **json.loads(json.dumps(capacity_summary(found(confirmed)))),
    }
    (request,) = asked
    assert (request.slo, request.arrivals) == (PRESETS[slo], "poisson")
    assert request.look_s == pytest.approx(2 * 0.5 / (1 - 1 / 1.25))
    assert request.timeout_s == pytest.approx(10)
