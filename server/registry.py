"""What is served at this moment? The one mutable thing that the gateway reads and the supervisor writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from artifacts.fleet import Fleet, VariantEntry
from server.checkpoint import Checkpoint
from server.lifecycle import Lifecycle
from server.pool import Address, UpstreamPool


@dataclass(slots=True)
class ServedVariant:
    """One variant: what it is, how to reach it, how it is."""

    entry: VariantEntry
    pool: UpstreamPool
    checkpoint: Checkpoint | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    in_flight: int = 0

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def stamp(self) -> list[tuple[bytes, bytes]]:
        """The headers that say which checkpoint answered."""
        headers = [(b"x-prunebench-variant", self.name.encode())]
        if self.checkpoint is not None:
            headers.append((b"x-prunebench-fingerprint", self.checkpoint.fingerprint.encode()))
        return headers


class Registry:
    """The variants by name, and whether new requests are still taken."""

    def __init__(self, fleet: Fleet, socket_dir: str) -> None:
        self.fleet = fleet
        self.draining = False
        self._variants = {
            entry.name: ServedVariant(entry, UpstreamPool(address_of(entry, socket_dir))) for entry in fleet.variants
        }

    def __iter__(self) -> Iterator[ServedVariant]:
        return iter(self._variants.values())

    def get(self, name: object) -> ServedVariant | None:
        return self._variants.get(name) if isinstance(name, str) else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._variants)

    @property
    def in_flight(self) -> int:
        return sum(variant.in_flight for variant in self)

    @property
    def all_ready(self) -> bool:
        return not self.draining and all(variant.lifecycle.state == "ready" for variant in self)


def address_of(entry: VariantEntry, socket_dir: str) -> Address:
    """A running server's address, or the Unix socket that the variant's worker will listen on."""
    if entry.url is not None:
        return Address.of_url(entry.url)
    return Address(socket_path=f"{socket_dir}/{entry.name}.sock")
