"""How a budget is spread over layers: one file per way. This list is what the command line knows."""

from __future__ import annotations

from artifacts.errors import ConfigError
from compressors.allocation import (
    depth_increasing,
    dynamic_programme,
    evolutionary,
    global_threshold,
    influence_softmax,
    learned,
    uniform,
)
from compressors.allocation.problem import Allocator

ALLOCATORS: tuple[Allocator, ...] = (
    uniform.ALLOCATOR,
    depth_increasing.ALLOCATOR,
    influence_softmax.ALLOCATOR,
    global_threshold.ALLOCATOR,
    dynamic_programme.ALLOCATOR,
    evolutionary.ALLOCATOR,
    learned.ALLOCATOR,
)


def allocator_named(name: str) -> Allocator:
    """Raises ConfigError naming the known ones."""
    for allocator in ALLOCATORS:
        if allocator.name == name:
            return allocator
    raise ConfigError(
        f"allocation {name!r} is unknown. Known are {', '.join(allocator.name for allocator in ALLOCATORS)}."
    )
