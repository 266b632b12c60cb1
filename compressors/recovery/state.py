"""What a killed recovery needs to go on as if nothing had happened, in a folder beside the result to be.

Saved are trained weights, both moments of the optimizer, the point reached and the curve so far. Nothing else varies:
the data order follows from seed and step, no layer drops anything at random, and adapters are drawn from the seed. The
folder is named by a hash over the request and the content of everything it reads, so that a state is never continued
with other inputs; it is removed when the result has its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from artifacts.errors import CompressionError, ConfigError
from artifacts.files import PARTIAL_SUFFIX, disk_error
from artifacts.recovery import CurvePoint
from artifacts.unfinished import key_of, remove_working_folder, working_folder

_STATE_NAME = "state.pt"


@dataclass(slots=True)
class TrainingState:
    """`stage` and `step` are the next to do. `parameters` holds the trained weights of all stages so far, by name."""

    stage: int = 0
    step: int = 0
    parameters: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    points: list[CurvePoint] = field(default_factory=list)
    elapsed_s: float = 0.0


class StateFolder:
    """At most one state, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _STATE_NAME

    @property
    def was_saved(self) -> bool:
        return self._path.is_file()

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)

    def load(self) -> TrainingState:
        """A fresh state if none was saved. Raises ConfigError if the saved one cannot be read."""
        if not self.was_saved:
            return TrainingState()
        try:
            raw = torch.load(self._path, weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise ConfigError(f"{self._path} is damaged. Remove its folder to train from the beginning.") from error
        return TrainingState(**{**raw, "points": [CurvePoint(**point) for point in raw["points"]]})

    def save(self, state: TrainingState) -> None:
        """Raises ConfigError if the disk is full; the state saved before is kept then."""
        raw = {**_fields_of(state), "points": [point.model_dump() for point in state.points]}
        partial = self._path.with_suffix(PARTIAL_SUFFIX)
        try:
            with partial.open("wb") as stream:
                torch.save(raw, stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise disk_error(self._path, error if isinstance(error, OSError) else OSError(str(error))) from error


def _fields_of(state: TrainingState) -> dict[str, Any]:
    """Without the deep copy of every tensor that `dataclasses.asdict` makes."""
    return {name: getattr(state, name) for name in TrainingState.__slots__}


@contextmanager
def working_state(out: Path, inputs: dict[str, Any]) -> Iterator[StateFolder]:
    """The state folder of this request; it stays if the block is interrupted and goes when it ends well.

    It goes as well if training diverged, because a continued run would diverge again, and if nothing was saved. Raises
    ConfigError if another process is working on the same request.
    """
    with working_folder(out, key_of(inputs)) as folder:
        state, is_done = StateFolder(folder), False
        try:
            yield state
            is_done = True
        except CompressionError:
            state.clear()
            raise
        finally:
            if is_done or not state.was_saved:
                remove_working_folder(folder)
