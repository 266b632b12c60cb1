"""How a page comes from raw data: the options that the scripts share, the two files, and where all was measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts.files import write_text_atomically
from artifacts.run import Estimate


def page_parser(thesis: str | None) -> argparse.ArgumentParser:
    """`--render-only`, and `thesis` as the help text."""
    parser = argparse.ArgumentParser(description=thesis, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render-only", action="store_true", help="draw the page from the raw data again")
    return parser


def stories_parser(thesis: str | None) -> argparse.ArgumentParser:
    """The same with `--model` and `--text`."""
    parser = page_parser(thesis)
    parser.add_argument("--model", type=Path, help="folder of stories260K")
    parser.add_argument("--text", type=Path, help="stories separated by <|endoftext|> lines")
    return parser


def write_raw(stem: Path, raw: Mapping[str, Any]) -> None:
    write_text_atomically(stem.with_suffix(".json"), json.dumps(raw, indent=1) + "\n")


def read_raw(stem: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    return raw


def draw_page(stem: Path, render: Callable[[dict[str, Any]], str]) -> None:
    stem.with_suffix(".md").write_text(render(read_raw(stem)), encoding="utf-8")


def made_with(provenance: Mapping[str, Any], packages: Sequence[str] = ("torch", "transformers")) -> str:
    """Hardware, system, versions of Python and `packages`, commit: the end of a page, from its raw data."""
    commit = (provenance["commit"] or "unknown")[:12] + (" with changes" if provenance["commit_dirty"] else "")
    parts = (
        provenance["cpu"],
        f"{provenance['cpu_cores']} cores",
        provenance["system"],
        f"Python {provenance['python']}",
        *(f"{name} {provenance['versions'][name]}" for name in packages),
        f"commit {commit}",
    )
    return ", ".join(parts)


def contains_one(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= 1 <= estimate.high


def interval(estimate: Estimate, digits: int = 3) -> str:
    """A ratio and its interval, as pages write them."""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
