"""What a pruning method is: a frozen configuration, what it can remove, and one pure function that chooses survivors.

The registry is keyed by the type of the configuration, so a resolved configuration alone says which method made a
variant. A method sees evidence and returns indices; it never changes a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.variant import Unit
from compressors.arch import UnitGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthEvidence:
    """One kind of unit in one layer.

    `input_norms` [columns] holds the Euclidean norm over the calibration tokens of each consumer input, None without
    calibration. `random` is seeded by the run's seed, the layer and the unit.
    """

    group: UnitGroup
    input_norms: Tensor | None
    random: Random


WidthSelector = Callable[[Any, WidthEvidence, int], tuple[int, ...]]
DepthSelector = Callable[[Any, Iterator[Tensor], int], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """`select_width(config, evidence, kept)` chooses units of a layer; `select_layers(config, hidden_states, kept)`
    chooses layers from the hidden states [windows, tokens, hidden] before layer 0, after it, ... after the last.

    The first of `units` is pruned when a user names none.
    """

    name: str
    config: Any
    units: tuple[Unit, ...]
    needs_calibration: bool
    paper: str
    select_width: WidthSelector | None = None
    select_layers: DepthSelector | None = None

    @property
    def resolved_config(self) -> dict[str, Any]:
        return asdict(self.config)


class Registry:
    """Methods by the type of their configuration, and by name for the command line."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._by_config = {type(method.config): method for method in methods}

    def of(self, config: object) -> Method:
        return self._by_config[type(config)]

    def named(self, name: str) -> Method:
        """Raises ConfigError naming the known methods."""
        for method in self._by_config.values():
            if method.name == name:
                return method
        raise ConfigError(f"method {name!r} is unknown. Known methods are {', '.join(self.names)}.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(method.name for method in self._by_config.values())
