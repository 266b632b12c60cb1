"""Do all variants fit into this machine's memory together?

Asked before the first start, so that nobody waits for an engine that the kernel will kill. On a GPU the engine itself
refuses what does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import ServingError
from artifacts.units import format_bytes

# Measured: API server, engine core and worker of vLLM 0.32 on a CPU, less weights and KV cache.
OVERHEAD_BYTES = 3 << 29


@dataclass(frozen=True, slots=True)
class Need:
    """What one variant will take."""

    name: str
    weights_bytes: int
    kv_cache_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + OVERHEAD_BYTES


def require_fit(needs: Iterable[Need], available_bytes: int) -> None:
    """Raises ServingError naming the first variant that no longer fits."""
    left_bytes = available_bytes
    for need in needs:
        if need.total_bytes > left_bytes:
            raise ServingError(
                f"The model {need.name!r} does not fit: it needs {format_bytes(need.total_bytes)} (weights "
                f"{format_bytes(need.weights_bytes)}, KV cache {format_bytes(need.kv_cache_bytes)}, engine "
                f"{format_bytes(OVERHEAD_BYTES)}) and {format_bytes(left_bytes)} of memory are left. Serve fewer "
                "variants or lower kv_cache_bytes.",
                status=503,
                code="model_does_not_fit",
            )
        left_bytes -= need.total_bytes


def available_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """What the kernel would give without swapping, or less where a control group sets a limit."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    available_bytes = int(match[1]) * 1024 if match else 0
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return available_bytes
    return available_bytes if limit == "max" else min(available_bytes, int(limit) - int(used))
