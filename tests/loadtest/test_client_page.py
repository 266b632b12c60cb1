"""A load test's own page: what it counts, when it is rendered, and that a scrape gets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifacts.errors import ConfigError
from artifacts.run import Level, RequestRecord, Workload
from loadtest.client_page import ClientPage
from loadtest.plan import Plan

PLAN = Plan(
    url="http://127.0.0.1:1",
    arms=("dense", "ffn-50"),
    level=Level(concurrency=1),
    workload=Workload(prompt_tokens=4, output_tokens=5),
    blocks=2,
    window_s=8,
    lead_in_s=2,
    timeout_s=5,
    nonce=1,
)
RECORD = RequestRecord(
    model="dense",
    block=0,
    index=0,
    warmup=False,
    scheduled_s=1.0,
    sent_s=1.0004,
    first_s=1.25,
    last_s=1.45,
    done_s=1.46,
    status=200,
    error=None,
    prompt_tokens=4,
    output_tokens=5,
    finish_reason="length",
    reads=5,
    event_s=(1.25, 1.30, 1.35, 1.40, 1.45),
)
PREFIX = "prunebench_loadtest_"


def values(page: ClientPage) -> dict[str, float]:
    """Samples by name, with the values of their labels behind them, in the labels' order."""
    families = text_string_to_metric_families(page.page.decode())
    return {
        " ".join(
            (sample.name.removeprefix(PREFIX), *(value for _, value in sorted(sample.labels.items())))
        ): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def page() -> ClientPage:
    return ClientPage(PLAN)


def test_request_counts_where_it_belongs(page: ClientPage) -> None:
    page.heard(RECORD)
    page.at(40, 40)
    found = values(page)
    assert found["offered_requests_total dense"] == found["completed_requests_total dense"] == 1
    assert found["output_tokens_total dense"] == 5
    assert found["time_to_first_token_seconds_sum dense"] == pytest.approx(0.25)
    assert found["time_per_output_token_seconds_sum dense"] == pytest.approx(0.05)
    assert found["e2e_seconds_sum dense"] == pytest.approx(0.45)
    assert found["send_lateness_seconds_sum dense"] == pytest.approx(0.0004)
    assert found["send_lateness_seconds_bucket 0.0003 dense"] == 0
    assert found["send_lateness_seconds_bucket 0.0005 dense"] == 1


def test_failed_request_is_offered_and_not_completed(page: ClientPage) -> None:
    page.heard(replace(RECORD, error="timeout: nothing came", output_tokens=None))
    page.at(0, 40)
    found = values(page)
    assert found["offered_requests_total dense"] == found["failed_requests_total timeout dense"] == 1
    assert found["completed_requests_total dense"] == 0
    assert found["time_to_first_token_seconds_count dense"] == 0


@pytest.mark.parametrize(
    ("done_s", "open_window"),
    [(0.0, None), (1.9, None), (2.0, 0), (9.9, 0), (10.0, None), (12.0, 1), (22.5, 1), (32.5, 0), (40.0, None)],
)
def test_window_is_open_for_the_arm_that_is_measured(page: ClientPage, done_s: float, open_window: int | None) -> None:
    """Two blocks in the order dense, ffn-50, ffn-50, dense; 2 s of lead-in before each 8 s."""
    assert [segment.arm for segment in PLAN.segments] == [0, 1, 1, 0]
    page.at(done_s, 40)
    found = values(page)
    assert [found[f"window_open {arm}"] for arm in PLAN.arms] == [float(open_window == n) for n in (0, 1)]
    assert found["progress_ratio"] == pytest.approx(done_s / 40)


def test_counts_are_rendered_between_segments_only(page: ClientPage) -> None:
    page.at(0, 40)
    page.heard(RECORD)
    before = page.page
    page.at(1.0, 40)
    assert page.page is before  # nothing was rendered
    page.at(2.5, 40)
    assert values(page)["offered_requests_total dense"] == 0  # the window opened: gauges only
    page.at(10.0, 40)
    assert values(page)["offered_requests_total dense"] == 1


def test_every_arm_begins_at_zero(page: ClientPage) -> None:
    """A rate sees the first segment's requests only if something was there before them."""
    page.at(0, 40)
    found = values(page)
    for arm in PLAN.arms:
        assert found[f"offered_requests_total {arm}"] == found[f"e2e_seconds_count {arm}"] == 0


def test_every_family_has_its_help_and_type(page: ClientPage) -> None:
    page.at(0, 40)
    text = page.page.decode()
    helps, types = (set(re.findall(rf"^# {kind} (\S+)", text, re.MULTILINE)) for kind in ("HELP", "TYPE"))
    assert helps == types
    assert len(helps) >= 10


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from tests.ports import free_port

    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PRUNEBENCH_METRICS_ADDRESS", address)
    yield address


@pytest.mark.parametrize("address", ["9646", "host:", "host:http"])
def test_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from loadtest.page_server import shown

    monkeypatch.setenv("PRUNEBENCH_METRICS_ADDRESS", address)
    with pytest.raises(ConfigError, match="is no address for the metrics page"), shown(PLAN):
        pass
