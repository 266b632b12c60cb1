"""Fixtures of the compressor's tests; the builders behind them are in `tiny_models`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from records import Record
from tiny_models import random_text, save_checkpoint


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "tiny")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text(random_text(12, 40))
    return path


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Record:
    """What the benchmark that the test file names as SCRIPT left."""
    return Record(request.module.SCRIPT)


@pytest.fixture(scope="module")
def script(record: Record) -> dict[str, Any]:
    return record.script


@pytest.fixture(scope="module")
def raw(record: Record) -> dict[str, Any]:
    return record.raw


@pytest.fixture
def stories() -> Iterator[Callable[[str], Path]]:
    """Gives paths under the shared test data; the test is skipped where that folder is absent."""
    root = Path(__file__).resolve().parents[2] / "../shared/data"
    if not root.is_dir():
        pytest.skip("the shared test data are not beside this repository")
    yield lambda name: (root / name).resolve()
