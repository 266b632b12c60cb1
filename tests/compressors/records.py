"""What the benchmarks left in the repository: a script, the raw data it measured and the page it drew from them."""

from __future__ import annotations

import json
import runpy
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


class Record:
    """The one of the script with this name; `raw` belongs to who asks for it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def script(self) -> dict[str, Any]:
        """Its functions and constants by name."""
        return runpy.run_path(str(FOLDER / f"{self._name}.py"))

    @property
    def raw(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._stem.with_suffix(".json").read_text(encoding="utf-8"))
        return content

    @property
    def page(self) -> str:
        return self._stem.with_suffix(".md").read_text(encoding="utf-8")

    @property
    def _stem(self) -> Path:
        return Path(self.script["STEM"])


def recorded() -> list[str]:
    """The scripts that draw a page from raw data, which they say with STEM."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if "\nSTEM = " in path.read_text(encoding="utf-8"))
