"""Which part answers a request: the data path, or the control plane?

One table decides. POST under `/v1` (the model list apart), `/tokenize` and `/detokenize` are forwarded; everything else
is FastAPI's.
"""

from __future__ import annotations

from artifacts.errors import ServingError
from server import faults
from server.control import control_plane
from server.forward import Forwarder, Receive, Scope, Send, observed, send_error, stamped
from server.metrics import FORWARDED_ROUTES, GatewayMetrics
from server.registry import Registry
from server.request_id import RequestIds

_OWN_PREFIX = "/v1/models"


class Gateway:
    """The ASGI application that serves a registry's variants."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics) -> None:
        self._forward = Forwarder(registry, metrics)
        self._control = control_plane(registry, metrics)
        self._ids = RequestIds()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._control(scope, receive, send)
        elif scope["method"] == "POST" and is_forwarded(scope["path"]):
            await self._forward(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is not forwarded is logged and not counted: probes and scrapes would drown the rest."""
        request = observed(scope, self._ids)
        try:
            if is_forwarded(scope["path"]):
                await send_error(send, _refusal(scope["method"], scope["path"]), request)
            else:
                await self._control(scope, receive, stamped(send, request))
        finally:
            self._metrics.log(request)


def _refusal(method: str, path: str) -> ServingError:
    """Of another method than POST on a path that only POST may try."""
    return faults.MethodNotAllowed(method, path, "POST") if path in FORWARDED_ROUTES else faults.unknown_path(path)


def is_forwarded(path: str) -> bool:
    if path == _OWN_PREFIX or path.startswith(_OWN_PREFIX + "/"):
        return False
    return path.startswith("/v1/") or path in FORWARDED_ROUTES
