"""Does the client's calibration say what it can do, with errors that are the client's own?"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from artifacts.errors import LoadTestError
from artifacts.progress import silent
from artifacts.run import RequestRecord, Window
from loadtest.plan import Outcome, Plan
from prunebench import calibration, loading
from prunebench.calibration import ITL_S, TTFT_S, WINDOW_S, calibrate

WINDOW = Window(arm=0, block=0, start_s=0.5, end_s=0.5 + WINDOW_S)


def record(scheduled_s: float, **changes: Any) -> RequestRecord:
    """20 ms to the first of 5 tokens, 10 ms between them, unless changed."""
    ttft_s, itl_s = changes.pop("ttft_s", TTFT_S), changes.pop("itl_s", ITL_S)
    events = tuple(scheduled_s + ttft_s + itl_s * k for k in range(5))
    values: dict[str, Any] = {
        "model": "calibration",
        "block": 0,
        "index": 0,
        "warmup": False,
        "scheduled_s": scheduled_s,
        "sent_s": scheduled_s + 0.0002,
        "first_s": events[0],
        "last_s": events[-1],
        "done_s": events[-1],
        "status": 200,
        "error": None,
        "prompt_tokens": 16,
        "output_tokens": 5,
        "finish_reason": "length",
        "reads": 5,
        "event_s": events,
    }
    return RequestRecord(**(values | changes))


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[RequestRecord], Outcome], list[Plan]]:
    """`playing(records, outcome)` lets every play give those; returns the plans that were asked for."""

    def install(records: list[RequestRecord], outcome: Outcome) -> list[Plan]:
        asked: list[Plan] = []

        def play(plan: Plan, *_: object) -> tuple[list[RequestRecord], Outcome]:
            asked.append(plan)
            return records, outcome

        monkeypatch.setattr(calibration, "play", play)
        return asked

    return install


def outcome(cpu_s: float = 0.1, lags_s: tuple[float, ...] = ()) -> Outcome:
    return Outcome(windows=(WINDOW,), client_cpu_s=cpu_s, served_first=True, loop_lags_s=lags_s)


@pytest.mark.parametrize(("ttft_s", "itl_s"), [(0.020, 0.010), (0.0205, 0.010), (0.020, 0.0103)])
def test_errors_are_what_is_above_the_truth(
    playing: Callable[[list[RequestRecord], Outcome], list[Plan]], ttft_s: float, itl_s: float
) -> None:
    playing([record(0.6 + k / 10, ttft_s=ttft_s, itl_s=itl_s) for k in range(10)], outcome())
    found = calibrate(1000)
    assert found.ttft_p50_error_s == pytest.approx(ttft_s - 0.020, abs=1e-9)
    assert found.itl_p50_error_s == pytest.approx(itl_s - 0.010, abs=1e-9)
    assert found.send_lateness_p99_s == pytest.approx(0.0002)


def test_only_tokens_of_the_window_are_divided_by(
    playing: Callable[[list[RequestRecord], Outcome], list[Plan]],
) -> None:
    """Two answers inside, one cut in two by the window's start (tokens at 0.48, 0.49, 0.5, 0.51, 0.52), one failure."""
    records = [record(0.6), record(1.0), record(0.46, warmup=True), record(0.1, error="closed: early", event_s=())]
    playing(records, outcome(cpu_s=0.26, lags_s=(0.001, 0.003)))
    found = calibrate(1000)
    assert found.tokens_per_s == pytest.approx(13 / WINDOW_S)
    assert found.cpu_us_per_token == pytest.approx(0.26 / 13 * 1e6)
    assert found.cpu_share == pytest.approx(0.13)
    assert (found.failures, found.asked_tokens_per_s) == (1, 1000)
    assert found.loop_lag_p99_s == pytest.approx(0.00298)


@pytest.mark.parametrize(("tokens_per_s", "streams"), [(1, 1), (1000, 10), (5000, 51), (20_000, 204)])
def test_streams_make_the_asked_rate(
    playing: Callable[[list[RequestRecord], Outcome], list[Plan]], tokens_per_s: float, streams: int
) -> None:
    asked = playing([record(0.6)], outcome())
    calibrate(tokens_per_s, client_processes=2)
    assert (asked[0].level.concurrency, asked[0].client_processes) == (streams, 2)
    answer_s = TTFT_S + 49 * ITL_S
    if streams > 1:
        assert streams * 50 / answer_s == pytest.approx(tokens_per_s, rel=0.05)


def test_a_runs_own_load_is_played_at_the_simulator(
    playing: Callable[[list[RequestRecord], Outcome], list[Plan]],
) -> None:
    values = {
        "url": "http://h:1",
        "arms": ["a", "b"],
        "level": {"arrivals": {"kind": "poisson", "rate_per_s": 60}},
        "workload": {"prompt_tokens": 8, "output_tokens": 6},
        "blocks": 12,
        "window_s": 60,
        "lead_in_s": 3,
        "timeout_s": 10,
        "nonce": 1,
        "stop_on": "ttft_p50>1ms",
    }
    asked = playing([record(0.6)], outcome())
    plan = Plan.parse(values, "the test")
    assert loading.calibration_error_s(plan) == pytest.approx(0, abs=1e-9)
    assert (asked[0].level, asked[0].workload, asked[0].nonce) == (plan.level, plan.workload, 1)
    assert (asked[0].arms, asked[0].planned_s, asked[0].stop_on) == (("calibration",), 2.5, "")
    assert asked[0].url.startswith("http://127.0.0.1:")


def test_answers_of_one_token_calibrate_nothing(
    playing: Callable[[list[RequestRecord], Outcome], list[Plan]],
) -> None:
    playing([record(0.6, event_s=(0.7,))], outcome())
    with pytest.raises(LoadTestError, match="saw no tokens"):
        calibrate(1000)


def test_this_machines_client_tells_the_truth_of_a_simulated_engine() -> None:
    """Known values are recovered to 0.2 ms; sends and processor time are the machine's, whatever else it does."""
    found = calibrate(3000, progress=silent)
    assert abs(found.itl_p50_error_s) < 0.0002
    assert -0.001 < found.ttft_p50_error_s < 0.005
    assert found.tokens_per_s == pytest.approx(3000, rel=0.1)
    assert found.failures == 0
    assert 1 < found.cpu_us_per_token < 500
    assert json.loads(found.model_dump_json()) == found.model_dump()
