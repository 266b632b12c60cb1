"""What does the gateway itself answer when it cannot forward? Always OpenAI's error object, with one useful sentence.

What a worker answers is never touched; these are the gateway's own refusals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from artifacts.errors import ServingError

INVALID = "invalid_request_error"
RETRY_STARTING_S = 5


class MethodNotAllowed(ServingError):
    """405; `allowed` is the method that works and becomes the Allow header."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        message = f"{method} is not allowed on {path}. Use {allowed}."
        super().__init__(message, status=405, error_type=INVALID, code="method_not_allowed")
        self.allowed = allowed


def error_body(error: ServingError) -> bytes:
    """`{"error": {message, type, param, code}}`"""
    fields = {"message": str(error), "type": error.error_type, "param": error.param, "code": error.code}
    return json.dumps({"error": fields}, ensure_ascii=False).encode()


def error_headers(error: ServingError, body: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    return headers


def error_event(error: ServingError) -> bytes:
    """The same object as a server-sent event, for a stream that has already begun."""
    return b"data: " + error_body(error) + b"\n\n"


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
        error_type="rate_limit_error",
        code="too_many_requests",
        retry_after_s=1,
    )


def queue_full(name: str, limit: int) -> ServingError:
    return ServingError(
        f"{limit} requests wait for the model {name!r} already, the limit here. Try again in a moment.",
        status=429,
        error_type="rate_limit_error",
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
    return ServingError(message, status=422, error_type=INVALID, code="fleet_not_reloaded")


def unreachable(name: str) -> ServingError:
    return ServingError(
        f"The worker of model {name!r} cannot be reached. It is restarted; try again later.",
        status=503,
        code="worker_unreachable",
        param="model",
        retry_after_s=RETRY_STARTING_S,
    )


def worker_lost(name: str) -> ServingError:
    message = f"The worker of model {name!r} went away before its answer was complete. Send the request again."
    return ServingError(message, status=502, code="worker_lost", param="model")


def unknown_path(path: str) -> ServingError:
    message = f"There is nothing at {path}. See /docs for what is served."
    return ServingError(message, status=404, error_type=INVALID, code="not_found")
