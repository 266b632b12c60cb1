"""What can be asked of the server besides generation: is it alive, is it ready, what does it serve, how is it doing?"""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from artifacts.errors import ServingError
from artifacts.provenance import own_version
from server import faults
from server.federation import page_of, scrape_targets, whole_page
from server.metrics import FORWARDED_ROUTES, GatewayMetrics
from server.model_list import model_list, named_entry
from server.openapi import DocumentedApp
from server.registry import Registry
from server.variant_control import House, variant_routes


def control_plane(
    registry: Registry, metrics: GatewayMetrics, house: House | None = None, open_paths: frozenset[str] | None = None
) -> FastAPI:
    """The FastAPI application; errors are OpenAI's error object here too. Without a `house` nobody takes orders.

    `open_paths`: what needs no key, where keys are asked for.
    """
    app = DocumentedApp(
        title="Prunebench",
        version=own_version(),
        description=_description(),
        redoc_url=None,
        example_model=registry.names[0],
        open_paths=open_paths,
        swagger_ui_oauth2_redirect_url=None,
    )
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
        return {"object": "list", "data": model_list(registry, began_unix_s)}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        entry = named_entry(registry, name, began_unix_s)
        if entry is None:
            raise faults.unknown_model(name, registry.names)
        return entry

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus(variant: str | None = None) -> Response:
        """The gateway's metrics and every worker's, these with a `variant` label; or just one variant's."""
        page = await (whole_page(registry, metrics) if variant is None else page_of(registry, metrics, variant))
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/sd")
    async def service_discovery(request: Request) -> list[dict[str, Any]]:
        """Targets for Prometheus' `http_sd_configs`: the gateway, and every variant's workers."""
        return scrape_targets(registry, request.url.netloc)

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
