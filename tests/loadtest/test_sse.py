"""Any cut of the same bytes gives the same events, and every fault of a server gets a name instead of an exception."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.sse import Answer, EventSplitter, parse_answer


def event(text: str | None = "a", finish: str | None = None, **more: object) -> bytes:
    choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": finish}]
    return b"data: " + json.dumps({"choices": choices, **more}, ensure_ascii=False).encode() + b"\n\n"


def usage(output_tokens: int = 3) -> bytes:
    return event(None, usage={"prompt_tokens": 7, "completion_tokens": output_tokens})


DONE = b"data: [DONE]\n\n"
STREAM = [event(), event("ü\n"), event("c", "length"), usage(), DONE]


def chunked(pieces: list[bytes], status: int = 200) -> bytes:
    head = b"HTTP/1.1 %d X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" % status
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def counted(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def parsed(raw: bytes) -> Answer:
    return parse_answer([(1, raw)])


def reads_cut_at(raw: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    edges = [0, *sorted({c for c in cuts if 0 < c < len(raw)}), len(raw)]
    return [(number, raw[a:b]) for number, (a, b) in enumerate(itertools.pairwise(edges))]


@given(st.lists(st.integers(1, 700), max_size=40), st.lists(st.integers(1, 200), max_size=10))
def test_any_rechunking_and_any_reads_give_the_same_events(read_cuts: list[int], chunk_cuts: list[int]) -> None:
    body = b"".join(STREAM)
    raw = chunked([piece for _, piece in reads_cut_at(body, chunk_cuts)])
    answer = parse_answer(reads_cut_at(raw, read_cuts))
    assert answer.error is None
    assert len(answer.event_ns) == 3
    assert (answer.prompt_tokens, answer.output_tokens, answer.finish_reason) == (7, 3, "length")


def test_every_single_cut_and_byte_by_byte() -> None:
    raw = chunked(STREAM)
    for cut in range(1, len(raw)):
        assert parse_answer(reads_cut_at(raw, [cut])).error is None
    assert len(parse_answer(reads_cut_at(raw, list(range(len(raw))))).event_ns) == 3


def test_an_event_has_the_time_of_the_read_that_completed_it() -> None:
    raw = chunked(STREAM)
    second = raw.index(STREAM[1]) + len(STREAM[1]) - 1  # all but the last byte of the second event
    answer = parse_answer([(10, raw[:second]), (20, raw[second:])])
    assert answer.event_ns == [10, 20, 20]


@pytest.mark.parametrize(
    ("pieces", "data"),
    [
        pytest.param([b"data: x\n\n"], [b"x"], id="a plain event"),
        pytest.param([b"data: x\r\n\r\n"], [b"x"], id="carriage returns"),
        pytest.param([b"data: x\r", b"\n\r", b"\n"], [b"x"], id="a cut between CR and LF"),
        pytest.param([b"data:x\n\n"], [b"x"], id="no space after the colon"),
        pytest.param([b"data:  x\n\n"], [b" x"], id="only one space belongs to the format"),
        pytest.param([b"data: x\ndata: y\n\n"], [b"x\ny"], id="data over two lines"),
        pytest.param([b": ping\n\n", b"data: x\n\n"], [b"x"], id="comments keep the line alive and say nothing"),
        pytest.param([b"event: token\nid: 4\ndata: x\n\n"], [b"x"], id="other fields are skipped"),
        pytest.param([b"\n\n\ndata: x\n\n\n"], [b"x"], id="spare blank lines are no events"),
        pytest.param([b"data: x\n"], [], id="an unfinished event is none"),
    ],
)
def test_event_stream_format(pieces: list[bytes], data: list[bytes]) -> None:
    splitter = EventSplitter()
    assert [found for piece in pieces for found in splitter.feed(piece)] == data


@pytest.mark.parametrize(
    ("raw", "kind", "events"),
    [
        pytest.param(chunked(STREAM[:2]), "no_usage", 2, id="no token counts came"),
        pytest.param(chunked(STREAM).split(STREAM[2])[0], "closed", 2, id="the connection ended inside the stream"),
        pytest.param(chunked([])[:40], "closed", 0, id="the connection ended inside the head"),
        pytest.param(
            chunked([STREAM[0], b'data: {"error": {"message": "engine died"}}\n\n', DONE]),
            "stream_error: engine died",
            1,
            id="an error object inside the stream",
        ),
        pytest.param(counted(b'{"error": {"message": "busy"}}', 503), "http_503: busy", 0, id="OpenAI's envelope"),
        pytest.param(counted(b'{"message": "flat"}', 429), "http_429: flat", 0, id="a flat error object"),
        pytest.param(counted(b"<html>", 502), "http_502: <html>", 0, id="a proxy's page"),
        pytest.param(counted(b"", 500), "http_500: ", 0, id="an empty refusal"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "malformed", 0, id="no HTTP at all"),
        pytest.param(chunked([b"data: {half\n\n", DONE]), "malformed", 0, id="an event that is no JSON"),
        pytest.param(chunked([b"data: [1]\n\n", DONE]), "malformed", 0, id="an event that is no object"),
        pytest.param(counted(b"data: \xff\xfe\n\n"), "malformed", 0, id="an event that is no text"),
        pytest.param(chunked(STREAM).replace(b"\r\n47\r\n", b"\r\nzz\r\n"), "malformed", 0, id="a broken chunk size"),
    ],
)
def test_faults_are_named(raw: bytes, kind: str, events: int) -> None:
    answer = parsed(raw)
    assert answer.error is not None
    assert answer.error.startswith(kind)
    assert len(answer.event_ns) == events


def test_the_end_mark_ends_a_stream_without_chunks_and_without_length() -> None:
    raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"".join(STREAM)
    assert parsed(raw).error is None
    assert parsed(raw.removesuffix(DONE)).error is not None


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param([event(), event(""), event("c", "length"), usage(3), DONE], 3, id="a token without text counts"),
        pytest.param([event(), event("b"), event("", "length"), usage(2), DONE], 2, id="a bare end mark does not"),
        pytest.param(
            [event(), event("b"), event("", "length"), usage(3), DONE], 3, id="a last token without text does"
        ),
        pytest.param([event(), event(None), usage(1), DONE], 1, id="an event without choices does not"),
    ],
)
def test_which_events_carry_output(stream: list[bytes], events: int) -> None:
    assert len(parsed(chunked(stream)).event_ns) == events


def test_nonsense_token_counts_are_no_counts() -> None:
    raw = chunked([event(), event(None, usage={"prompt_tokens": "7", "completion_tokens": None}), DONE])
    assert (parsed(raw).prompt_tokens, parsed(raw).error) == (None, "no_usage: the answer held no token counts")
