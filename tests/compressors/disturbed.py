"""A compression in a process of its own that is killed in the midst of its work, or waits there for a word.

Processes are forked off one that has imported what they need: that takes far longer than a compression of these tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch

from compressors import policy, shards
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import verify_variant
from compressors.workspace import BlockFolder

# Before a tensor of the block at `DISTURBED_BLOCK` is written, with half of its file on disk, or in that step of
# learning masks.
Place = Literal["before", "within", "waits", "learning"]
DISTURBED_BLOCK, DISTURBED_STEP = 1, 7
_END_WITHIN_S = 120


@dataclass(frozen=True)
class Disturbed:
    """`line` gives a word once the process waits, and takes one to let it go on."""

    process: BaseProcess
    line: Connection

    def exit_code(self) -> int | None:
        self.process.join(_END_WITHIN_S)
        return self.process.exitcode


@contextmanager
def disturbed(request: CompressionRequest, place: Place) -> Iterator[Disturbed]:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["compressors.pipeline"])
    ours, theirs = forks.Pipe()
    process = forks.Process(target=_compress, args=(request, place, theirs))
    process.start()
    theirs.close()
    with ours:
        try:
            yield Disturbed(process, ours)
        finally:
            process.kill()
            process.join()
            process.close()


def _compress(request: CompressionRequest, place: Place, line: Connection) -> None:
    torch.set_num_threads(1)
    if place == "learning":
        policy._stepped = _dies_late(policy._stepped)
    else:
        BlockFolder.keep = _disturbing(BlockFolder.keep, place, line)  # type: ignore[method-assign]
    compress(request, verify=verify_variant)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dies_late(step: Callable[..., Any]) -> Callable[..., Any]:
    def step_or_die(config: Any, state: Any, *rest: Any) -> Any:
        if state.step == DISTURBED_STEP:
            _die()
        return step(config, state, *rest)

    return step_or_die


def _disturbing(keep: Callable[..., None], place: Place, line: Connection) -> Callable[..., None]:
    copy = shards._copy

    def copy_half(chunks: Any, stream: Any) -> None:
        copy(chunks, stream)
        stream.flush()
        _die()

    def keep_or_die(self: BlockFolder, index: int, *rest: Any) -> None:
        if index == DISTURBED_BLOCK and place == "before":
            _die()
        if index == DISTURBED_BLOCK and place == "waits":
            line.send("waits")
            line.recv()
        elif index == DISTURBED_BLOCK:
            shards._copy = copy_half
        keep(self, index, *rest)

    return keep_or_die
