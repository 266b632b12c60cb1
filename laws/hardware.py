"""Measures what this machine's memory and arithmetic units give a well-written program: the roofline's two numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from artifacts.provenance import collect_provenance
from artifacts.units import format_bytes
from laws.roofline import Hardware

_MATRIX_SIDE = 2048
_REPEATS = 7
_MIN_READ_BYTES = 256 << 20


def measure_cpu(working_set_bytes: int) -> Hardware:
    """The best of seven repeats, all cores at work. Takes about two seconds.

    `working_set_bytes`: the size that is read again and again, as a decoder reads its weights. A model smaller than
    the last-level cache is bound by the cache's bandwidth, not by that of the memory behind it.
    """
    cores = len(os.sched_getaffinity(0))
    left = np.ones((_MATRIX_SIDE, _MATRIX_SIDE), dtype=np.float32)
    parts = np.array_split(np.ones(max(working_set_bytes // 4, cores), dtype=np.float32), cores)
    passes = max(1, _MIN_READ_BYTES // working_set_bytes)
    with ThreadPoolExecutor(cores) as pool:
        read_s = _best_s(lambda: list(pool.map(lambda part: _read(part, passes), parts)))
    multiply_s = _best_s(lambda: left @ left)
    return Hardware(
        name=collect_provenance().cpu or "unknown processor",
        memory_bytes_per_s=sum(part.nbytes for part in parts) * passes / read_s,
        flops_per_s=2 * _MATRIX_SIDE**3 / multiply_s,
        source=f"best of {_REPEATS} measurements on {cores} cores: repeated reads of "
        f"{format_bytes(working_set_bytes)}, float32 matrix products of side {_MATRIX_SIDE}",
    )


def cache_file() -> Path:
    """Where this machine's measurement is kept between commands."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunebench" / "hardware.json"


def _read(part: np.ndarray[tuple[int], np.dtype[np.float32]], passes: int) -> None:
    for _ in range(passes):
        part.max()


def _best_s(work: Callable[[], object]) -> float:
    return min(_timed_s(work) for _ in range(_REPEATS))


def _timed_s(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
