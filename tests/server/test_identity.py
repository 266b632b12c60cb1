"""Are the bytes that come through the gateway those that vLLM sends? The official client asks, feature by feature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import httpx
import openai
import pytest
from serving_process import Serving, argument_of, launcher
from tape import Tape, taped

pytestmark = pytest.mark.engine

MODELS = ("dense", "pruned", "uneven")
PROMPT: dict[str, Any] = {"prompt": "def first(items):", "max_tokens": 12}
MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": "Write a loop."}], "max_tokens": 12}
GREEDY: dict[str, Any] = {"temperature": 0}
SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 7}
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
TOOLS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
}
JSON: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"name": "cat", "schema": SCHEMA}}}

COMPLETIONS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "streamed with usage": {**GREEDY, **STREAMED},
    "seeded": SEEDED,
    "several, seeded, streamed": {**SEEDED, "n": 3, "stream": True},
    "stopped": {**GREEDY, "stop": ["\n", "e"], "max_tokens": 60},
    "log-probabilities": {**GREEDY, "logprobs": 3},
    "log-probabilities, streamed": {**GREEDY, "logprobs": 3, "stream": True},
    "echoed, with the prompt's log-probabilities": {**GREEDY, "echo": True, "logprobs": 1},
    "two prompts": {**GREEDY, "prompt": ["def a", "class B"]},
    "token ids": {**GREEDY, "prompt": [5, 6, 7, 8]},
    "beyond the context": {**GREEDY, "max_tokens": 100_000},
    "nonsense": {**GREEDY, "temperature": -3},
}
CHATS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "streamed with usage": {**GREEDY, **STREAMED},
    "several, seeded": {**SEEDED, "n": 2},
    "stopped, streamed": {**GREEDY, "stop": ["e"], "stream": True},
    "log-probabilities": {**GREEDY, "logprobs": True, "top_logprobs": 2},
    "a schema": {**GREEDY, **JSON, "max_tokens": 60},
    "a schema, streamed": {**GREEDY, **JSON, "max_tokens": 60, "stream": True},
    "a tool": {**GREEDY, **TOOLS, "max_tokens": 60},
    "a tool, streamed": {**GREEDY, **TOOLS, "max_tokens": 60, "stream": True},
    "an unknown role": {**GREEDY, "messages": [{"role": "wizard", "content": 3}]},
}
# Ids and times are the only things that may differ between two answers to the same request.
CHANGING = re.compile(rb'"(id|created|request_id)": ?("[^"]*"|[0-9]+)|chatcmpl-tool-[0-9a-f]+|call_[0-9a-zA-Z]+')
REFUSED = ("beyond the context", "nonsense", "an unknown role")


class Recorder(httpx.BaseTransport):
    """Keeps the bodies of the last request and its answer as they were on the wire."""

    def __init__(self, wire: httpx.BaseTransport) -> None:
        self._wire = wire
        self.status, self.asked, self.answered = 0, b"", b""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._wire.handle_request(request)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        self.asked = request.content
        self.status, self.answered = answer.status_code, b"".join(answer.stream)
        answer.close()
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() != b"transfer-encoding"]
        return httpx.Response(self.status, headers=headers, content=self.answered, request=request)

    def close(self) -> None:
        self._wire.close()


class Way:
    """The official client on one way to an engine."""

    def __init__(self, base_url: str, wire: httpx.BaseTransport) -> None:
        self.seen = Recorder(wire)
        http = httpx.Client(transport=self.seen)
        self.client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.client.close()

    def ask(self, ask: Callable[[openai.OpenAI], Any]) -> Recorder:
        """What was on the wire; a streamed answer is read by the client to its end."""
        try:
            answer = ask(self.client)
            if isinstance(answer, openai.Stream):
                assert list(answer)
        except openai.APIStatusError:
            assert self.seen.status >= 400
        return self.seen


@dataclass
class Ways:
    """To one engine: through a gateway, with the wire behind it on tape, and directly."""

    through: Way
    tape: Tape
    direct: Way


@pytest.fixture(scope="module")
def ways(engines: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ways]]:
    """By model. A second gateway, because the first one's wires are already laid."""
    folder = tmp_path_factory.mktemp("tapes")
    sockets = {name: argument_of(pid, "--uds") or "" for name, pid in engines.workers().items()}
    with ExitStack() as stack:
        tapes = {name: stack.enter_context(taped(folder / name, path)) for name, path in sockets.items()}
        for start in launcher(folder):
            serving = start([{"name": name, "url": f"unix:{folder / name}"} for name in tapes]).until_ready()
            yield {
                name: Ways(
                    stack.enter_context(Way(f"{serving.url}/v1", httpx.HTTPTransport())),
                    tapes[name],
                    stack.enter_context(Way("http://worker/v1", httpx.HTTPTransport(uds=path))),
                )
                for name, path in sockets.items()
            }


def require_identity(ways: Ways, feature: str, ask: Callable[[openai.OpenAI], Any]) -> None:
    """Byte for byte what the worker was asked and what it said; a whole answer is also what it says directly.

    A stream is not compared with another one: vLLM puts tokens that are ready together into one event.
    """
    seen, wire = ways.through.ask(ask), ways.tape.last
    assert (wire.asked, wire.status, wire.answered) == (seen.asked, seen.status, seen.answered)
    assert (seen.status == 200) == (feature not in REFUSED), seen.answered
    if b'"stream":true' not in seen.asked.replace(b" ", b""):
        direct = ways.direct.ask(ask)
        assert direct.status == seen.status
        assert CHANGING.sub(b"*", direct.answered) == CHANGING.sub(b"*", seen.answered)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("feature", COMPLETIONS)
def test_completions(ways: dict[str, Ways], model: str, feature: str) -> None:
    options = {"model": model, **PROMPT, **COMPLETIONS[feature]}
    require_identity(ways[model], feature, lambda client: client.completions.create(**options))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("feature", CHATS)
def test_chat(ways: dict[str, Ways], model: str, feature: str) -> None:
    options = {"model": model, **MESSAGES, **CHATS[feature]}
    require_identity(ways[model], feature, lambda client: client.chat.completions.create(**options))


def test_what_is_compared_is_not_blind(ways: dict[str, Ways]) -> None:
    """Another seed, another length: other bytes."""

    def answer(**changes: Any) -> bytes:
        options = {"model": "dense", **PROMPT, **SEEDED, **changes}
        seen = ways["dense"].through.ask(lambda client: client.completions.create(**options))
        return CHANGING.sub(b"*", seen.answered)

    assert answer() == answer()
    assert len({answer(), answer(seed=8), answer(max_tokens=11)}) == 3
