"""How does somebody without containers watch a running fleet? A Prometheus of one's own, started and surely ended.

Its data lies in a temporary folder that goes with it, unless a folder is named. If this process is killed outright,
Prometheus ends all the same, and only the folder stays.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from artifacts.errors import ConfigError
from dashboards.scraping import HERE, LOAD_TEST_ADDRESS, Scraping, configuration

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_LOG_NAME = "prometheus.log"
_KEY_NAME = "key"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Which gateway to watch. `port` is Prometheus' own; `key` an API key for a guarded gateway."""

    url: str
    port: int = 9090
    load_test: str = LOAD_TEST_ADDRESS
    interval_s: int = 5
    key: str | None = None
    data: Path | None = None


@contextmanager
def prometheus(watch: Watch) -> Iterator[str]:
    """Yields Prometheus' URL once it answers; afterwards no process and no temporary file of it is left.

    Raises ConfigError if Prometheus is not installed, if its port is taken, or with its last words if it ends early.
    """
    binary = require_program("prometheus")
    _require_free(watch.port)
    with tempfile.TemporaryDirectory(prefix="prunebench-prometheus-") as folder:
        home = Path(folder)
        command = [binary, *_arguments(watch, home)]
        with (home / _LOG_NAME).open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_its_parent,
            )
        try:
            url = f"http://127.0.0.1:{watch.port}"
            _wait_until_ready(process, url, home / _LOG_NAME)
            yield url
        finally:
            _end(process)


def require_program(name: str) -> str:
    """Its path. Raises ConfigError if it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is not installed. On Debian: apt install prometheus (it brings promtool as well).")
    return found


def _arguments(watch: Watch, home: Path) -> list[str]:
    rules = str(HERE / "prometheus")
    scraping = Scraping(url=watch.url, rules=rules, load_test=watch.load_test, interval_s=watch.interval_s)
    if watch.key is not None:
        (home / _KEY_NAME).touch(mode=0o600)
        (home / _KEY_NAME).write_text(watch.key)
        scraping = replace(scraping, key_file=str(home / _KEY_NAME))
    (home / "prometheus.json").write_text(configuration(scraping))
    return [
        f"--config.file={home / 'prometheus.json'}",
        f"--storage.tsdb.path={watch.data or home / 'data'}",
        f"--web.listen-address=127.0.0.1:{watch.port}",
        "--log.level=warn",
    ]


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"Port {port} is taken ({error.strerror}). Choose another with --port.") from error


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace").strip().splitlines()
            raise ConfigError(f"Prometheus did not start: {words[-1] if words else 'it said nothing'}.")
        time.sleep(0.1)


def _end_with_its_parent() -> None:
    """Between fork and exec: Linux ends Prometheus with the thread that started it, even if that is killed outright."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
