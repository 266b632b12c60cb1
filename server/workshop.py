"""What do all variants' workers share? Machine, logs, turns to start, and how much memory each takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.fleet import Fleet, VariantEntry
from server import memory
from server.checkpoint import local_folder, weights_bytes
from server.engines import Machine
from server.registry import Registry

Announce = Callable[[str], None]


@dataclass(slots=True)
class Workshop:
    """`turn`: as many start at once as the fleet allows, one if it does not say. `stir` is called when something
    has changed that decides who sleeps and who wakes.

    `broken` carries an error that nobody expected; what it happened to is looked after no more.
    """

    registry: Registry
    machine: Machine
    log_dir: Path
    announce: Announce
    broken: asyncio.Future[None]
    stir: Callable[[], None]
    turn: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.turn = asyncio.Semaphore(self.fleet.starts_at_once)

    @property
    def fleet(self) -> Fleet:
        return self.registry.fleet

    @property
    def swaps(self) -> bool:
        return self.fleet.layout == "swap"

    def require_memory(self, entries: Iterable[VariantEntry], fleet: Fleet) -> None:
        """Raises ServingError if as many of these workers as may be awake together do not fit into what is free now."""
        needs = [need_of(entry, fleet) for entry in entries if is_counted(entry, self.machine)]
        if fleet.layout == "swap":
            needs = sorted(needs, key=lambda need: need.total_bytes, reverse=True)[: fleet.swap.awake]
        if needs:
            memory.require_fit(needs, memory.available_memory_bytes())


def is_counted(entry: VariantEntry, machine: Machine) -> bool:
    """A GPU's engine refuses by itself, a simulator needs next to nothing, a running server has its memory already."""
    return machine.device == "cpu" and entry.engine == "vllm" and not entry.urls


def need_of(entry: VariantEntry, fleet: Fleet) -> memory.Need:
    """A hub model's weights are not known before it is downloaded and count as nothing."""
    folder = local_folder(str(entry.model))
    weights = weights_bytes(folder, fleet.dtype) if folder is not None else 0
    return memory.Need(entry.name, weights, entry.kv_cache_bytes or fleet.kv_cache_bytes)
