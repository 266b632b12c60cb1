"""Are the files that Grafana and Prometheus read what the code says, and does Prometheus accept them?"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dashboards.build import stale
from dashboards.scraping import HERE, RULE_FILES, Scraping, configuration

PROMETHEUS = HERE / "prometheus"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was checked, what could not be (a sentence each), what is wrong (a sentence each)."""

    checked: tuple[str, ...]
    skipped: tuple[str, ...]
    faults: tuple[str, ...]


def check_all() -> Outcome:
    old = [f"{path} is not what the code says. Run `prunebench dashboards build`." for path in stale()]
    promtool = shutil.which("promtool")
    if promtool is None:
        missing = "promtool is not installed, so rules were not checked. On Debian: apt install prometheus."
        return Outcome(("generated files",), (missing,), tuple(old))
    faults = {name: promtool_fault([promtool, *arguments]) for name, arguments in _questions().items()}
    found = [f"promtool {name}: {fault}" for name, fault in faults.items() if fault]
    return Outcome(("generated files", *faults), (), (*old, *found))


def _questions() -> dict[str, list[str]]:
    rules = [str(PROMETHEUS / name) for name in RULE_FILES]
    tests = [str(path) for path in sorted((PROMETHEUS / "tests").glob("*.yaml"))]
    return {
        "check rules": ["check", "rules", *rules],
        "test rules": ["test", "rules", *tests],
        "check config": ["check", "config"],
    }


def promtool_fault(command: list[str]) -> str | None:
    """What it complained of, or None. The committed configuration names the container's paths; here are ours."""
    with tempfile.TemporaryDirectory(prefix="prunebench-promtool-") as folder:
        if command[1:] == ["check", "config"]:
            here = Path(folder) / "prometheus.json"
            here.write_text(configuration(Scraping(url="http://127.0.0.1:8000", rules=str(PROMETHEUS))))
            command = [*command, str(here)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    return None if done.returncode == 0 else (done.stderr + done.stdout).strip()
