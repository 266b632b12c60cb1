"""The house rules that a machine can check: who imports whom, and how long a piece may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("artifacts", "compressors", "dashboards", "laws", "loadtest", "modeling", "prunebench", "server")
ALLOWED = {
    "artifacts": set(),
    "modeling": {"artifacts"},
    "compressors": {"artifacts", "modeling"},
    "server": {"artifacts"},
    "loadtest": {"artifacts"},
    "laws": {"artifacts"},
    "dashboards": {"artifacts"},
    "prunebench": set(PACKAGES),
}
# Third parties that only some packages may know, and why the rest must not: start-up time and gevent's patching.
CONFINED = {
    "torch": {"compressors", "modeling"},
    "transformers": {"compressors", "modeling"},
    "vllm": {"modeling"},
    "locust": {"loadtest"},
    "gevent": {"loadtest"},
    "fastapi": {"server"},
    "uvicorn": {"server"},
    "grafana_foundation_sdk": {"dashboards"},
}
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 350
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imports_of(tree: ast.AST) -> set[str]:
    """Top-level names of everything imported anywhere in the file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_in_the_agreed_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    imported = imports_of(parse(path))
    assert imported & set(PACKAGES) <= ALLOWED[package] | {package}
    assert {name for name in imported & CONFINED.keys() if package not in CONFINED[name]} == set()


def test_locust_is_imported_by_its_process_alone() -> None:
    importers = {p.name for p in SOURCES if {"locust", "gevent"} & imports_of(parse(p))}
    runner = parse(ROOT / "loadtest" / "runner.py")
    modules = {node.module for node in ast.walk(runner) if isinstance(node, ast.ImportFrom)}
    assert "locustfile.py" in importers
    assert not {f"loadtest.{Path(name).stem}" for name in importers} & modules


def test_vllm_is_imported_by_its_own_processes_alone() -> None:
    """The model, what registers it, and the process that times it."""
    importers = {p.relative_to(ROOT).as_posix() for p in SOURCES if "vllm" in imports_of(parse(p))}
    assert importers == {"modeling/vllm.py", "modeling/plugin.py", "modeling/decode_timing.py"}


@pytest.mark.parametrize("path", SOURCES + SCRIPTS + TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_pieces_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    functions = [n for n in ast.walk(parse(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno is not None}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}


def test_there_is_at_least_as_much_test_as_source() -> None:
    def lines(paths: list[Path]) -> int:
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)

    assert lines(TESTS) >= lines(SOURCES)


def test_modules_have_a_thesis() -> None:
    assert [str(path) for path in SOURCES + SCRIPTS if not ast.get_docstring(parse(path))] == []
