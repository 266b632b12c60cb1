"""What does a simulated model say? OpenAI-shaped JSON, the same bytes for the same request, known without a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

CREATED_UNIX_S = 1_700_000_000
_WORDS = (" the", " cat", " sat", " on", " a", " mat", " and", " saw", " one", " red", " bird", " fly")
_LOGPROB = -0.25


class BadRequest(Exception):
    """The simulator's refusal: HTTP status, and OpenAI's fields."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = json.dumps(
            {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code or status}}
        ).encode()


@dataclass(frozen=True, slots=True)
class Completion:
    """One parsed request and the pieces of its answer."""

    chat: bool
    model: str
    identity: str
    prompt_tokens: int
    output_tokens: int
    stream: bool
    usage_in_stream: bool
    logprobs: int | None

    @classmethod
    def parse(cls, body: bytes, *, chat: bool, served: str) -> Completion:
        """Raises BadRequest."""
        try:
            fields = json.loads(body)
        except ValueError as error:
            raise BadRequest(400, f"the body is not JSON: {error}") from error
        if not isinstance(fields, dict) or fields.get("model") != served:
            raise BadRequest(404, f"The model `{fields.get('model') if isinstance(fields, dict) else None}` is unknown")
        asked = "messages" if chat else "prompt"
        if not fields.get(asked):
            raise BadRequest(400, f"`{asked}` is missing or empty")
        output_tokens = fields.get("max_completion_tokens") or fields.get("max_tokens") or 16
        if not isinstance(output_tokens, int) or output_tokens < 1:
            raise BadRequest(400, "`max_tokens` must be a whole number above 0")
        options = fields.get("stream_options") or {}
        if not isinstance(options, dict):
            raise BadRequest(400, "`stream_options` must be an object")
        return cls(
            chat=chat,
            model=served,
            identity=("chatcmpl-" if chat else "cmpl-") + hashlib.sha256(body).hexdigest()[:16],
            prompt_tokens=_tokens_of(fields[asked]),
            output_tokens=output_tokens,
            stream=bool(fields.get("stream")),
            usage_in_stream=bool(options.get("include_usage")),
            logprobs=_logprobs_asked(fields, chat),
        )

    def token(self, index: int) -> str:
        return _WORDS[index % len(_WORDS)]

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
        }

    def opening_event(self) -> bytes:
        """Chat streams open with the role, as vLLM's do; completions with nothing."""
        return self._event({"delta": {"role": "assistant", "content": ""}}, None) if self.chat else b""

    def token_event(self, index: int) -> bytes:
        """The server-sent event of one token; the last one carries the reason for the end."""
        text = self.token(index)
        part: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        part["logprobs"] = self._logprobs(range(index, index + 1))
        return self._event(part, "length" if index == self.output_tokens - 1 else None)

    def closing_events(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self.usage_in_stream:
            return done
        return _as_event(self._envelope("chunk", []) | {"usage": self.usage}) + done

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        text = "".join(self.token(index) for index in range(self.output_tokens))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice["logprobs"] = self._logprobs(range(self.output_tokens))
        return json.dumps(self._envelope("", [choice]) | {"usage": self.usage}).encode()

    def _event(self, part: dict[str, Any], finish_reason: str | None) -> bytes:
        return _as_event(self._envelope("chunk", [{"index": 0, "finish_reason": finish_reason, **part}]))

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chat_name = "chat.completion.chunk" if kind else "chat.completion"
        return {
            "id": self.identity,
            "object": chat_name if self.chat else "text_completion",
            "created": CREATED_UNIX_S,
            "model": self.model,
            "choices": choices,
        }

    def _logprobs(self, indices: range) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        tokens = [self.token(index) for index in indices]
        if self.chat:
            return {"content": [_chat_logprob(token, self.logprobs) for token in tokens]}
        return {
            "tokens": tokens,
            "token_logprobs": [_LOGPROB] * len(tokens),
            "top_logprobs": [{token: _LOGPROB} for token in tokens],
            "text_offset": [sum(len(self.token(i)) for i in range(index)) for index in indices],
        }


def _as_event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def _chat_logprob(token: str, top: int) -> dict[str, Any]:
    entry = {"token": token, "logprob": _LOGPROB, "bytes": list(token.encode())}
    return {**entry, "top_logprobs": [entry][:top]}


def _logprobs_asked(fields: dict[str, Any], chat: bool) -> int | None:
    asked = fields.get("logprobs")
    if not chat:
        return asked if isinstance(asked, int) else None
    return int(fields.get("top_logprobs") or 0) if asked else None


def _tokens_of(prompt: object) -> int:
    """Token ids count one each, text its words; a chat its messages' words."""
    if isinstance(prompt, str):
        return max(1, len(prompt.split()))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        return sum(_tokens_of(str(message.get("content"))) for message in prompt)
    return len(prompt) if isinstance(prompt, list) else 1
