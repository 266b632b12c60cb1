"""What does `/openapi.json` say of routes that FastAPI does not handle, and of the errors that all of them can give?

The forwarded routes are described as far as the gateway knows them: a JSON object that names a `model`, whatever else
the worker wants, and the gateway's own refusals. What a worker answers is the worker's.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from server.metrics import FORWARDED_ROUTES

Schema = dict[str, Any]

REFUSALS = {
    400: "the body is not a JSON object that names a model",
    401: "no valid API key",
    403: "the key may not do this",
    404: "no such model or path",
    405: "another method works here",
    408: "the request took too long to arrive",
    409: "the variant, or the fleet file, is in no state for this",
    413: "the body is too large",
    414: "the path is too long",
    429: "too many requests are in flight or wait",
    431: "the headers are too large",
    502: "the worker went away before its answer",
    503: "the variant is not ready, or the server ends",
    504: "the worker was too slow",
}
WAITING_HELPS = frozenset((429, 503))

_ERROR = {"$ref": "#/components/schemas/Error"}
_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
# A worker may refuse with the same status and in its own words.
_ERROR_OR_THE_WORKERS = {"anyOf": [_ERROR, {"type": "object"}]}
_ERROR_SCHEMA: Schema = {
    "title": "Error",
    "type": "object",
    "description": "OpenAI's error object; a worker's may hold more.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _TEXT_OR_NULL,
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_HEADERS: dict[str, tuple[str, str]] = {
    "x-request-id": ("the client's, or one made here", "string"),
    "x-prunebench-variant": ("which variant answered", "string"),
    "x-prunebench-fingerprint": ("of the checkpoint that answered, if it is known", "string"),
    "retry-after": ("seconds", "integer"),
    "allow": ("the method that works", "string"),
}
# Either opens; what needs none says so itself.
_KEYS: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_SUMMARY = "Forwarded to the variant that `model` names"
_PARAMETER = {"name": "route", "in": "path", "required": True, "schema": {"type": "string"}}


_CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
# The least that the routes ask for besides `model`.
_EXAMPLES: dict[str, Schema] = {
    "/v1/completions": {"prompt": "Hello", "max_tokens": 4},
    "/v1/chat/completions": _CHAT,
    "/v1/messages": _CHAT,
    "/v1/responses": {"input": "Hello"},
    "/v1/embeddings": {"input": "Hello"},
    "/v1/score": {"text_1": "Hello", "text_2": "Good day"},
    "/v1/rerank": {"query": "Hello", "documents": ["Good day"]},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [1]},
}


class DocumentedApp(FastAPI):
    """FastAPI with a schema of everything that the gateway serves; its examples ask for `example_model`.

    `open_paths` need no key where all others do; None: nothing does.
    """

    def __init__(self, *, example_model: str, open_paths: frozenset[str] | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._example_model = example_model
        self._open_paths = open_paths

    def openapi(self) -> Schema:
        if self.openapi_schema is None:
            self.openapi_schema = with_forwarded_routes(super().openapi(), self._example_model)
            if self._open_paths is not None:
                _ask_for_keys(self.openapi_schema, self._open_paths)
        return self.openapi_schema


def with_forwarded_routes(schema: Schema, model: str) -> Schema:
    """`schema` with the data path, and with refusals as they are here instead of FastAPI's."""
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            _tell_refusals(operation, path)
    for route in FORWARDED_ROUTES:
        schema["paths"][route] = {"post": _forwarded(_SUMMARY, {"model": model, **_EXAMPLES[route]})}
    elsewhere = _forwarded("Any other path of the worker under /v1, of any depth, likewise", {"model": model})
    schema["paths"]["/v1/{route}"] = {"parameters": [_PARAMETER], "post": elsewhere}
    schema["paths"] |= _pages()
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR_SCHEMA
    return schema


def _ask_for_keys(schema: Schema, open_paths: frozenset[str]) -> None:
    schema["components"]["securitySchemes"] = _KEYS
    schema["security"] = [{name: []} for name in _KEYS]
    for path in open_paths:
        schema["paths"][path]["get"]["security"] = []


def _tell_refusals(operation: Schema, path: str) -> None:
    """A control route answers 4xx and 5xx in the envelope, whichever of them can happen there."""
    responses = operation["responses"]
    responses.pop("422", None)
    responses["4XX"] = _refusal("a refusal", ("x-request-id",))
    if path != "/health":
        responses["5XX"] = _refusal("it cannot be told now", ("x-request-id", "retry-after"))
    for response in responses.values():
        response.setdefault("headers", _headers("x-request-id"))


def _forwarded(summary: str, example: Schema) -> Schema:
    responses: Schema = {
        "200": {
            "description": "the worker's answer, byte for byte; server-sent events with `stream`",
            "headers": _headers("x-request-id", "x-prunebench-variant", "x-prunebench-fingerprint"),
            "content": {"application/json": {"schema": {}}, "text/event-stream": {"schema": {}}},
        }
    }
    for status, what in REFUSALS.items():
        names = ("x-request-id", *(("retry-after",) if status in WAITING_HELPS else ()))
        responses[str(status)] = _refusal(what, names if status != 405 else (*names, "allow"), _ERROR_OR_THE_WORKERS)
    for others, whose in (("4XX", "another refusal of the worker"), ("5XX", "a fault of the worker")):
        responses[others] = {
            "description": whose,
            "headers": _headers("x-request-id", "x-prunebench-variant"),
            "content": {"application/json": {"schema": {}}},
        }
    return {"summary": summary, "tags": ["forwarded"], "requestBody": _request_body(example), "responses": responses}


def _request_body(example: Schema) -> Schema:
    fields = {
        "model": {"type": "string", "description": "a variant or an alias of /v1/models"},
        "stream": {"type": "boolean", "description": "server-sent events, where the route has them"},
    }
    body = {"type": "object", "required": ["model"], "properties": fields, "additionalProperties": True}
    return {"required": True, "content": {"application/json": {"schema": body, "example": example}}}


def _refusal(description: str, headers: tuple[str, ...], schema: Schema = _ERROR) -> Schema:
    content = {"application/json": {"schema": schema}}
    return {"description": description, "headers": _headers(*headers), "content": content}


def _headers(*names: str) -> Schema:
    return {name: {"description": _HEADERS[name][0], "schema": {"type": _HEADERS[name][1]}} for name in names}


def _pages() -> Schema:
    """What FastAPI serves without describing it."""
    kinds = {"/docs": "text/html", "/openapi.json": "application/json"}
    return {
        path: {
            "get": {
                "summary": "This description" + (", to read" if kind == "text/html" else ""),
                "responses": {
                    "200": {"description": "it", "content": {kind: {}}, "headers": _headers("x-request-id")},
                    "4XX": _refusal("a refusal", ("x-request-id",)),
                },
            }
        }
        for path, kind in kinds.items()
    }
