"""What does the access log say of one request? One JSON object, made when the request has ended.

Token counts are the worker's own: every answer that has them has them at its end, so the last two pieces of the body
are searched, once, after the last byte.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

from server.metrics import ObservedRequest

MAX_TEXT_CHARS = 256
_USAGE = b'"usage":'
# By OpenAI's completions; by its responses and by Anthropic's messages.
_PROMPT, _COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_DECODER = json.JSONDecoder()


def access_line(request: ObservedRequest, ended_s: float) -> bytes:
    """One line of UTF-8 with its end; `ended_s` is on the clock of `request.began_s`."""
    duration_s = ended_s - request.began_s
    usage = usage_in(*request.tail)
    first_byte_s = request.first_byte_s
    fields = {
        "time_unix_s": round(time.time() - duration_s, 6),
        "request_id": request.id.decode("ascii"),
        "trace_id": trace_id(request.headers),
        "key": request.key_name,
        "path": request.path[:MAX_TEXT_CHARS],
        "route": request.route,
        "model": request.model and request.model[:MAX_TEXT_CHARS],
        "variant": request.variant,
        "replica": request.replica and request.replica.url,
        "status": request.code,
        "refusal": request.refusal,
        "streamed": request.streamed,
        "queued_s": round(request.queued_s, 6),
        "ttft_s": None if first_byte_s is None else round(first_byte_s - request.began_s, 6),
        "duration_s": round(duration_s, 6),
        "bytes_in": request.bytes_in,
        "bytes_out": request.bytes_out,
        "prompt_tokens": _first(usage, _PROMPT),
        "completion_tokens": _first(usage, _COMPLETION),
    }
    return to_json(fields) + b"\n"


def _first(usage: dict[str, Any], names: tuple[str, ...]) -> int | None:
    found = next((usage[name] for name in names if name in usage), None)
    return found if isinstance(found, int) else None


def usage_in(before: bytes, last: bytes) -> dict[str, Any]:
    """The last usage object in the end of an answer; empty if there is none.

    Generated text cannot be taken for it: inside a JSON string its quotes would have backslashes.
    """
    text = last
    at = last.rfind(_USAGE)
    if at == -1:
        text = before + last
        at = text.rfind(_USAGE)
    if at == -1:
        return {}
    try:
        usage, _ = _DECODER.raw_decode(text[at + len(_USAGE) :].decode("utf-8", "replace").lstrip())
    except ValueError:
        return {}
    return usage if isinstance(usage, dict) else {}


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Of the W3C trace context: the 32 digits after the version; None where there is no valid one."""
    traceparent = next((value for name, value in headers if name == b"traceparent"), b"")
    version, _, rest = traceparent.partition(b"-")
    digits = rest.partition(b"-")[0]
    if len(version) != 2 or len(digits) != 32 or digits.strip(b"0123456789abcdef") or not digits.strip(b"0"):
        return None
    return digits.decode("ascii")
