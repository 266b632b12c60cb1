"""Does nothing outlive its warden's task, whatever dies first?"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_process import eventually

from server.warden import under_warden

# Writes its own pid and its child's, and waits for the child; the child does not react to SIGTERM.
PARENT = "trap '{trap}' TERM; (trap '' TERM; sleep 1000 & wait) & echo $$ $! > {pids}; wait; wait"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A warden over a shell with a stubborn child; the pids of both."""
    pids = tmp_path / "pids"
    process = _guard(PARENT.format(trap="exit 7", pids=pids), grace_s=5)
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2, 10, "both run")
    yield process, [int(pid) for pid in pids.read_text().split()]
    process.kill()
    process.communicate()


def _guard(script: str, grace_s: float) -> subprocess.Popen[bytes]:
    command = under_warden(grace_s, Path(os.devnull), ("sh", "-c", script))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def _gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_closed_input_ends_politely_and_takes_the_stubborn_child(
    guarded: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, pids = guarded
    process.communicate(timeout=10)
    assert process.returncode == 7
    assert _gone(pids)


def test_termination_ends_at_once(guarded: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    process, pids = guarded
    began_s = time.monotonic()
    process.terminate()
    process.wait(timeout=10)
    assert time.monotonic() - began_s < 2
    assert process.returncode != 0
    assert _gone(pids)


def test_a_killed_engine_takes_its_children_along(guarded: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    process, pids = guarded
    os.kill(pids[0], signal.SIGKILL)
    process.wait(timeout=10)
    assert process.returncode == 128 + signal.SIGKILL
    assert _gone(pids)


def test_a_stubborn_engine_is_killed_after_the_grace(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    process = _guard(f"trap '' TERM; touch {deaf}; while :; do sleep 0.1; done", grace_s=0.3)
    eventually(deaf.exists, 10, "it no longer listens to SIGTERM")
    began_s = time.monotonic()
    process.communicate(timeout=10)
    assert 0.3 <= time.monotonic() - began_s < 5
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("code", [0, 1, 42])
def test_the_engines_exit_code_is_handed_on(code: int) -> None:
    process = _guard(f"exit {code}", grace_s=1)
    assert process.wait(timeout=10) == code
    process.communicate()


def test_a_killed_warden_takes_its_engine_along(guarded: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    process, pids = guarded
    process.kill()
    eventually(lambda: _gone(pids[:1]), 10, "the engine got its death signal")
    os.kill(pids[1], signal.SIGKILL)


def test_the_end_is_reported_at_once_and_a_child_that_left_the_group_is_ended_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    process = _guard(f"setsid sleep 1000 & echo last words; echo $$ $! > {pids}; wait", grace_s=5)
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2, 10, "both run")
    engine, stray = (int(pid) for pid in pids.read_text().split())
    os.kill(engine, signal.SIGKILL)
    began_s = time.monotonic()
    assert process.stdout is not None
    assert process.stdout.readline().split() == [b"137", b"11"]
    assert time.monotonic() - began_s < 1
    assert process.stdout.read() == b"last words\n"
    process.communicate(timeout=10)
    assert _gone([engine, stray])


def _to_the_end(log: Path, *command: str) -> tuple[int, bytes]:
    """Exit code and output of a warden whose standard input stays open until its engine has ended."""
    with subprocess.Popen(under_warden(1, log, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        return process.wait(timeout=30), said


def test_an_engine_that_cannot_be_run_is_reported_too(tmp_path: Path) -> None:
    code, said = _to_the_end(tmp_path / "log", "/no/such/engine")
    assert code == 127
    assert said.startswith(b"127 ")
    assert b"/no/such/engine" in said


def test_what_an_engine_says_is_in_its_log(tmp_path: Path) -> None:
    assert _to_the_end(tmp_path / "log", "sh", "-c", "echo out; echo err >&2") == (0, b"0 8\nout\nerr\n")
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_the_last_line_before_the_end_is_in_the_log_too(tmp_path: Path) -> None:
    code, _ = _to_the_end(tmp_path / "log", "seq", "300000")
    lines = (tmp_path / "log").read_text().splitlines()
    assert (code, len(lines), lines[-1]) == (0, 300_000, "300000")
