"""The demo model on a real engine behind the real gateway, for studies of the load test that need nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts.fleet import Fleet, VariantEntry
from artifacts.progress import silent
from prunebench.demo_plan import MODEL_DIR
from prunebench.demo_server import running_server

NAME = "demo"


@contextmanager
def demo_endpoint() -> Iterator[tuple[str, Path]]:
    """Yields the gateway's URL and a folder that ends with it; the model is called NAME there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = VariantEntry(name=NAME, model=str(MODEL_DIR))
        Fleet(variants=(entry,), max_model_len=512, state_dir=str(folder / "state")).save(folder / "fleet.json")
        with running_server(folder / "fleet.json", folder / "server.log", silent) as url:
            yield url, folder
