"""What does the gateway itself answer when it cannot forward? Always OpenAI's error object, with one useful sentence.

What a worker answers is never touched; these are the gateway's own refusals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from artifacts.errors import ServingError

INVALID = "invalid_request_error"
TOO_MUCH = "rate_limit_error"
RETRY_STARTING_S = 5


RATE_LIMIT, RATE_REMAINING = b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests"
RATE_HEADERS = frozenset((RATE_LIMIT, RATE_REMAINING))

Headers = list[tuple[bytes, bytes]]


class Refusal(ServingError):
    """A refusal that says something in headers of its own."""

    headers: Headers


class MethodNotAllowed(Refusal):
    """405; `allowed` is the method that works and becomes the Allow header."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        message = f"{method} is not allowed on {path}. Use {allowed}."
        super().__init__(message, status=405, error_type=INVALID, code="method_not_allowed")
        self.headers = [(b"allow", allowed.encode())]


class NoKey(Refusal):
    """401: nobody may ask without a key."""

    headers: Headers = [(b"www-authenticate", b"Bearer")]  # noqa: RUF012

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, status=401, error_type=INVALID, code=code)


class RateExceeded(Refusal):
    """429: the key's rate is used up for `wait_s` seconds."""

    def __init__(self, name: str, per_minute: float, burst: int, wait_s: float) -> None:
        retry_after_s = max(1, math.ceil(wait_s))
        message = f"The key {name!r} may send {per_minute:g} requests a minute. Try again in {retry_after_s} s."
        super().__init__(
            message, status=429, error_type=TOO_MUCH, code="rate_limit_exceeded", retry_after_s=retry_after_s
        )
        self.headers = rate_headers(burst, 0)


def rate_headers(burst: int, remaining: int) -> Headers:
    """How many requests fit into the key's rate at once, and how many of them are left."""
    return [(RATE_LIMIT, b"%d" % burst), (RATE_REMAINING, b"%d" % remaining)]


def error_body(error: ServingError) -> bytes:
    """`{"error": {message, type, param, code}}`"""
    fields = {"message": str(error), "type": error.error_type, "param": error.param, "code": error.code}
    return json.dumps({"error": fields}, ensure_ascii=False).encode()


def error_headers(error: ServingError, body: bytes) -> Headers:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, Refusal):
        headers += error.headers
    return headers


def error_event(error: ServingError) -> bytes:
    """The same object as a server-sent event, for a stream that has already begun."""
    return b"data: " + error_body(error) + b"\n\n"


def missing_key() -> NoKey:
    message = "The request has no API key. Send one as `Authorization: Bearer KEY` or as `x-api-key: KEY`."
    return NoKey(message, "missing_api_key")


def unknown_key() -> NoKey:
    return NoKey("The API key is not known here. Check it, or ask whoever runs this server for one.", "invalid_api_key")


def ambiguous_key() -> NoKey:
    return NoKey("The request has more than one API key. Send one key, once.", "invalid_api_key")


def not_a_control_key(name: str) -> ServingError:
    message = f"The key {name!r} may ask but not steer. Use a key with the role `control`."
    return ServingError(message, status=403, error_type=INVALID, code="not_a_control_key")


def control_from_afar() -> ServingError:
    message = "Without API keys only programs on the server's machine may steer it. Ask from there, or set `keys_file`."
    return ServingError(message, status=403, error_type=INVALID, code="control_is_local")


def unknown_model(name: object, known: Iterable[str]) -> ServingError:
    message = f"The model {name!r} is not served here. Known models: {', '.join(known)}."
    return ServingError(message, status=404, error_type=INVALID, code="model_not_found", param="model")


def missing_model() -> ServingError:
    message = "The request body has no string `model`. Name one of the models that /v1/models lists."
    return ServingError(message, status=400, error_type=INVALID, code="missing_model", param="model")


def malformed_body(detail: str) -> ServingError:
    message = f"The request body is not a JSON object ({detail}). Send one JSON object as UTF-8."
    return ServingError(message, status=400, error_type=INVALID, code="invalid_json")


def body_too_large(limit_bytes: int) -> ServingError:
    message = f"The request body is larger than {limit_bytes} bytes, the limit here. Send a smaller request."
    return ServingError(message, status=413, error_type=INVALID, code="request_too_large")


def prompt_too_long(param: str, chars: int, limit_chars: int) -> ServingError:
    message = f"The text of `{param}` has {chars} characters; the limit here is {limit_chars}. Send a shorter one."
    return ServingError(message, status=400, error_type=INVALID, code="context_length_exceeded", param=param)


def not_ready(name: str, state: str, reason: str | None) -> ServingError:
    because = f" ({reason})" if reason else ""
    return ServingError(
        f"The model {name!r} is not ready: {state}{because}. Try again later.",
        status=503,
        code="model_not_ready",
        param="model",
        retry_after_s=RETRY_STARTING_S,
    )


