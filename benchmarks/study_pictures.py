"""What do the panels of the demo model's studies look like? Draws them for their page, with a Chromium that is there.

    python benchmarks/study_pictures.py [--chromium /usr/bin/chromium]

Writes `pictures/PANEL.png` beside the cells; `study_page.py` shows those there are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.study_page import SERVING, STEM
from laws.studies.comparison import analyse
from laws.studies.joining import read_studies
from laws.studies.report import panels

WIDTH, HEIGHT = 860, 430
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=8000"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    out = STEM / "pictures"
    out.mkdir(exist_ok=True)
    for name, _, figure in panels(analyse(read_studies([STEM, SERVING]))):
        if figure is not None:
            _draw(figure, out / f"{_plain(name)}.png", options.chromium)


def _plain(panel: str) -> str:
    """Without the text's name, of which committed studies have one: `loss-python` is `loss`."""
    kind, _, rest = panel.partition("-")
    return panel if rest == "speed" else kind


def _draw(figure: go.Figure, out: Path, chromium: str) -> None:
    height = int(figure.layout.height or HEIGHT)
    figure.update_layout(width=WIDTH, height=height)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "panel.html"
        page.write_text(figure.to_html(include_plotlyjs=True, config={"staticPlot": True}), encoding="utf-8")
        size = f"--window-size={WIDTH + 16},{height + 16}"
        command = (chromium, *_FLAGS, f"--user-data-dir={place}/profile", size, f"--screenshot={out}", page.as_uri())
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
