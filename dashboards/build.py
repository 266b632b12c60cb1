"""Which files do Grafana and Prometheus read, and are the committed ones still what the code says?

`python -m prunebench dashboards build` writes them into the source tree; `check` compares, and asks promtool.
"""

from __future__ import annotations

from pathlib import Path

from artifacts.files import write_text_atomically
from dashboards import engine, fleet, gateway, latency, load_test, roofline
from dashboards.boards import Board, as_json
from dashboards.scraping import HERE, Scraping, configuration

BOARDS: tuple[Board, ...] = (
    *(fleet.BOARD, latency.BOARD, engine.BOARD, roofline.BOARD),
    *(load_test.BOARD, gateway.BOARD),
)
CONTAINER = Scraping(url="http://server:8000", rules="/etc/prometheus", load_test="host.docker.internal:9646")
GRAFANA = HERE / "grafana" / "dashboards"


def files() -> dict[Path, str]:
    """Relative to this package, with their content."""
    boards = {(GRAFANA / f"{board.name}.json").relative_to(HERE): as_json(board) for board in BOARDS}
    return boards | {Path("prometheus/prometheus.json"): configuration(CONTAINER)}


def build(root: Path = HERE) -> list[Path]:
    """Writes every generated file. Raises OSError as writing does."""
    made = files()
    for path, text in made.items():
        write_text_atomically(root / path, text)
    return sorted(root / path for path in made)


def stale(root: Path = HERE) -> list[Path]:
    """Generated files that are missing or differ from what would be written."""
    return [path for path, text in files().items() if not (root / path).is_file() or (root / path).read_text() != text]
