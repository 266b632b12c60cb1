"""What does this GPU's memory and its matrix units give? The roofline's two numbers, measured in two seconds.

A decode step reads weights and writes next to nothing, so what counts is reading: a sum over an array that no cache
holds, and a matrix times a vector, which is what decoding does. The better one is the memory's speed; a copy, which
both reads and writes, bounds it from below. Matrix products are of random numbers: zeros draw less power.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from artifacts.errors import ConfigError
from artifacts.hardware import Hardware

_REPEATS = 7
_READ_BYTES = 4 << 30
_MATRIX_SIDE = 8192


def measure_gpu() -> Hardware:
    """Of the first GPU. Raises ConfigError without one."""
    if not torch.cuda.is_available():
        raise ConfigError("PyTorch sees no CUDA device here, so that none can be measured. Use --device cpu.")
    found = measure_device("cuda", _READ_BYTES, _MATRIX_SIDE)
    torch.cuda.empty_cache()
    return found.model_copy(update={"name": torch.cuda.get_device_name()})


def measure_device(device: str, read_bytes: int, side: int) -> Hardware:
    """The best of seven repeats of each, with `read_bytes` of bfloat16 and products of `side` x `side` matrices."""
    draw = torch.Generator(device=device).manual_seed(0)
    matrix = torch.empty((read_bytes // 2 // side, side), dtype=torch.bfloat16, device=device)
    matrix.normal_(generator=draw)
    vector, other = matrix[0].clone(), torch.empty_like(matrix)
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "sum": (1, lambda: matrix.view(torch.int64).sum()),
        "matrix times vector": (1, lambda: matrix @ vector),
        "copy": (2, lambda: other.copy_(matrix)),
    }
    speeds = {name: times * matrix.nbytes / _best_s(work, device) for name, (times, work) in ways.items()}
    best = max(speeds, key=lambda name: speeds[name])
    left, right = (torch.empty((side, side), dtype=torch.bfloat16, device=device) for _ in range(2))
    left.normal_(generator=draw)
    right.normal_(generator=draw)
    product_s = _best_s(lambda: left @ right, device)
    listed = ", ".join(f"{name} {speed / 1e9:.0f} GB/s" for name, speed in speeds.items())
    return Hardware(
        name=str(device),
        memory_bytes_per_s=speeds[best],
        flops_per_s=2 * side**3 / product_s,
        source=f"best of {_REPEATS} measurements each, bfloat16: {best} of {matrix.nbytes / 2**30:.2g} GiB ({listed}), "
        f"matrix products of side {side}",
    )


def _best_s(work: Callable[[], object], device: str) -> float:
    """One run first that only warms up."""
    return min(_timed_s(work, device) for _ in range(_REPEATS + 1))


def _timed_s(work: Callable[[], object], device: str) -> float:
    _settle(device)
    start_s = time.perf_counter()
    work()
    _settle(device)
    return time.perf_counter() - start_s


def _settle(device: str) -> None:
    """A GPU runs behind its caller."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
