"""Each gate stays open on a clean run, trips on its planted fault, and on no other gate's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from artifacts.run import Gate, RequestRecord, Window, Workload
from loadtest.counters import PREEMPTIONS, PREFIX_HITS, PREFIX_QUERIES
from loadtest.gates import Evidence, judge

MakeRecord = Callable[..., RequestRecord]
Clean = Callable[..., Evidence]


@pytest.fixture
def clean(make_record: MakeRecord) -> Clean:
    """Two arms, two blocks, eight faultless requests in each."""

    def build(**changes: Any) -> Evidence:
        records = [
            make_record(block + 0.1 * index, arm=arm, block=block, index=index)
            for arm in (0, 1)
            for block in (0, 1)
            for index in range(8)
        ]
        windows = tuple(Window(arm=a, block=b, start_s=b, end_s=b + 1) for b in (0, 1) for a in (0, 1))
        values: dict[str, Any] = {
            "records": records,
            "windows": windows,
            "workload": Workload(prompt_tokens=16, output_tokens=5),
            "client_cpu_s": 0.4,
            "counters": {"a": {PREFIX_HITS: 0.0, PREFIX_QUERIES: 512.0, PREEMPTIONS: 0.0}},
        }
        return Evidence(**(values | changes))

    return build


def by_name(evidence: Evidence) -> dict[str, Gate]:
    return {gate.name: gate for gate in judge(evidence)}


def failed(evidence: Evidence) -> set[str]:
    return {gate.name for gate in judge(evidence) if not gate.passed}


def test_a_clean_run_passes_every_gate_and_says_what_it_saw(clean: Clean) -> None:
    gates = by_name(clean())
    assert failed(clean()) == set()
    assert gates["client CPU share"].observed == pytest.approx(0.1)
    assert gates["send lateness p99"].observed == pytest.approx(0.0001)
    assert gates["events per read"].observed == pytest.approx(1)
    assert gates["requests per block"].observed == 8
    assert gates["requests per arm"].observed == 16


def every(evidence: Evidence, change: Callable[[RequestRecord], RequestRecord]) -> Evidence:
    return replace(evidence, records=[change(r) for r in evidence.records])


def one(evidence: Evidence, change: Callable[[RequestRecord], RequestRecord]) -> Evidence:
    return replace(evidence, records=[change(evidence.records[0]), *evidence.records[1:]])


def bunched(record: RequestRecord) -> RequestRecord:
    times = tuple(record.event_s[k - k % 2] for k in range(5))
    return replace(record, event_s=times)


def four_blocks(evidence: Evidence) -> Evidence:
    """Blocks 2 and 3 are copies of 0 and 1, two seconds later."""
    later = [shifted(replace(r, block=r.block + 2), 2.0) for r in evidence.records]
    windows = [Window(arm=w.arm, block=w.block + 2, start_s=w.start_s + 2, end_s=w.end_s + 2) for w in evidence.windows]
    return replace(evidence, records=[*evidence.records, *later], windows=[*evidence.windows, *windows])


def shifted(record: RequestRecord, by_s: float) -> RequestRecord:
    assert record.sent_s is not None
    assert record.done_s is not None
    return replace(
        record,
        scheduled_s=record.scheduled_s + by_s,
        sent_s=record.sent_s + by_s,
        first_s=record.event_s[0] + by_s,
        last_s=record.event_s[-1] + by_s,
        done_s=record.done_s + by_s,
        event_s=tuple(t + by_s for t in record.event_s),
    )


def drifting(evidence: Evidence, by: float) -> Evidence:
    """Requests from the middle of the window on have their first token at 20 ms times `by`."""

    def change(record: RequestRecord) -> RequestRecord:
        late = record.scheduled_s % 1 > 0.45
        return replace(record, first_s=record.scheduled_s + 0.02 * by) if late else record

    return every(four_blocks(evidence), change)


def hanging(evidence: Evidence) -> Evidence:
    """What hangs is due in the window but under way after it."""
    return every(
        four_blocks(evidence),
        lambda r: replace(r, done_s=r.scheduled_s + 1.0) if r.index == 7 else r,
    )


@pytest.mark.parametrize(
    ("gate", "plant"),
    [
        pytest.param(
            "send lateness p99",
            lambda e: every(e, lambda r: replace(r, sent_s=r.scheduled_s + 0.011)),
            id="sent 11 ms late where the median TTFT is 20 ms",
        ),
        pytest.param("error share", lambda e: one(e, lambda r: replace(r, error="closed: gone")), id="one failure"),
        pytest.param(
            "error share",
            lambda e: one(e, lambda r: replace(r, error="closed: gone", warmup=True)),
            id="one failure in a lead-in",
        ),
        pytest.param("length mismatch", lambda e: one(e, lambda r: replace(r, output_tokens=4)), id="a short answer"),
        pytest.param("length mismatch", lambda e: one(e, lambda r: replace(r, prompt_tokens=17)), id="a longer prompt"),
        pytest.param("events per read", lambda e: every(e, bunched), id="every second event in the same read"),
        pytest.param(
            "events per read",
            lambda e: every(e, lambda r: bunched(r) if r.arm else r),
            id="every second event in the same read, in one arm",
        ),
        pytest.param(
            "event-loop lag p99",
            lambda e: replace(e, loop_lags_s=[0.001] * 98 + [0.02] * 2),
            id="the loop woke 20 ms late in 2 % of the samples",
        ),
        pytest.param(
            "client calibration", lambda e: replace(e, calibration_s=(0.0001, -0.0003)), id="0.3 ms off after the run"
        ),
        pytest.param("window drift", lambda e: drifting(e, by=1.3), id="TTFT a third longer in each second half"),
        pytest.param("window drift", lambda e: drifting(e, by=0.5), id="TTFT twice as long while it warmed up"),
        pytest.param("Little's law", lambda e: hanging(e), id="the last request of each window took 0.5 s longer"),
        pytest.param("client CPU share", lambda e: replace(e, client_cpu_s=2.1), id="busy for over half of 4 s"),
        pytest.param(
            "prefix cache hits",
            lambda e: replace(e, counters={"a": {PREFIX_HITS: 16.0, PREFIX_QUERIES: 512.0}}),
            id="3 % of the prompt tokens from the cache",
        ),
        pytest.param("preemptions", lambda e: replace(e, counters={"a": {PREEMPTIONS: 1.0}}), id="one preemption"),
        pytest.param(
            "requests per block",
            lambda e: replace(e, records=[r for r in e.records if (r.arm, r.block) != (1, 1) or r.index < 1] * 2),
            id="a block of too few requests",
        ),
    ],
)
def test_each_gate_trips_on_its_planted_fault_alone(
    clean: Clean, gate: str, plant: Callable[[Evidence], Evidence]
) -> None:
    evidence = plant(clean())
    if gate == "requests per block":
        evidence = replace(evidence, records=evidence.records[: len(evidence.records) // 2])
        assert gate in failed(evidence)
        assert failed(evidence) <= {gate, "requests per arm"}
        return
    assert failed(evidence) == {gate}


def lasting(record: RequestRecord, seconds: float) -> RequestRecord:
    return replace(record, done_s=record.scheduled_s + seconds)


@pytest.mark.parametrize(("blocks", "times"), [(1, 2), (2, 2), (4, 1)])
def test_littles_law_allows_for_the_length_of_requests_and_for_twice_that_in_few_windows(
    clean: Clean, blocks: int, times: float
) -> None:
    evidence = every(four_blocks(clean()), lambda r: lasting(r, 0.08))
    windows = [w for w in evidence.windows if w.block < blocks]
    few = replace(evidence, windows=windows, records=[r for r in evidence.records if r.block < blocks])
    assert by_name(few)["Little's law"].limit == pytest.approx(times * 0.08)
    assert by_name(every(few, lambda r: lasting(r, 0.01)))["Little's law"].limit == pytest.approx(0.05)


def test_ten_requests_are_too_few_for_a_median(clean: Clean) -> None:
    evidence = clean()
    few = [r for r in evidence.records if r.index < 5]
    assert failed(replace(evidence, records=few)) == {"requests per arm"}


def test_an_arm_that_only_failed_is_not_overlooked(clean: Clean) -> None:
    evidence = clean()
    dead = [replace(r, error="connect: refused", output_tokens=None) if r.arm else r for r in evidence.records]
    assert failed(replace(evidence, records=dead)) == {"error share", "requests per arm", "requests per block"}
    assert by_name(replace(evidence, records=dead))["error share"].observed == 1


def test_lateness_may_grow_with_the_latency_it_is_measured_against(clean: Clean) -> None:
    slow = every(
        clean(), lambda r: replace(r, sent_s=r.scheduled_s + 0.04, first_s=r.scheduled_s + 0.5, event_s=r.event_s)
    )
    gate = by_name(slow)["send lateness p99"]
    assert gate.limit == pytest.approx(0.05)
    assert gate.passed


def test_a_server_that_keeps_no_metrics_is_not_judged_by_them(clean: Clean) -> None:
    gates = by_name(clean(counters={}))
    assert gates["prefix cache hits"].observed is None
    assert gates["preemptions"].observed is None
    assert gates["preemptions"].passed


def test_a_run_without_any_record_is_invalid(clean: Clean) -> None:
    assert failed(clean(records=[])) == {"requests per arm", "requests per block"}


def test_every_gate_says_cause_and_remedy(clean: Clean) -> None:
    assert all(gate.cause.endswith(".") and gate.remedy.endswith(".") for gate in judge(clean()))
