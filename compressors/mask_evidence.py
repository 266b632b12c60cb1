"""What a method that masks single weights gets to see: matrices with a common input, or a whole FFN and its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from artifacts.errors import ConfigError
from compressors.arch import LayerView
from compressors.masks import Pattern
from compressors.statistics import ConsumerStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixEvidence:
    """`weights` [rows, columns] of matrices that read the same input, of which `statistics` are; None without text."""

    weights: tuple[Tensor, ...]
    pattern: Pattern
    statistics: ConsumerStatistics | None

    @property
    def required_statistics(self) -> ConsumerStatistics:
        """Raises ConfigError without calibration."""
        if self.statistics is None:
            raise ConfigError("This method needs calibration text. Give --calibration FILE or a hub dataset.")
        return self.statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnEvidence:
    """`layer` with its dense FFN, which is only looked at.

    `pieces()` passes once over its inputs [tokens, hidden], each piece with its place among all tokens, always the same
    ones. `room(name, columns)` [tokens, columns] keeps float32 values of every token in host memory or in a file.
    """

    layer: LayerView
    pattern: Pattern
    pieces: Callable[[], Iterator[tuple[slice, Tensor]]]
    room: Callable[[str, int], Tensor]
    wanted: None = None
