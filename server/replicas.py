"""Which of several servers with the same variant gets a request? The healthy one that is answering least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.health import Health
from server.pool import CONNECT_TIMEOUT_S, Address, UpstreamPool


@dataclass(slots=True, eq=False)
class Replica:
    """One server of a variant. An ejected one gets no requests until it is readmitted."""

    pool: UpstreamPool
    in_flight: int = 0
    health: Health = field(default_factory=Health)

    @classmethod
    def at(cls, address: Address, connect_s: float = CONNECT_TIMEOUT_S) -> Replica:
        return cls(UpstreamPool(address, connect_s))

    @property
    def url(self) -> str:
        return self.pool.address.url

    @property
    def ejected(self) -> bool:
        return self.health.ejected


def least_loaded(replicas: Sequence[Replica], besides: Replica | None = None) -> Replica | None:
    """None if all are ejected; of equals the first that is listed. `besides` is not taken."""
    best = None
    for replica in replicas:
        if replica is besides or replica.health.ejected:
            continue
        if best is None or replica.in_flight < best.in_flight:
            best = replica
    return best
