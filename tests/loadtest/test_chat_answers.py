"""What a streamed chat says and when: the opening role is no token, text and reasoning are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.sse import parse_answer

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def answer_of(*deltas: dict[str, Any], end: str | None = "stop") -> Any:
    """Each delta comes in a read of its own, a microsecond after the last; the last one has the finish reason."""
    events = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    events[-1]["choices"][0]["finish_reason"] = end
    reads = [(0, HEAD)]
    for number, event in enumerate([*events, USAGE], start=1):
        reads.append((1000 * number, b"data: " + json.dumps(event).encode() + b"\n\n"))
    return parse_answer([*reads, (10**6, b"data: [DONE]\n\n")])


ROLE = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("deltas", "times_us"),
    [
        pytest.param([ROLE, {"content": "a"}, {"content": "b"}], [2, 3], id="the opening carries no text"),
        pytest.param([ROLE | {"content": None}, {"content": "a"}, {"content": "b"}], [2, 3], id="nor does null"),
        pytest.param([{"role": "assistant", "content": "a"}, {"content": "b"}], [1, 2], id="unless it does"),
        pytest.param([ROLE, {"content": "a"}, {"content": ""}, {"content": "b"}], [2, 3, 4], id="half a character"),
        pytest.param([ROLE, {"reasoning": "a"}, {"content": "b"}], [2, 3], id="reasoning is output"),
        pytest.param([ROLE, {"reasoning_content": "a"}, {"content": "b"}], [2, 3], id="under its older name too"),
        pytest.param([ROLE, {"content": "a"}, {"content": "b"}, {}], [2, 3], id="a bare end mark is none"),
        pytest.param([ROLE, {"content": "a"}, {"content": ""}], [2, 3], id="but a last token without text is one"),
    ],
)
def test_a_chats_tokens_are_dated_by_their_own_events(deltas: list[dict[str, Any]], times_us: list[int]) -> None:
    answer = answer_of(*deltas)
    assert [t // 1000 for t in answer.event_ns] == times_us
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 2)
    assert (answer.finish_reason, answer.error) == ("stop", None)
