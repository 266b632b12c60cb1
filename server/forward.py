"""Which requests go to a worker, and to which? Decided from a head, then from the bounded body.

Of a body only `model` matters here, and what bounds it; the same bytes go to the worker. A refusal is told as soon as
it is known, and every request is counted, whatever becomes of it.
"""

from __future__ import annotations

from artifacts.errors import ServingError
from server import faults
from server.ask import Ask
from server.client import Client
from server.doorkeeper import Doorkeeper
from server.errand import Desk, Errand
from server.lifecycle import TAKING
from server.metrics import GatewayMetrics, ObservedRequest, route_label
from server.prompt_size import require_short_prompt
from server.registry import Registry, ServedVariant
from server.request_head import header_lines
from server.request_id import RequestIds


class Forwarder:
    """The data path: what the connections tell of requests to workers."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics, door: Doorkeeper) -> None:
        self._registry = registry
        self._door = door
        self._ids = RequestIds()
        self._desk = Desk(registry, metrics)

    def hear_head(self, client: Client) -> ObservedRequest:
        head = client.head
        request = ObservedRequest(
            route_label(head.path), id=self._ids.of(head.given_ids), path=head.path, headers=head.headers
        )
        try:
            key = self._door.asker(head)
            if key is not None:
                request.key_name = key.entry.name
                if key.bucket is not None:
                    client.told = header_lines(self._door.charge(key, key.bucket))
            self._require_bounded(head.declared_bytes)
        except ServingError as error:
            self._desk.refuse(client, error, request)
        return request

    def hear_body(self, client: Client, request: ObservedRequest) -> None:
        try:
            self._require_bounded(client.body_bytes)
            if client.whole:
                self._forward(client, request)
        except ServingError as error:
            self._desk.refuse(client, error, request)

    def lose(self, client: Client, request: ObservedRequest) -> None:
        self._desk.lose(client, request)

    def _require_bounded(self, size_bytes: int) -> None:
        limit_bytes = self._registry.fleet.limits.max_body_bytes
        if size_bytes > limit_bytes:
            raise faults.body_too_large(limit_bytes)

    def _forward(self, client: Client, request: ObservedRequest) -> None:
        """Raises ServingError."""
        request.bytes_in = client.body_bytes
        ask = Ask.parse(client.body)
        request.model = ask.model
        request.streamed = ask.fields.get("stream") is True
        limit_chars = self._registry.fleet.limits.max_prompt_chars
        if limit_chars is not None:
            require_short_prompt(ask.fields, limit_chars)
        variant = self._registry.resolve(ask.model)
        if variant is None:
            raise faults.unknown_model(ask.model, self._registry.names)
        request.variant = variant.name
        self._require_open(variant)
        Errand(self._desk, client, request, variant, ask).start()

    def _require_open(self, variant: ServedVariant) -> None:
        registry = self._registry
        if registry.draining:
            raise faults.draining()
        if variant.lifecycle.state not in TAKING:
            raise faults.not_ready(variant.name, variant.lifecycle.state, variant.lifecycle.reason)
        limit = registry.fleet.limits.max_in_flight
        if registry.held >= limit:
            raise faults.too_many_in_flight(limit)
