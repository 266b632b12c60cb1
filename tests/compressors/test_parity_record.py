"""The committed comparison with the originals says what the project claims, and its page is what the script draws."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
STEM = FOLDER / "reference_parity_cpu_202611"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "reference_parity.py"))


@pytest.fixture
def raw() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(STEM.with_suffix(".json").read_text())
    return content


def test_the_page_is_generated_from_the_raw_data(script: dict[str, Any], raw: dict[str, Any]) -> None:
    assert script["render"](raw) == STEM.with_suffix(".md").read_text()


@pytest.mark.parametrize(("kept", "published"), [(129, 1.916), (86, 2.788)])
def test_the_flagship_is_at_or_under_osscar(
    script: dict[str, Any], raw: dict[str, Any], kept: int, published: float
) -> None:
    ours = script["excess"](raw, "obs", "ridge", kept)
    assert ours and mean(ours) <= published - script["REFERENCE_DENSE"]


def test_a_missing_or_worse_cell_is_a_miss(script: dict[str, Any], raw: dict[str, Any]) -> None:
    before = script["misses"](raw)
    assert "OSSCAR (10 rows a step) at 25 %" not in before
    worse, fewer = copy.deepcopy(raw), copy.deepcopy(raw)
    for cell in worse["cells"]:
        if (cell["method"], cell["repair"], cell["kept"]) == ("obs", "ridge", 129):
            cell["loss_nats"] += 1
    fewer["cells"] = [cell for cell in raw["cells"] if (cell["method"], cell["kept"]) != ("obs", 129)]
    for changed in (worse, fewer):
        assert "OSSCAR (10 rows a step) at 25 %" in script["misses"](changed)


def test_every_cell_is_there_once(raw: dict[str, Any]) -> None:
    keys = [(cell["method"], cell["repair"], cell["kept"], cell["seed"]) for cell in raw["cells"]]
    assert len(set(keys)) == len(keys)
