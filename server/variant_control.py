"""How is one variant doing, and how is it told to start, stop, drain, sleep or wake?

An order is answered at once with the state that it led to: 202 if something has begun, 200 if there was nothing to do.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from artifacts.errors import PrunebenchError, ServingError
from server import faults
from server.lifecycle import State
from server.orders import Order
from server.registry import Registry, ServedVariant
from server.reload import ReloadPlan


class House(Protocol):
    """Who takes orders."""

    def order(self, name: str, order: Order) -> bool:
        """False if there was nothing to do. Raises ServingError (404, 409, 503)."""
        ...

    async def reload(self) -> ReloadPlan:
        """Raises PrunebenchError; then nothing has changed."""
        ...


class VariantStatus(BaseModel):
    """One variant now. `waiting`: requests in its queue; `retry_in_s`: until the next start after a failure."""

    name: str
    state: State
    reason: str | None
    for_s: float
    in_flight: int
    waiting: int
    restarts: int
    failures_in_a_row: int
    retry_in_s: float | None


class Refusal(BaseModel):
    """OpenAI's error object."""

    error: dict[str, Any]


_NAME = Annotated[str, Path(description="a variant's name, not an alias")]
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Refusal, "description": "no variant has this name"}}
_ORDERED: dict[int | str, dict[str, Any]] = {
    200: {"model": VariantStatus, "description": "nothing was to do"},
    202: {"model": VariantStatus, "description": "it has begun"},
    409: {"model": Refusal, "description": "impossible in the variant's state"},
    **_UNKNOWN,
}
_RELOADED: dict[int | str, dict[str, Any]] = {409: {"model": Refusal, "description": "the file cannot be taken"}}
_ABOUT: dict[Order, str] = {
    "start": "Start a stopped variant, or one that waits after a failure, now.",
    "stop": "Stop a variant at once: requests inside end with an error.",
    "drain": "Take no new requests, finish those inside within `timeouts.drain_s`, then stop.",
    "sleep": "Finish the requests inside, then give the memory back. The next request wakes the variant.",
    "wake": "Wake a sleeping variant before a request asks for it.",
}


def variant_routes(registry: Registry, house: House | None) -> APIRouter:
    """Orders are routes only where somebody takes them."""
    routes = APIRouter(tags=["variants"])

    @routes.get("/variants")
    async def variants() -> list[VariantStatus]:
        """All variants in the fleet file's order."""
        return [status_of(variant) for variant in registry]

    @routes.get("/variants/{name}", responses=_UNKNOWN)
    async def variant(name: _NAME) -> VariantStatus:
        return status_of(_found(registry, name))

    if house is not None:
        for order, about in _ABOUT.items():
            _add_order(routes, registry, house, order, about)
        _add_reload(routes, house)
    return routes


def _add_reload(routes: APIRouter, house: House) -> None:
    @routes.post("/fleet/reload", status_code=202, responses=_RELOADED)
    async def reload_fleet() -> dict[str, list[str]]:
        """Read the fleet file again: new variants start, missing ones drain and stop, changed ones restart.

        Aliases, limits and timeouts count at once. A file that cannot be taken changes nothing.
        """
        try:
            return (await house.reload()).names
        except ServingError:
            raise
        except PrunebenchError as error:
            raise faults.not_reloaded(str(error)) from error


def _add_order(routes: APIRouter, registry: Registry, house: House, order: Order, about: str) -> None:
    async def obey(name: _NAME) -> JSONResponse:
        variant = _found(registry, name)
        status = 202 if house.order(name, order) else 200
        return JSONResponse(status_of(variant).model_dump(), status)

    routes.add_api_route(
        f"/variants/{{name}}/{order}",
        obey,
        methods=["POST"],
        responses=_ORDERED,
        summary=about,
        name=f"{order}_variant",
    )


def _found(registry: Registry, name: str) -> ServedVariant:
    variant = registry.get(name)
    if variant is None:
        raise faults.unknown_variant(name, [variant.name for variant in registry])
    return variant


def status_of(variant: ServedVariant) -> VariantStatus:
    life = variant.lifecycle
    for_s = time.monotonic() - life.since_s if life.since_s else 0.0
    return VariantStatus(
        name=variant.name,
        state=life.state,
        reason=life.reason,
        for_s=round(for_s, 3),
        in_flight=variant.gate.in_flight,
        waiting=variant.gate.queued,
        restarts=life.restarts,
        failures_in_a_row=life.failures,
        retry_in_s=max(0.0, round(life.delay_s - for_s, 3)) if life.state == "backoff" else None,
    )
