"""Lengths are judged by what each request asked for, and survive the disk, also of runs that kept less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from artifacts.run import RequestRecord, Workload, read_requests, write_requests
from loadtest.counters import PREFIX_HITS, PREFIX_QUERIES
from loadtest.gates import Evidence, judge, length_mismatch_share

MakeRecord = Callable[..., RequestRecord]


def evidence(records: list[RequestRecord], **asked: Any) -> Evidence:
    workload = Workload.parse({"prompt_tokens": 99, "output_tokens": 99} | asked, "the test")
    return Evidence(records=records, windows=(), workload=workload, client_cpu_s=0, counters={})


@pytest.mark.parametrize(
    ("asked", "natural", "mismatch"),
    [
        pytest.param((16, 5), False, 0.0, id="as asked, whatever the workload's law"),
        pytest.param((16, 6), False, 1.0, id="shorter than asked"),
        pytest.param((16, 4), False, 1.0, id="longer than asked"),
        pytest.param((17, 5), False, 1.0, id="another prompt was read"),
        pytest.param((None, 5), False, 0.0, id="a conversation's tokens are the server's to count"),
        pytest.param((16, None), False, 0.0, id="records that kept nothing"),
        pytest.param((16, 6), True, 0.0, id="natural ends may come early"),
        pytest.param((16, 4), True, 1.0, id="but not late"),
        pytest.param((17, 5), True, 1.0, id="and prompts are still exact"),
    ],
)
def test_each_answer_is_held_to_its_own_request(
    make_record: MakeRecord, asked: tuple[int | None, int | None], natural: bool, mismatch: float
) -> None:
    record = make_record(asked_prompt_tokens=asked[0], asked_output_tokens=asked[1])
    assert length_mismatch_share(evidence([record], natural_ends=natural)) == mismatch


def test_the_share_is_of_the_measured_successes(make_record: MakeRecord) -> None:
    wrong = make_record(asked_output_tokens=9)
    records = [wrong, make_record(), make_record(), make_record(), replace(wrong, warmup=True)]
    assert length_mismatch_share(evidence([*records, replace(wrong, error="closed: gone")])) == 0.25
    assert length_mismatch_share(evidence([])) is None


@pytest.mark.parametrize(("asked", "passed"), [({}, False), ({"prefix": {"share": 0.5}}, True)])
def test_cache_hits_are_a_fault_only_where_nothing_is_shared(
    make_record: MakeRecord, asked: dict[str, Any], passed: bool
) -> None:
    counters = {"a": {PREFIX_HITS: 40.0, PREFIX_QUERIES: 100.0}}
    gates = {g.name: g for g in judge(replace(evidence([make_record()], **asked), counters=counters))}
    assert (gates["prefix cache hits"].observed, gates["prefix cache hits"].passed) == (0.4, passed)


def test_records_of_version_1_are_read_without_what_they_did_not_keep(make_record: MakeRecord, tmp_path: Path) -> None:
    records = [make_record(), make_record(1.0, index=1)]
    write_requests(tmp_path / "exact.parquet", records)
    records = read_requests(tmp_path / "exact.parquet")
    write_requests(tmp_path / "new.parquet", records)
    assert read_requests(tmp_path / "new.parquet") == records, "times are rounded once"
    table = pq.read_table(tmp_path / "new.parquet").drop_columns(["asked_prompt_tokens", "asked_output_tokens"])
    pq.write_table(table, tmp_path / "old.parquet")
    old = read_requests(tmp_path / "old.parquet")
    assert old == [replace(r, asked_prompt_tokens=None, asked_output_tokens=None) for r in records]
