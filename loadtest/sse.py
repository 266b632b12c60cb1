"""What did a streamed answer say, and when did each piece of it arrive? Pure: from (time, bytes) pairs, after the run.

Reading and understanding are apart because understanding costs more than reading: a client that parses while it reads
falls behind, sees several events in one read, and reports gaps of its own making.

An event's time is the time of the read that completed it. Framing follows RFC 9112 (chunked or counted bodies) and the
WHATWG event-stream format with LF or CRLF line ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

Read = tuple[int, bytes]

_CHAT_TEXTS = ("content", "reasoning", "reasoning_content")


@dataclass(slots=True)
class Answer:
    """One response. `event_ns`: a time per event that carried output. `error`: `kind: what happened`, or None."""

    status: int | None = None
    event_ns: list[int] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None


class _Collector:
    """Gathers what the HTTP parser calls back with."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.complete = False

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True


class EventSplitter:
    """Splits an event stream into the `data` of its events, whatever the cuts between the pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(b"\n".join(self._data))
                self._data = []
        return found


def parse_answer(reads: Sequence[Read]) -> Answer:
    """Never raises on what a server may send: a fault becomes `Answer.error`.

    Kinds: `malformed` (not HTTP, or events that are not JSON objects), `http_<status>`, `stream_error` (an error object
    inside the stream), `closed` (the connection ended before the answer did), `no_usage` (no token counts came).
    """
    answer, collector = Answer(), _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        bodies = list(_bodies(parser, collector, reads))
        answer.status = parser.get_status_code() or None
        if answer.status == 200:
            finished = _read_events(answer, bodies) or collector.complete
        else:
            finished = collector.complete
            answer.error = _refusal(answer.status, b"".join(body for _, body in bodies))
    except (httptools.HttpParserError, json.JSONDecodeError, UnicodeDecodeError, _MalformedEvent) as error:
        answer.error = f"malformed: {error}"
        return answer
    answer.error = answer.error or _shortfall(answer, finished)
    return answer


class _MalformedEvent(Exception):
    """An event's data is JSON but not an object of the completions API."""


def _bodies(parser: Any, collector: _Collector, reads: Iterable[Read]) -> Iterator[Read]:
    for time_ns, data in reads:
        parser.feed_data(data)
        yield time_ns, b"".join(collector.pieces)
        collector.pieces.clear()


def _read_events(answer: Answer, bodies: Iterable[Read]) -> bool:
    """Fills `answer`; True if the stream's closing mark came."""
    splitter, empty_end_ns, finished = EventSplitter(), None, False
    for time_ns, body in bodies:
        for data in splitter.feed(body):
            if data == b"[DONE]":
                finished = True
                continue
            choice = _absorb(answer, _json_object(data))
            if _carries_output(choice):
                answer.event_ns.append(time_ns)
            elif choice.get("finish_reason"):
                empty_end_ns = time_ns
    if empty_end_ns is not None and len(answer.event_ns) < (answer.output_tokens or 0):
        answer.event_ns.append(empty_end_ns)  # the last token decoded to no text: its event looks like a bare end mark
    return finished


def _json_object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise _MalformedEvent(f"an event holds {type(value).__name__}, not an object")
    return value


def _absorb(answer: Answer, event: dict[str, Any]) -> dict[str, Any]:
    """Notes usage, errors and the finish reason; returns the first choice, empty if there is none."""
    if event.get("error"):
        answer.error = f"stream_error: {_message(event)}"
    usage = event.get("usage")
    if isinstance(usage, dict):
        answer.prompt_tokens = _count(usage.get("prompt_tokens"))
        answer.output_tokens = _count(usage.get("completion_tokens"))
    choices = event.get("choices") or [{}]
    choice: dict[str, Any] = choices[0] if isinstance(choices, list) and isinstance(choices[0], dict) else {}
    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    return choice


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _carries_output(choice: dict[str, Any]) -> bool:
    """Text, or an empty text that is not an end mark: a token may decode to nothing (half of a character).

    A chat's text is its delta's `content`, or `reasoning` where the server keeps that apart. The opening delta, which
    names the role, carries none: counting it would date the first token before there is one.
    """
    delta = choice.get("delta")
    if isinstance(delta, dict):
        text = next((delta[name] for name in _CHAT_TEXTS if isinstance(delta.get(name), str)), None)
        return bool(text) or (text is not None and "role" not in delta and not choice.get("finish_reason"))
    return bool(choice.get("text")) or ("text" in choice and not choice.get("finish_reason"))


def _refusal(status: int | None, body: bytes) -> str | None:
    if status is None:
        return None
    try:
        said = _message(_json_object(body))
    except (ValueError, _MalformedEvent):
        said = body[:200].decode(errors="replace")
    return f"http_{status}: {said}"


def _message(envelope: dict[str, Any]) -> str:
    error = envelope.get("error", envelope)
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]


def _shortfall(answer: Answer, finished: bool) -> str | None:
    if not finished:
        return f"closed: the connection ended after {len(answer.event_ns)} output events"
    if answer.status == 200 and answer.output_tokens is None:
        return "no_usage: the answer held no token counts"
    return None
