"""Which of several servers with the same variant gets a request? The healthy one that is answering least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.pool import CONNECT_TIMEOUT_S, Address, UpstreamPool


@dataclass(slots=True, eq=False)
class Replica:
    """One server of a variant. An ejected one gets no requests until it is readmitted."""

    pool: UpstreamPool
    in_flight: int = 0
    ejected: bool = False

    @classmethod
    def at(cls, address: Address, connect_s: float = CONNECT_TIMEOUT_S) -> Replica:
        return cls(UpstreamPool(address, connect_s))


def least_loaded(replicas: Sequence[Replica]) -> Replica | None:
    """None if all are ejected; of equals the first that is listed."""
    healthy = [replica for replica in replicas if not replica.ejected]
    return min(healthy, key=lambda replica: replica.in_flight, default=None)
