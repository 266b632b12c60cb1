"""Which part answers a request: the data path, or the control plane?

One table decides. POST under `/v1` (the model list apart), `/tokenize` and `/detokenize` are forwarded; everything else
is FastAPI's.
"""

from __future__ import annotations

from server import faults
from server.control import control_plane
from server.forward import Forwarder, Receive, Scope, Send, send_error
from server.metrics import FORWARDED_ROUTES, GatewayMetrics
from server.registry import Registry
from server.variant_control import House

_OWN_PREFIX = "/v1/models"


class Gateway:
    """The ASGI application that serves a registry's variants."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics, house: House | None = None) -> None:
        self._forward = Forwarder(registry, metrics)
        self._control = control_plane(registry, metrics, house)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_forwarded(scope["path"]):
            await self._control(scope, receive, send)
        elif scope["method"] == "POST":
            await self._forward(scope, receive, send)
        elif scope["path"] in FORWARDED_ROUTES:
            await send_error(send, faults.MethodNotAllowed(scope["method"], scope["path"], "POST"))
        else:
            await send_error(send, faults.unknown_path(scope["path"]))


def is_forwarded(path: str) -> bool:
    if path == _OWN_PREFIX or path.startswith(_OWN_PREFIX + "/"):
        return False
    return path.startswith("/v1/") or path in FORWARDED_ROUTES
