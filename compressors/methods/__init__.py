"""One file per method: its configuration, its choice of survivors, its paper. This list is the registry's content."""

from __future__ import annotations

from compressors.methods import (
    block_influence,
    evolutionary_depth,
    greedy_depth,
    hidden_slice,
    magnitude,
    random_units,
    wanda_sp,
)
from compressors.registry import Registry

REGISTRY = Registry(
    (
        random_units.METHOD,
        magnitude.METHOD,
        wanda_sp.METHOD,
        block_influence.METHOD,
        greedy_depth.METHOD,
        evolutionary_depth.METHOD,
        hidden_slice.METHOD,
    )
)
