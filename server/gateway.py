"""Which part answers a request: the data path, or the control plane?

One table decides. POST under `/v1` (the model list apart), `/tokenize` and `/detokenize` are forwarded; everything else
is FastAPI's. A path that two servers could read in two ways (dots, empty segments, anything encoded) is nowhere: what
is forwarded here as `/v1/...` must not be `/sleep` to the worker.
"""

from __future__ import annotations

import string
import time

from artifacts.errors import ServingError
from server import faults
from server.asgi import Message, Receive, Scope, Send
from server.control import control_plane
from server.doorkeeper import OPEN_PATHS, Doorkeeper
from server.forward import Forwarder
from server.keys import KEY_NAME, Keyring
from server.metrics import FORWARDED_ROUTES, GatewayMetrics, ObservedRequest, route_label
from server.registry import Registry
from server.request_id import HEADER as REQUEST_ID
from server.request_id import RequestIds
from server.variant_control import House

_LISTED = frozenset(FORWARDED_ROUTES)
_OWN_PREFIX = "/v1/models"
_PLAIN = frozenset(string.ascii_letters + string.digits + "/-._~:@=+,")
_ELSEWHERE = frozenset(("", ".", ".."))


class Gateway:
    """The ASGI application that serves a registry's variants, to everybody or to the keys of a ring."""

    def __init__(
        self,
        registry: Registry,
        metrics: GatewayMetrics,
        keyring: Keyring | None = None,
        house: House | None = None,
    ) -> None:
        self._door = Doorkeeper(keyring)
        self._metrics = metrics
        self.data_path = Forwarder(registry, metrics, self._door)
        self._control = control_plane(registry, metrics, house, None if keyring is None else OPEN_PATHS)
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        forwarded = is_forwarded(scope["path"])
        try:
            send = self._door.admit(scope, send, forwarded)
            if forwarded:
                require_forwardable(scope["method"], scope["path"], scope["raw_path"])
        except ServingError as error:
            await self._refuse(scope, send, error, counted=forwarded and scope["method"] == "POST")
        else:
            await self._steer(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, error: ServingError, *, counted: bool) -> None:
        request = observed(scope, self._ids)
        try:
            await send_error(send, error, request)
        finally:
            (self._metrics.observe if counted else self._metrics.log)(request)

    async def _steer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is not forwarded is logged and not counted: probes and scrapes would drown the rest."""
        request = observed(scope, self._ids)
        try:
            await self._control(scope, receive, stamped(send, request))
        finally:
            self._metrics.log(request)


def observed(scope: Scope, ids: RequestIds) -> ObservedRequest:
    """What is known of a request by its head, and of its key by the door."""
    path, headers = scope["path"], scope["headers"]
    key_name = scope.get(KEY_NAME)
    return ObservedRequest(route_label(path), id=ids.of(headers), path=path, headers=headers, key_name=key_name)


async def send_error(send: Send, error: ServingError, request: ObservedRequest) -> None:
    """Also notes on `request` what it sends."""
    body = faults.error_body(error)
    request.code, request.refusal, request.bytes_out = error.status, error.code, len(body)
    headers = [*faults.error_headers(error, body), (REQUEST_ID, request.id)]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def stamped(send: Send, request: ObservedRequest) -> Send:
    """`send` for an application that knows nothing of ids: it adds the header and notes the answer on `request`."""

    async def send_stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            request.code = message["status"]
            message["headers"] = [*message["headers"], (REQUEST_ID, request.id)]
        elif message["type"] == "http.response.body":
            request.first_byte_s = request.first_byte_s or time.perf_counter()
            request.bytes_out += len(message.get("body", b""))
        await send(message)

    return send_stamped


def is_ask(method: bytes, path: str, raw_path: bytes) -> bool:
    """Whether a request goes to a worker, if it may come in."""
    if method != b"POST":
        return False
    if path in _LISTED:
        return raw_path == path.encode()
    return is_forwarded(path) and is_plain(path) and b"%" not in raw_path


def is_forwarded(path: str) -> bool:
    if path == _OWN_PREFIX or path.startswith(_OWN_PREFIX + "/"):
        return False
    return path.startswith("/v1/") or path in _LISTED


def require_forwardable(method: str, path: str, raw_path: bytes) -> None:
    """Raises ServingError (404 for a path that is none or is not plain, 405)."""
    if method != "POST":
        listed = path in _LISTED
        raise faults.MethodNotAllowed(method, path, "POST") if listed else faults.unknown_path(path)
    if not is_ask(b"POST", path, raw_path):
        raise faults.unknown_path(path)


def is_plain(path: str) -> bool:
    """Whether every server reads the path as it is written: plain characters, no dot segments, no empty ones."""
    segments = path.split("/")[1:]
    return _PLAIN.issuperset(path) and not _ELSEWHERE.intersection(segments)
