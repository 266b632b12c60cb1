"""Recorded traffic in the layouts it comes in: what is read, and how a faulty line is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.files import sha256_of_file
from artifacts.traffic import TraceFormat, TraceSource
from loadtest.traces import TraceRequest, identified, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:46.6805900,879,55
"""
AZURE_2024 = """"TIMESTAMP","ContextTokens","GeneratedTokens"
"2024-05-10 23:59:59.500000+00:00","10","1"
"2024-05-11 00:00:00.750000+00:00","20","0"
"""
MOONCAKE = [
    {"timestamp": 1000, "input_length": 1200, "output_length": 52, "hash_ids": [46, 47, 48]},
    {"timestamp": 4500, "input_length": 1300, "output_length": 5, "hash_ids": [46, 47, 90]},
]


def trace(folder: Path, text: str, name: str = "trace.csv", form: TraceFormat = "azure", **more: float) -> TraceSource:
    (folder / name).write_text(text)
    return TraceSource(path=str(folder / name), format=form, **more)


def rows(found: tuple[TraceRequest, ...]) -> list[tuple[float, int, int]]:
    return [(r.at_s, r.prompt_tokens, r.output_tokens) for r in found]


def test_azure_times_have_seven_digits_and_cross_minutes(tmp_path: Path) -> None:
    assert rows(read_trace(trace(tmp_path, AZURE))) == [(0, 374, 44), (4.314579, 396, 109), (60, 879, 55)]


def test_quotes_zones_and_midnight_make_no_difference(tmp_path: Path) -> None:
    assert rows(read_trace(trace(tmp_path, AZURE_2024))) == [(0, 10, 1), (1.25, 20, 0)]


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    source = trace(tmp_path, "")
    Path(source.path).write_bytes(b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode())
    assert len(read_trace(source)) == 3


def test_mooncake_counts_milliseconds_and_names_blocks(tmp_path: Path) -> None:
    found = read_trace(trace(tmp_path, "\n".join(map(json.dumps, MOONCAKE)) + "\n\n", "t.jsonl", "mooncake"))
    assert rows(found) == [(0, 1200, 52), (3.5, 1300, 5)]
    assert [r.blocks for r in found] == [(46, 47, 48), (46, 47, 90)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "time_s,prompt_tokens,output_tokens\n5,10,2\n7.5,20,3\n"),
        ("t.csv", "output_tokens, prompt_tokens, time_s, user\n2, 10, 5, me\n3, 20, 7.5, you\n"),
        ("t.jsonl", '{"time_s": 7.5, "prompt_tokens": 20, "output_tokens": 3}\n'
                    '{"time_s": 5, "prompt_tokens": 10, "output_tokens": 2, "user": "me"}\n'),
    ],
    ids=["plain", "other order and columns, spaces", "JSON lines out of order"],
)  # fmt: skip
def test_generic_traces(tmp_path: Path, name: str, text: str) -> None:
    assert rows(read_trace(trace(tmp_path, text, name, "generic"))) == [(0, 10, 2), (2.5, 20, 3)]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ({"from_s": 4.0}, [(0.314579, 396, 109), (56, 879, 55)]),
        ({"to_s": 60.0}, [(0, 374, 44), (4.314579, 396, 109)]),
        ({"from_s": 4.0, "to_s": 5.0}, [(0.314579, 396, 109)]),
    ],
    ids=["from", "the end is outside", "both"],
)
def test_a_span_counts_from_its_own_start(
    tmp_path: Path, span: dict[str, float], expected: list[tuple[float, int, int]]
) -> None:
    assert rows(read_trace(trace(tmp_path, AZURE, **span))) == expected


FAULTS = [
    ("azure", "t.csv", AZURE + "2023-11-16 18:99:00,1,1\n", r"line 5: TIMESTAMP '2023-11-16 18:99:00' is not a time"),
    ("azure", "t.csv", AZURE + "2023-11-16 18:17:00,many,1\n", r"line 5: ContextTokens 'many' is not a number"),
    ("azure", "t.csv", AZURE + "2023-11-16 18:17:00,1,-4\n", r"line 5: GeneratedTokens '-4' is not a number"),
    ("azure", "t.csv", AZURE + "2023-11-16 18:17:00,1\n", r"line 5: GeneratedTokens None is not a number"),
    ("azure", "t.csv", "a,b\n1,2\n", r"no column TIMESTAMP, ContextTokens, GeneratedTokens; .* names a, b\."),
    ("azure", "t.csv", "", r"no column .* names none.*generic \(time_s, prompt_tokens, output_tokens\)"),
    ("azure", "t.csv", AZURE.splitlines()[0], r"no request from 0 s to inf s\. It holds 0 requests"),
    ("generic", "t.csv", "time_s,prompt_tokens,output_tokens\nnan,1,1\n", r"line 2: time_s 'nan' is not a time"),
    ("mooncake", "t.jsonl", '{"timestamp": 1}\n', r"line 1 has no input_length.*mooncake \(timestamp, input_length"),
    ("mooncake", "t.jsonl", json.dumps(MOONCAKE[0]) + "\n{oops\n", r"line 2 is not JSON"),
    ("mooncake", "t.jsonl", "[1]\n", r"line 1 is no JSON object"),
    ("mooncake", "t.jsonl", json.dumps(MOONCAKE[0] | {"hash_ids": "x"}), r"line 1: hash_ids 'x' is not a list"),
    ("mooncake", "t.jsonl", json.dumps(MOONCAKE[0] | {"input_length": 1.5}), r"line 1: input_length 1.5 is not"),
]


@pytest.mark.parametrize(("form", "name", "text", "sentence"), FAULTS, ids=[fault[3] for fault in FAULTS])
def test_a_fault_is_told_with_its_line(tmp_path: Path, form: TraceFormat, name: str, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_trace(trace(tmp_path, text, name, form))


def test_a_span_beyond_the_trace_says_how_long_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no request from 61 s to 90 s\. It holds 3 requests in 60 s"):
        read_trace(trace(tmp_path, AZURE, from_s=61, to_s=90))


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    source = TraceSource(path=str(tmp_path / "none.csv"))
    for read in (read_trace, identified):
        with pytest.raises(ConfigError, match="cannot be read"):
            read(source)
    Path(source.path).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(source)


def test_a_trace_is_known_by_its_hash(tmp_path: Path) -> None:
    source = identified(trace(tmp_path, AZURE))
    assert source.sha256 == sha256_of_file(Path(source.path))
