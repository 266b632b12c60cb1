"""Runs verbs in this process, as the command line would."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prunebench.cli import main

MODEL = Path(__file__).parents[2] / "prunebench" / "demo_model"


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on the last stdout line."""
        parsed: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return parsed


Verb = Callable[..., Outcome]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Verb:
    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["prunebench", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some 4,000 tokens of Python that the demo model can read."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"def function_{i}(value):\n    return value + {i}\n" for i in range(300)))
    return path
