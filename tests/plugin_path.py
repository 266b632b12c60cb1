"""Where this distribution is not installed, vLLM would not find its plug-in: a metadata folder makes it known."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = "vllm.general_plugins"


def plugin_path(folder: Path) -> dict[str, str]:
    """Environment under which a child finds our plug-in; empty where the distribution is installed."""
    if any(entry.name == "prunebench" for entry in entry_points(group=PLUGINS)):
        return {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = folder / f"prunebench-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: prunebench\nVersion: {project['version']}\n")
    lines = [f"{name} = {target}" for name, target in project["entry-points"][PLUGINS].items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{PLUGINS}]", *lines, ""]))
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
