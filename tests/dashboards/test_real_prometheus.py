"""A real Prometheus reads captured pages, and every query of every board brings series back.

The counters stand still, so that rates are 0 and quantiles of them not a number: what is shown here is that no query is
refused, misspells a label or joins what does not match. The benchmark on a real fleet shows values.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_server import VARIANTS, gpu_page, pages

from artifacts.errors import ConfigError
from benchmarks.dashboard_answers import ask, substituted
from dashboards.build import BOARDS
from dashboards.local_prometheus import Watch, prometheus
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed: apt install prometheus"
)
LINES = [(board, panel, line) for board in BOARDS for row in board.rows for panel in row.panels for line in panel.lines]
_TIMEOUT_S = 60.0


def eventually(url: str, query: str, wanted: Callable[[list[object]], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not wanted(list(ask(url, "query", query=query))):
        assert time.monotonic() < deadline, query
        time.sleep(0.05)


@pytest.fixture(scope="module")
def watched() -> Iterator[str]:
    with pages(gpus=gpu_page()) as address:
        watch = Watch(url=f"http://{address}", port=free_port(), load_test=address, interval_s=1)
        with prometheus(watch) as url:
            eventually(url, "up == 1", lambda found: len(found) == len(VARIANTS) + 2)
            eventually(url, "min(count_over_time(up[30s])) >= 2", bool)
            eventually(url, "variant:requests:rate_1m", bool)
            yield url


@needs_prometheus
@pytest.mark.parametrize(("board", "panel", "line"), LINES, ids=lambda value: getattr(value, "title", None))
def test_every_query_brings_series(watched: str, board: object, panel: object, line: object) -> None:
    assert ask(watched, "query", query=substituted(line.expr))  # type: ignore[attr-defined]


@needs_prometheus
def test_the_annotation_brings_series(watched: str) -> None:
    assert ask(watched, "query", query="prunebench_loadtest_window_open{} == 1")


@needs_prometheus
def test_a_query_over_a_wrong_label_brings_none(watched: str) -> None:
    assert ask(watched, "query", query='up{job="prunebnch"}') == []


@needs_prometheus
def test_targets_carry_their_variant_and_the_gateway_none(watched: str) -> None:
    found = ask(watched, "query", query='up{job="prunebench"}')
    assert sorted(one["metric"].get("variant", "") for one in found) == ["", *sorted(VARIANTS)]


@needs_prometheus
def test_key_reaches_the_gateway_and_no_command_line() -> None:
    with pages(key="sk-secret") as address:
        watch = Watch(url=f"http://{address}", port=free_port(), key="sk-secret", interval_s=1)
        with prometheus(watch) as url:
            eventually(url, 'up{job="prunebench"} == 1', lambda found: len(found) == len(VARIANTS) + 1)
            listed = subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=True).stdout
            assert "sk-secret" not in listed
            shown = ask_config(url)
            assert "sk-secret" not in shown
            assert "credentials_file" in shown


def ask_config(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{url}/api/v1/status/config") as answer:
        return str(answer.read().decode())


@needs_prometheus
def test_nothing_is_left_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with prometheus(Watch(url="http://127.0.0.1:9", port=free_port())) as url:
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(urllib.error.URLError):
        ask(url, "query", query="up")


@needs_prometheus
def test_taken_port_is_said_before_anything_starts() -> None:
    with (
        pages() as address,
        pytest.raises(ConfigError, match="is taken"),
        prometheus(Watch(url="http://127.0.0.1:9", port=int(address.rpartition(":")[2]))),
    ):
        pass


def test_missing_program_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="prometheus is not installed"), prometheus(Watch(url="http://127.0.0.1:9")):
        pass


@needs_prometheus
def test_prometheus_ends_with_a_verb_that_is_killed_outright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # nobody is left to remove its folder
    port = free_port()
    command = [sys.executable, "-m", "prunebench", "dashboards", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}" in process.stderr.readline()
        process.kill()
    deadline = time.monotonic() + _TIMEOUT_S
    while answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        return bool(ask(f"http://127.0.0.1:{port}", "query", query="1"))
    except (urllib.error.URLError, OSError):
        return False


@needs_prometheus
def test_verb_tells_its_url_and_ends_well_on_sigterm() -> None:
    port = free_port()
    command = [sys.executable, "-m", "prunebench", "dashboards", "serve", "--url", "http://127.0.0.1:9"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    assert f"http://127.0.0.1:{port}" in process.stderr.readline()
    assert ask(f"http://127.0.0.1:{port}", "query", query="1")
    process.terminate()
    told, _ = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 0
    assert '"watched": "http://127.0.0.1:9"' in told
    with pytest.raises(urllib.error.URLError):
        ask(f"http://127.0.0.1:{port}", "query", query="1")
