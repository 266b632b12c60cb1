"""What an allocator is, and what it is given: a target, a method's job, the model and the calibration windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.progress import Progress, silent
from compressors.allocation.space import Target
from compressors.blocks import BlockModel
from compressors.level_building import Counts
from compressors.plan import Allocation
from compressors.registry import Survey
from compressors.sequential import PruningJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`job` is how the variant will be pruned, its allocation the dense one. `windows` [N, T] are calibration ids.

    `folder` is for levels that memory is not to hold; None keeps them all in memory.
    """

    target: Target
    model: BlockModel
    job: PruningJob
    windows: Tensor | None = None
    progress: Progress = silent
    folder: Path | None = None

    @property
    def required_windows(self) -> Tensor:
        """Raises ConfigError without calibration."""
        if self.windows is None:
            raise ConfigError("This allocation needs calibration text. Give --calibration FILE or a hub dataset.")
        return self.windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """`allocate(config, problem)` returns an allocation that the problem's target holds.

    `survey` says what it looks at; one that builds levels says with `levels(config, target)` which come first.
    """

    name: str
    config: Any
    needs_text: bool
    paper: str
    allocate: Callable[[Any, Problem], Allocation]
    survey: Survey = "none"
    levels: Callable[[Any, Target], Counts] | None = None

    @property
    def resolved_config(self) -> dict[str, Any]:
        return asdict(self.config)
