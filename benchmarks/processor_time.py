"""How much has a process computed so far? From the kernel's own account, finer than clock ticks."""

from __future__ import annotations

from pathlib import Path


def processor_ns(pid: int) -> int:
    """Of all threads of the process that are alive."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
