"""How does Prometheus get everybody's metrics from one place, all on one page or each worker's as a target of its own?

`/metrics` has them all, a worker's with a `variant` label. `/sd` lists targets that are the same page with a
`variant` parameter: a worker's own bytes, under a label that Prometheus adds, so that the series are the same.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any

from server import faults
from server.connection import UpstreamLost
from server.exposition import Page, in_pieces, merging
from server.metrics import GatewayMetrics
from server.pool import fetch
from server.registry import Registry, ServedVariant
from server.replicas import Replica

SCRAPE_TIMEOUT_S = 3.0
# No variant can have this name.
GATEWAY = "_gateway"


async def whole_page(registry: Registry, metrics: GatewayMetrics) -> str:
    """The gateway's metrics, and those of all workers that answer in time."""
    variants = list(registry)
    found = await asyncio.gather(*(worker_pages(variant) for variant in variants))
    workers = [
        Page(page.text, {"variant": variant.name, **page.labels})
        for variant, pages in zip(variants, found, strict=True)
        for page in pages
    ]
    return await in_pieces(merging(chain(metrics.pages(), workers)))


async def page_of(registry: Registry, metrics: GatewayMetrics, name: str) -> str:
    """One variant's page, without a `variant` label; or the gateway's own. Raises ServingError (404, 503)."""
    if name == GATEWAY:
        return await in_pieces(merging(metrics.pages()))
    variant = registry.get(name)
    if variant is None:
        raise faults.unknown_model(name, registry.names)
    pages = await worker_pages(variant)
    if not pages:
        raise faults.no_metrics(name)
    return pages[0].text if not pages[0].labels else await in_pieces(merging(pages))


async def worker_pages(variant: ServedVariant) -> list[Page]:
    """What those of the variant's servers say that answer in time; that of one among several has a `replica` label."""
    if variant.lifecycle.state != "ready":
        return []
    asked = [replica for replica in variant.replicas if not replica.ejected]
    texts = await asyncio.gather(*(worker_metrics(replica) for replica in asked))
    several = len(variant.replicas) > 1
    return [
        Page(text, {"replica": replica.url} if several else {})
        for replica, text in zip(asked, texts, strict=True)
        if text
    ]


async def worker_metrics(replica: Replica) -> str:
    """The worker's own page; empty if it does not answer in time."""
    try:
        async with asyncio.timeout(SCRAPE_TIMEOUT_S):
            status, body = await fetch(replica.pool, "GET", "/metrics")
    except (OSError, UpstreamLost):
        return ""
    return body.decode("utf-8", "replace") if status == 200 else ""


def scrape_targets(registry: Registry, authority: str) -> list[dict[str, Any]]:
    """For `http_sd_configs`: the gateway, and every variant. `authority` is where the caller has reached us."""
    gateway = {"__metrics_path__": "/metrics", "__param_variant": GATEWAY}
    variants = [
        {"__metrics_path__": "/metrics", "__param_variant": variant.name, "variant": variant.name}
        for variant in registry
    ]
    return [{"targets": [authority], "labels": labels} for labels in (gateway, *variants)]