def too_many_in_flight(limit: int) -> ServingError:
    return ServingError(
        f"{limit} requests are in flight already, the limit here. Try again in a moment.",
        status=429,
        error_type=TOO_MUCH,
        code="too_many_requests",
        retry_after_s=1,
    )


def queue_full(name: str, limit: int) -> ServingError:
    return ServingError(
        f"{limit} requests wait for the model {name!r} already, the limit here. Try again in a moment.",
        status=429,
        error_type=TOO_MUCH,
        code="queue_full",
        param="model",
        retry_after_s=RETRY_STARTING_S,
    )


def waited_too_long(name: str, patience_s: float) -> ServingError:
    return ServingError(
        f"The request waited {patience_s:g} s for the model {name!r} and got no turn. Try again later.",
        status=503,
        code="queue_timeout",
        param="model",
        retry_after_s=RETRY_STARTING_S,
    )


def draining() -> ServingError:
    message = "The server is shutting down and takes no new requests. Try again later."
    return ServingError(message, status=503, code="shutting_down", retry_after_s=RETRY_STARTING_S)


def unknown_variant(name: str, known: Iterable[str]) -> ServingError:
    message = f"There is no variant {name!r}. Known variants: {', '.join(known)}."
    return ServingError(message, status=404, error_type=INVALID, code="variant_not_found")


def still_starting() -> ServingError:
    message = "The server is still starting its variants for the first time. Try again when it has."
    return ServingError(message, status=409, code="still_starting", retry_after_s=RETRY_STARTING_S)


def impossible_order(name: str, order: str, state: str, possible: Iterable[str]) -> ServingError:
    return ServingError(
        f"The variant {name!r} is {state}: it cannot be told to {order}. That is possible when it is "
        f"{' or '.join(possible)}.",
        status=409,
        error_type=INVALID,
        code="impossible_in_this_state",
    )


def not_our_worker(name: str, order: str) -> ServingError:
    message = f"The variant {name!r} is a server of somebody else's: it cannot be told to {order}. Drain or stop it."
    return ServingError(message, status=409, error_type=INVALID, code="not_our_worker")


def no_room_awake(name: str, limit: int) -> ServingError:
    message = f"The variant {name!r} cannot wake: {limit} may be awake together, and are. Send one to sleep first."
    return ServingError(message, status=409, code="too_many_awake", retry_after_s=RETRY_STARTING_S)


def not_reloaded(detail: str) -> ServingError:
    message = f"The fleet file was not taken and nothing has changed: {detail}"
    return ServingError(message, status=409, error_type=INVALID, code="fleet_not_reloaded")


def unreachable(name: str) -> ServingError:
    return ServingError(
        f"The worker of model {name!r} cannot be reached. It is restarted; try again later.",
        status=503,
        code="worker_unreachable",
        param="model",
        retry_after_s=RETRY_STARTING_S,
    )


WAITED_FOR = {
    "connect": "to accept a connection",
    "first_token": "to begin its answer",
    "between_tokens": "to go on with its answer",
    "total": "to complete its answer",
}


def too_slow(name: str, phase: str, patience_s: float) -> ServingError:
    """504; `phase` is the timeout's name in the fleet file without `_s`."""
    message = f"The worker of model {name!r} had {patience_s:g} s {WAITED_FOR[phase]} and did not. Try again later."
    return ServingError(message, status=504, code=f"{phase}_timeout", param="model")


def worker_lost(name: str) -> ServingError:
    message = f"The worker of model {name!r} went away before its answer was complete. Send the request again."
    return ServingError(message, status=502, code="worker_lost", param="model")


def malformed_http() -> ServingError:
    message = "What was sent is not a valid HTTP/1.1 request. Check request line, headers and lengths."
    return ServingError(message, status=400, error_type=INVALID, code="invalid_http")


def no_upgrade() -> ServingError:
    message = "The request asks to switch protocols, which is not possible here. Send it as plain HTTP/1.1."
    return ServingError(message, status=400, error_type=INVALID, code="upgrade_not_supported")


def headers_too_large(limit_bytes: int) -> ServingError:
    message = (
        f"Request line and headers are larger than {limit_bytes} bytes, the limit here. Send fewer or shorter ones."
    )
    return ServingError(message, status=431, error_type=INVALID, code="headers_too_large")


def client_too_slow(part: str, patience_s: float) -> ServingError:
    message = f"The request's {part} did not arrive within {patience_s:g} s, the limit here. Send the request again."
    return ServingError(message, status=408, error_type=INVALID, code="request_timeout")


def no_metrics(name: str) -> ServingError:
    message = f"No worker of model {name!r} tells its metrics now. Try again later."
    return ServingError(message, status=503, code="no_metrics", param="variant", retry_after_s=RETRY_STARTING_S)


def unknown_path(path: str) -> ServingError:
    message = f"There is nothing at {path}. See /docs for what is served."
    return ServingError(message, status=404, error_type=INVALID, code="not_found")
