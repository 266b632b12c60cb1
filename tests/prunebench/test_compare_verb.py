"""The verb `compare`: what it asks for, what it prints, how it ends; and shares as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from artifacts.campaign import Campaign
from artifacts.errors import ConfigError
from artifacts.run import Level
from loadtest import campaign as module
from loadtest.campaign import CampaignRequest, conclude
from prunebench.choices import parse_share
from tests.campaigns import make_run

QUIET = (1.0, 1.01, 0.99, 1.0, 1.005, 0.995)
FAILING_WINDOW_S = 7
FASTER = (1.5, 1.52, 1.49, 1.51, 1.5, 1.48)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[CampaignRequest]:
    """What reaches the load tester; it answers with hand-made runs of the same levels."""
    heard: list[CampaignRequest] = []

    def pretend(request: CampaignRequest, progress: Any) -> Campaign:
        heard.append(request)
        control = QUIET if request.control else None
        passed = request.window_s != FAILING_WINDOW_S
        return conclude(
            request, [make_run(model=FASTER, control=control, level=at, passed=passed) for at in request.levels]
        )

    monkeypatch.setattr(module, "run_campaign", pretend)
    return heard


def arguments(*more: str) -> list[str]:
    return ["compare", "--url", "http://h:1", "--model", "small", "--against", "dense", "--out", "c", *more]


def test_levels_and_rates_become_levels(asked: list[CampaignRequest], verb: Any) -> None:
    assert verb(*arguments("--levels", "1,4", "--rates", "2.5", "--arrivals", "constant")).code == 0
    (request,) = asked
    assert request.levels == (
        Level(concurrency=1),
        Level(concurrency=4),
        Level(rate_per_s=2.5, arrivals="constant"),
    )
    assert request.design.family == 3 * 4
    assert (request.control, request.against, request.models) == (True, "dense", ("small",))


def test_the_wanted_effect_is_designed_for_and_said_first(asked: list[CampaignRequest], verb: Any) -> None:
    done = verb(*arguments("--levels", "4", "--detect", "5%", "--spread", "4%", "--window", "1"))
    (request,) = asked
    assert request.design.wanted == pytest.approx(0.05)
    assert (request.design.minimum_detectable or 1) <= 0.05
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"{request.design.blocks} blocks that spread by 4.0% (given)")
    assert f"{request.measured_s:.0f} s of load" in first
    assert request.measured_s == pytest.approx(request.design.blocks * 3 * 2)


def test_the_result_is_one_line_and_the_table_has_both_intervals(asked: list[CampaignRequest], verb: Any) -> None:
    done = verb(*arguments("--levels", "4"))
    assert (done.result["valid"], done.result["control_held"]) == (True, True)
    assert {q["verdict"] for q in done.result["questions"]} == {"faster"}
    assert len(done.result["questions"][0]["estimate"]["intervals"]) == 2
    assert "BCa" in done.stderr


def test_an_invalid_campaign_ends_with_one_and_names_the_gate(asked: list[CampaignRequest], verb: Any) -> None:
    done = verb(*arguments("--levels", "4", "--window", str(FAILING_WINDOW_S)))
    assert done.code == 1
    assert done.result["valid"] is False
    assert "concurrency 4 is not valid: g = 1.0 (limit 0.0 ). C. R." in done.stderr


def test_no_control_on_request(asked: list[CampaignRequest], verb: Any) -> None:
    assert verb(*arguments("--levels", "4", "--no-control")).code == 0
    assert not asked[0].control


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--levels", "1,x"), "--levels '1,x'"),
        (("--rates", "fast"), "--rates 'fast'"),
        (("--levels", "0"), "not a valid Level"),
        (("--levels", "4", "--detect", "-1%"), "--detect '-1%'"),
        (("--levels", "4", "--detect", "0.01%"), "cannot be shown"),
        (("--levels", "4", "--pilot", "nowhere"), "holds no run.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_options_are_one_sentence(verb: Any, more: tuple[str, ...], sentence: str) -> None:
    done = verb(*arguments(*more))
    assert done.code == 2
    assert sentence in done.stderr


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125), (None, None)])
def test_shares_as_people_write_them(text: str | None, value: float | None) -> None:
    assert parse_share("--x", text) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("text", ["", "five", "0", "nan", "inf", "-3%", "%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--x"):
        parse_share("--x", text)
