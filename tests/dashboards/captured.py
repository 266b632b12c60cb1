"""Pages of `/metrics` that were captured from a running gateway, a vLLM engine and a load test."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).parent / "pages"
SOURCES = {"gateway": "gateway.txt", "engine": "vllm.txt", "load test": "loadtest.txt"}
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)[{ ]", re.MULTILINE)
_TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)


def page(source: str) -> str:
    return (PAGES / SOURCES[source]).read_text(encoding="utf-8")


def kinds(text: str) -> dict[str, str]:
    """Kind by family."""
    return dict(_TYPE.findall(text))


def samples(text: str) -> set[str]:
    return set(_SAMPLE.findall(text))


def label_values(text: str, metric: str, label: str) -> set[str]:
    return set(re.findall(rf'^{re.escape(metric)}\{{[^}}]*\b{label}="([^"]*)"', text, re.MULTILINE))
