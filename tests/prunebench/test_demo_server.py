"""Is the demo's server waited for, is its last word handed on when it dies, and is it always ended?

The server is a small script here; the warden between it and the demo is the real one.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.errors import ServingError
from artifacts.progress import silent
from prunebench import demo_server
from prunebench.demo_server import running_server

Install = Callable[[str], Path]

_ANSWERING = """
import http.server, json, os, pathlib, sys
folder = pathlib.Path(sys.argv[0]).parent
port = int(sys.argv[sys.argv.index("--port") + 1])
(folder / "pid").write_text(str(os.getpid()))
(folder / "arguments").write_text(json.dumps(sys.argv[1:]))
answers = iter(ANSWERS)
last = ["ready"]

class Models(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        states = next(answers, last)
        body = json.dumps({"data": [{"id": str(i), "prunebench": {"state": s}} for i, s in enumerate(states)]}).encode()
        self.send_response(200 if states else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

print("listening")
http.server.HTTPServer(("127.0.0.1", port), Models).serve_forever()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(script)` puts the script in the place of `python -m prunebench serve`."""

    def write(script: str) -> Path:
        (tmp_path / "server.py").write_text(script)
        interpreter = tmp_path / "python"
        interpreter.write_text(
            f'#!/bin/sh\ncase "$1" in\n-I) exec "{sys.executable}" "$@";;\n'
            f'*) exec "{sys.executable}" -S "{tmp_path}/server.py" "$@";;\nesac\n'
        )
        interpreter.chmod(0o755)
        monkeypatch.setattr(demo_server.sys, "executable", str(interpreter))
        return tmp_path

    return write


def answering(*answers: list[str]) -> str:
    """A server whose model list says this, one answer after the other, and `ready` ever after."""
    return _ANSWERING.replace("ANSWERS", repr(answers))


def is_alive(folder: Path) -> bool:
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


LAST_WORDS = [
    ("import sys; sys.exit('error: The model ffn-50 does not fit.')", "The model ffn-50 does not fit.", "a sentence"),
    ("print('first'); print('second'); print(); print('  ')", "second", "blank lines are no words"),
    ("raise ValueError('bad weights')", "ValueError: bad weights", "the end of a traceback"),
    ("", "it printed nothing.", "silence"),
    ("import os; os.write(1, b'caf\\xe9 closed')", "closed", "bytes that are no text"),
]


@pytest.mark.parametrize(("script", "words", "what"), LAST_WORDS, ids=[what for *_, what in LAST_WORDS])
def test_a_server_that_dies_while_starting_is_quoted(install: Install, script: str, words: str, what: str) -> None:
    folder = install(script)
    log = folder / "server.log"
    with pytest.raises(ServingError) as caught, running_server(folder / "fleet.json", log, silent):
        raise AssertionError("nothing was there to be used")
    assert str(caught.value).startswith("The server ended while starting: ")
    assert words in str(caught.value), what
    assert str(log) in str(caught.value)


def test_the_url_is_given_when_every_variant_is_ready(install: Install) -> None:
    folder = install(answering([], ["queued", "queued"], ["ready", "starting"], ["ready", "ready"]))
    seen: list[tuple[float, float]] = []
    with running_server(
        folder / "fleet.json", folder / "log", lambda _, done, total: seen.append((done, total))
    ) as url:
        assert is_alive(folder)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert not is_alive(folder)


def test_the_server_is_told_its_fleet_and_a_port_that_was_free(install: Install) -> None:
    folder = install(answering())
    with running_server(folder / "fleet.json", folder / "log", silent) as url:
        said = (folder / "arguments").read_text()
    assert f'"serve", "{folder}/fleet.json", "--port", "{url.rpartition(":")[2]}"' in said


def test_the_server_is_ended_when_its_user_fails(install: Install) -> None:
    folder = install(answering())
    with (
        pytest.raises(RuntimeError, match="the load test failed"),
        running_server(folder / "f", folder / "log", silent),
    ):
        raise RuntimeError("the load test failed")
    assert not is_alive(folder)


def test_the_server_is_ended_when_the_wait_is_interrupted(install: Install) -> None:
    folder = install(answering(["starting"], ["starting"]))

    def interrupt(stage: str, done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), running_server(folder / "f", folder / "log", interrupt):
        raise AssertionError("nothing was ready")
    assert not is_alive(folder)


def test_a_server_that_is_never_ready_is_given_up_and_ended(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = install(answering(*[["starting"]] * 1000))
    monkeypatch.setattr(demo_server, "_START_TIMEOUT_S", 1.5)
    began_s = time.monotonic()
    with (
        pytest.raises(ServingError, match="not ready after 2 s"),
        running_server(folder / "f", folder / "server.log", silent),
    ):
        raise AssertionError("nothing was ready")
    assert 1.5 <= time.monotonic() - began_s < 20
    assert not is_alive(folder)


def test_what_the_server_printed_is_kept(install: Install) -> None:
    folder = install("import sys; print('to stdout', flush=True); sys.exit('to stderr')")
    with pytest.raises(ServingError), running_server(folder / "f", folder / "server.log", silent):
        raise AssertionError("nothing was there to be used")
    assert (folder / "server.log").read_text().splitlines() == ["to stdout", "to stderr"]
