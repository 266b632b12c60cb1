"""What can be asked of the server besides generation: is it alive, is it ready, what does it serve, how is it doing?"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from artifacts.errors import ServingError
from artifacts.provenance import package_versions
from server import faults
from server.connection import UpstreamLost
from server.exposition import merged_exposition
from server.metrics import FORWARDED_ROUTES, GatewayMetrics
from server.pool import fetch
from server.registry import Registry, ServedVariant
from server.variant_control import House, variant_routes

SCRAPE_TIMEOUT_S = 3.0


def control_plane(registry: Registry, metrics: GatewayMetrics, house: House | None = None) -> FastAPI:
    """The FastAPI application; errors are OpenAI's error object here too. Without a `house` nobody takes orders."""
    version = package_versions(("prunebench",)).get("prunebench", "0")
    app = FastAPI(title="Prunebench", version=version, description=_description())
    began_unix_s = int(time.time())

    @app.get("/health")
    async def health() -> dict[str, str]:
        """200 while the gateway lives, whatever its variants do."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"description": "a variant takes no requests"}})
    async def ready() -> JSONResponse:
        """200 only if every variant takes requests, those apart that were stopped on request."""
        variants = {v.name: {"state": v.lifecycle.state, "reason": v.lifecycle.reason} for v in registry}
        status = 200 if registry.all_ready else 503
        return JSONResponse({"ready": registry.all_ready, "draining": registry.draining, "variants": variants}, status)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """OpenAI's list; `prunebench` in each entry says what the variant is and how it is."""
        return {"object": "list", "data": [model_entry(v, began_unix_s) for v in registry]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        variant = registry.get(name)
        if variant is None:
            raise faults.unknown_model(name, registry.names)
        return model_entry(variant, began_unix_s)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """The gateway's metrics and every worker's, these with a `variant` label."""
        variants = list(registry)
        texts = await asyncio.gather(*(worker_metrics(v) for v in variants))
        workers = [(v.name, text) for v, text in zip(variants, texts, strict=True) if text]
        page = merged_exposition(metrics.exposition(), workers)
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    app.include_router(variant_routes(registry, house))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ServingError, _serving_error)
    return app


def _description() -> str:
    routes = ", ".join(FORWARDED_ROUTES)
    return (
        "Dense and pruned variants of a model behind one OpenAI-compatible endpoint. POST requests to "
        f"{routes} and any other path under /v1 go to the variant that `model` names, byte for byte."
    )


def model_entry(variant: ServedVariant, created_unix_s: int) -> dict[str, Any]:
    """One entry of `/v1/models`."""
    life, checkpoint = variant.lifecycle, variant.checkpoint
    about: dict[str, Any] = {
        "state": life.state,
        "reason": life.reason,
        "restarts": life.restarts,
        "engine": "remote" if variant.entry.urls else variant.entry.engine,
        "model": variant.entry.model,
        "urls": variant.entry.urls,
    }
    if checkpoint is not None:
        about["fingerprint"] = checkpoint.fingerprint
    if checkpoint is not None and checkpoint.manifest is not None:
        about["manifest"] = checkpoint.manifest.model_dump(mode="json")
    return {
        "id": variant.name,
        "object": "model",
        "created": created_unix_s,
        "owned_by": "prunebench",
        "prunebench": about,
    }


async def worker_metrics(variant: ServedVariant) -> str:
    """The worker's own page; empty if it does not answer in time."""
    if variant.lifecycle.state != "ready":
        return ""
    try:
        async with asyncio.timeout(SCRAPE_TIMEOUT_S):
            status, body = await fetch(variant.pool, "GET", "/metrics")
    except (OSError, UpstreamLost):
        return ""
    return body.decode("utf-8", "replace") if status == 200 else ""


async def _http_error(request: Request, error: Exception) -> Response:
    """FastAPI's own refusals, in OpenAI's wording."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allowed = (error.headers or {}).get("Allow", "GET") if isinstance(error, HTTPException) else "GET"
        return _rendered(faults.MethodNotAllowed(request.method, request.url.path, allowed))
    return _rendered(faults.unknown_path(request.url.path))


async def _serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return _rendered(error)


def _rendered(error: ServingError) -> Response:
    body = faults.error_body(error)
    response = Response(body, error.status)
    response.raw_headers = faults.error_headers(error, body)
    return response
