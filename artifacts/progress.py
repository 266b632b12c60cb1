"""How long work reports how far it is: libraries call it, the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """`progress(stage, done, total)`; `stage` is a short phrase, `done == total` ends the stage."""

    def __call__(self, stage: str, done: float, total: float) -> None: ...


def silent(stage: str, done: float, total: float) -> None:
    """For callers that watch nothing."""
