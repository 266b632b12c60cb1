"""What is served at this moment? The one mutable thing that the gateway reads and the supervisor writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from artifacts.fleet import Fleet, VariantEntry
from server.admission import Gate
from server.checkpoint import Checkpoint
from server.lifecycle import TAKING, Lifecycle
from server.pool import Address, UpstreamPool
from server.replicas import Replica
from server.request_head import header_lines
from server.routing import Split, splits_of


@dataclass(slots=True)
class ServedVariant:
    """One variant: what it is, how to reach it, how it is, who is in it."""

    entry: VariantEntry
    replicas: tuple[Replica, ...]
    gate: Gate
    checkpoint: Checkpoint | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def pool(self) -> UpstreamPool:
        """Of a worker of our own, which is the only replica; of remote ones, the first."""
        return self.replicas[0].pool

    @property
    def served_name(self) -> str:
        """The model's name at the worker."""
        return self.entry.served_name or self.entry.name

    def note(self, replica: Replica, failure: str | None, now_s: float) -> None:
        """What a request or a probe found at a server behind a URL: why it failed, or None.

        The variant is ready while one of its replicas is healthy. A worker of our own is the supervisor's business.
        """
        if not self.entry.urls:
            return
        replica.health = replica.health.succeeded() if failure is None else replica.health.failed(failure)
        healthy = not all(other.ejected for other in self.replicas)
        if self.lifecycle.state == "backoff" and healthy:
            self.lifecycle = self.lifecycle.ready(now_s)
        elif self.lifecycle.state == "ready" and not healthy:
            self.lifecycle = self.lifecycle.failed(now_s, self._why_unreachable)

    @property
    def _why_unreachable(self) -> str:
        said = (f"{replica.url}: {replica.health.reason}" for replica in self.replicas)
        return f"no server answers; {', '.join(said)}"

    @property
    def stamp(self) -> bytes:
        """The header lines that say which checkpoint answered."""
        return _stamp(self.entry.name, None if self.checkpoint is None else self.checkpoint.fingerprint)


@lru_cache(maxsize=256)
def _stamp(name: str, fingerprint: str | None) -> bytes:
    headers = [(b"x-prunebench-variant", name.encode())]
    if fingerprint is not None:
        headers.append((b"x-prunebench-fingerprint", fingerprint.encode()))
    return header_lines(headers)


class Registry:
    """The variants by name, and whether new requests are still taken."""

    def __init__(self, fleet: Fleet, socket_dir: str) -> None:
        self.fleet = fleet
        self._socket_dir = socket_dir
        self.draining = False
        # Requests that are answered or wait: what `limits.max_in_flight` bounds.
        self.held = 0
        self._variants = {entry.name: served(entry, fleet, socket_dir) for entry in fleet.variants}
        self._splits = splits_of(fleet.aliases)

    def __iter__(self) -> Iterator[ServedVariant]:
        return iter(self._variants.values())

    def get(self, name: str) -> ServedVariant | None:
        """The variant of this very name."""
        return self._variants.get(name)

    def resolve(self, name: str) -> ServedVariant | None:
        """The variant that answers a request for `name`; an alias with several targets moves on to the next."""
        split = self._splits.get(name)
        return self._variants.get(name if split is None else split.next())

    @property
    def splits(self) -> Mapping[str, Split]:
        """By alias."""
        return self._splits

    @property
    def names(self) -> tuple[str, ...]:
        """Of the variants and of the aliases."""
        return (*self._variants, *self._splits)

    @property
    def all_ready(self) -> bool:
        """Every variant takes requests, those apart that were stopped on request; at least one does."""
        wanted = [v.lifecycle.state for v in self if v.lifecycle.state not in ("draining", "stopped")]
        return not self.draining and bool(wanted) and TAKING.issuperset(wanted)

    def adopt(self, fleet: Fleet) -> None:
        """New names, limits and timeouts count from now on. Variants that `fleet` lacks stay until `forget`."""
        known = self._variants
        wanted = {e.name: known.get(e.name) or served(e, fleet, self._socket_dir) for e in fleet.variants}
        self._variants = wanted | {name: variant for name, variant in known.items() if name not in wanted}
        self._splits = splits_of(fleet.aliases)
        self.fleet = fleet
        for entry in fleet.variants:
            wanted[entry.name].gate.resize(capacity_of(entry, fleet), fleet.limits.max_queued)
            for replica in wanted[entry.name].replicas:
                replica.pool.connect_s = fleet.timeouts.connect_s

    def forget(self, name: str) -> None:
        self._variants = {known: variant for known, variant in self._variants.items() if known != name}

    def renew(self, variant: ServedVariant, entry: VariantEntry) -> None:
        """The variant is another one under the same name: nothing of it runs now."""
        variant.entry, variant.checkpoint = entry, None
        variant.replicas = replicas_of(entry, self.fleet, self._socket_dir)


def served(entry: VariantEntry, fleet: Fleet, socket_dir: str) -> ServedVariant:
    """A variant that nobody has started yet."""
    gate = Gate(entry.name, capacity_of(entry, fleet), fleet.limits.max_queued)
    return ServedVariant(entry, replicas_of(entry, fleet, socket_dir), gate)


def capacity_of(entry: VariantEntry, fleet: Fleet) -> int | None:
    return entry.max_in_flight or fleet.limits.max_in_flight_per_variant


def replicas_of(entry: VariantEntry, fleet: Fleet, socket_dir: str) -> tuple[Replica, ...]:
    connect_s = fleet.timeouts.connect_s
    return tuple(Replica.at(address, connect_s) for address in addresses_of(entry, socket_dir))


def addresses_of(entry: VariantEntry, socket_dir: str) -> list[Address]:
    """Of running servers, or the Unix socket that the variant's worker will listen on."""
    if entry.urls:
        return [Address.of_url(url) for url in entry.urls]
    return [Address(socket_path=f"{socket_dir}/{entry.name}.sock")]
