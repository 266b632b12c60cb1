"""Which part answers a request: the data path, or the control plane?

One table decides. POST under `/v1` (the model list apart), `/tokenize` and `/detokenize` are forwarded; everything else
is FastAPI's. A path that two servers could read in two ways (dots, empty segments, anything encoded) is nowhere: what
is forwarded here as `/v1/...` must not be `/sleep` to the worker.
"""

from __future__ import annotations

import string

from artifacts.errors import ServingError
from server import faults
from server.asgi import Receive, Scope, Send
from server.control import control_plane
from server.doorkeeper import OPEN_PATHS, Doorkeeper
from server.forward import Forwarder, observed, send_error, stamped
from server.keys import Keyring
from server.metrics import FORWARDED_ROUTES, GatewayMetrics
from server.registry import Registry
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
        self._forward = Forwarder(registry, metrics)
        self._control = control_plane(registry, metrics, house, None if keyring is None else OPEN_PATHS)
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        forwarded = is_forwarded(scope["path"])
        try:
            send = self._door.admit(scope, send, forwarded)
            if forwarded:
                require_forwardable(scope)
        except ServingError as error:
            await self._refuse(scope, send, error, counted=forwarded and scope["method"] == "POST")
        else:
            await (self._forward if forwarded else self._steer)(scope, receive, send)
        finally:
            # It holds the request that holds it: without this only a garbage collection would end either.
            scope.pop("extensions", None)

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


def is_forwarded(path: str) -> bool:
    if path == _OWN_PREFIX or path.startswith(_OWN_PREFIX + "/"):
        return False
    return path.startswith("/v1/") or path in _LISTED


def require_forwardable(scope: Scope) -> None:
    """Raises ServingError (404 for a path that is none or is not plain, 405)."""
    path: str = scope["path"]
    if scope["method"] != "POST":
        listed = path in _LISTED
        raise faults.MethodNotAllowed(scope["method"], path, "POST") if listed else faults.unknown_path(path)
    if (path not in _LISTED and not is_plain(path)) or b"%" in scope["raw_path"]:
        raise faults.unknown_path(path)


def is_plain(path: str) -> bool:
    """Whether every server reads the path as it is written: plain characters, no dot segments, no empty ones."""
    segments = path.split("/")[1:]
    return _PLAIN.issuperset(path) and not _ELSEWHERE.intersection(segments)
