"""The proxies that people write, to measure the gateway against.

`python -m benchmarks.peer_proxies NAME PORT UPSTREAM`. Both forward a request's bytes and stream the answer's, with
pooled connections and nothing else.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PATH = "/v1/completions"


def starlette_aiohttp(upstream: str) -> Starlette:
    """A Starlette route that streams what an aiohttp session receives."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as app.state.session:
            yield

    async def forward(request: Request) -> StreamingResponse:
        session = request.app.state.session
        answer = await session.post(upstream + PATH, data=await request.body(), headers=_json())
        return StreamingResponse(answer.content.iter_any(), answer.status, media_type=answer.content_type)

    return Starlette(routes=[Route(PATH, forward, methods=["POST"])], lifespan=lifespan)


def fastapi_httpx(upstream: str) -> FastAPI:
    """A FastAPI endpoint that streams what an httpx client receives."""
    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=None)
    app = FastAPI()

    @app.post(PATH)
    async def forward(request: Request) -> StreamingResponse:
        asked = client.build_request("POST", upstream + PATH, content=await request.body(), headers=_json())
        answer = await client.send(asked, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, media_type=answer.headers["content-type"])

    return app


def _json() -> dict[str, str]:
    return {"content-type": "application/json"}


APPS: dict[str, Any] = {"starlette-aiohttp": starlette_aiohttp, "fastapi-httpx": fastapi_httpx}

if __name__ == "__main__":
    name, port, upstream = sys.argv[1:]
    uvicorn.run(APPS[name](upstream), port=int(port), log_level="warning", access_log=False, loop="uvloop")
