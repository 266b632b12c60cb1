"""Is the player's process started with what it needs, listened to, and ended however it or its user fails?

Small scripts stand for Locust here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LoadTestError
from artifacts.progress import silent
from artifacts.run import RequestRecord, write_requests
from loadtest import player
from loadtest.plan import Outcome, Plan
from loadtest.protocol import (
    API_KEY_VARIABLE,
    OUTCOME_NAME,
    PLAN_NAME,
    RECORDS_NAME,
    parse_progress,
    part_name,
    progress_line,
)

Pretend = Callable[[str], None]
OUTCOME = Outcome(windows=(), client_cpu_s=0.25, served_first=False)
PLAN = Plan.parse(
    {
        "url": "http://h:1",
        "arms": ["a", "b"],
        "level": {"concurrency": 2},
        "workload": {"prompt_tokens": 4, "output_tokens": 4},
        "blocks": 3,
        "window_s": 2,
        "lead_in_s": 0.5,
        "timeout_s": 9,
        "nonce": 1,
    },
    "the test",
)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """`pretend(script)` runs the script instead of Locust, with the folder as its argument."""

    def install(script: str) -> None:
        def command(plan: Plan, folder: Path, longest_s: float) -> list[str]:
            return [sys.executable, "-I", "-S", "-c", "import os, sys, time\n" + script, str(folder)]

        monkeypatch.setattr(player, "_command", command)

    return install


def play(folder: Path, progress: Any = silent, api_key: str | None = None) -> tuple[list[RequestRecord], Outcome]:
    return player.play(PLAN, folder, api_key, "load", progress)


def write_result(folder: Path, records: list[RequestRecord]) -> None:
    write_requests(folder / part_name(RECORDS_NAME, 0), records)
    OUTCOME.save(folder / part_name(OUTCOME_NAME, 0))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_records_and_outcome_come_back_as_they_were_written(
    tmp_path: Path, pretend: Pretend, make_record: Callable[..., RequestRecord]
) -> None:
    made = [make_record(0.5), make_record(1.0, error="closed: early", output_tokens=None, arm=1)]
    records = [replace(record, event_s=(0.5, 0.75)) for record in made]  # files round to a microsecond
    write_result(tmp_path, records)
    pretend("")
    assert play(tmp_path) == (records, OUTCOME)
    assert Plan.load(tmp_path / PLAN_NAME) == PLAN


def test_progress_is_passed_on_while_other_lines_are_not(tmp_path: Path, pretend: Pretend) -> None:
    write_result(tmp_path, [])
    lines = ["Type Name # reqs", progress_line(1, 15).strip(), "", "prunebench-progress-not", progress_line(15, 15)]
    pretend(f"sys.stdout.write({chr(10).join(lines)!r})")
    seen: list[tuple[str, float, float]] = []
    play(tmp_path, lambda *call: seen.append(call))
    assert seen == [("load", 1, 15), ("load", 15, 15)]


@pytest.mark.parametrize(("done_s", "total_s"), [(0, 1), (0.001, 86400), (12.345, 12.345)])
def test_a_progress_line_survives_the_pipe(done_s: float, total_s: float) -> None:
    line = progress_line(done_s, total_s)
    assert line.endswith("\n")
    assert parse_progress(line) == (done_s, total_s)


LAST_WORDS = [
    ("sys.exit('ImportError: no such option')", "(exit code 1): ImportError: no such option.", "what it said last"),
    ("print('hello', file=sys.stderr); sys.exit(3)", "(exit code 3): hello.", "with its exit code"),
    ("pass", "(exit code 0): it said nothing.", "a good end without result is a bad end"),
    ("os.kill(os.getpid(), 9)", "(exit code -9): it said nothing.", "killed for want of memory, say"),
    ("os.write(2, b'bad \\xff byte')", "bad � byte.", "bytes that are no text"),
]


@pytest.mark.parametrize(("script", "words", "what"), LAST_WORDS, ids=[what for *_, what in LAST_WORDS])
def test_a_player_without_result_is_quoted(
    tmp_path: Path, pretend: Pretend, script: str, words: str, what: str
) -> None:
    pretend(script)
    with pytest.raises(LoadTestError) as caught:
        play(tmp_path)
    assert words in str(caught.value), what
    assert str(caught.value).endswith("Run again, or with fewer streams.")


def test_a_result_without_records_is_an_error_of_the_load_test(tmp_path: Path, pretend: Pretend) -> None:
    OUTCOME.save(tmp_path / part_name(OUTCOME_NAME, 0))
    pretend("")
    with pytest.raises(LoadTestError, match="cannot be read"):
        play(tmp_path)


def test_an_interrupted_player_and_its_children_are_killed(tmp_path: Path, pretend: Pretend) -> None:
    pretend(
        "child = os.fork()\n"
        f"if child: print({progress_line(1, 2).strip()!r}, flush=True)\n"
        "(open(sys.argv[1] + '/' + ('parent' if child else 'child'), 'w')).write(str(os.getpid()))\n"
        "time.sleep(600)"
    )

    def interrupt(stage: str, done: float, total: float) -> None:
        deadline_s = time.monotonic() + 20
        while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in ("parent", "child")):
            assert time.monotonic() < deadline_s, "the processes did not start"
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, interrupt)
    assert not is_alive(int((tmp_path / "parent").read_text()))
    deadline_s = time.monotonic() + 20
    while is_running(int((tmp_path / "child").read_text())):
        assert time.monotonic() < deadline_s, "the child outlived its parent"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """A killed orphan may stay as a zombie where nobody reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_key_travels_in_the_environment_alone(tmp_path: Path) -> None:
    assert player._environment("secret")[API_KEY_VARIABLE] == "secret"
    assert "secret" not in " ".join(player._command(PLAN, tmp_path, 1))
    assert API_KEY_VARIABLE not in player._environment(None)


def test_a_users_locust_settings_do_not_reach_the_player(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUST_USERS", "99")
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    environment = player._environment(None)
    assert not [name for name in environment if name.startswith("LOCUST_")]
    ours, theirs = environment["PYTHONPATH"].split(os.pathsep)
    assert ((Path(ours) / "loadtest" / "locustfile.py").is_file(), theirs) == (True, "/theirs")


@pytest.mark.parametrize(("longest_s", "limit"), [(1.0, "2s"), (99.9, "100s"), (100.1, "101s")])
def test_locusts_own_limit_is_never_shorter_than_the_longest_run(tmp_path: Path, longest_s: float, limit: str) -> None:
    command = player._command(PLAN, tmp_path, longest_s)
    assert command[command.index("--run-time") + 1] == limit
    assert int(limit[:-1]) >= longest_s
    assert command[command.index("--plan") + 1] == str(tmp_path / PLAN_NAME)
    assert command[command.index("--users") + 1] == "1"


def test_the_limit_leaves_time_for_every_segment_to_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def command(plan: Plan, folder: Path, longest_s: float) -> list[str]:
        limits.append(longest_s)
        return ["true"]

    monkeypatch.setattr(player, "_command", command)
    write_result(tmp_path, [])
    play(tmp_path)
    slowest_s = 2 * 3 * (0.5 + 2 + 9)
    assert limits[0] > slowest_s


def test_termination_unwinds_like_an_interrupt_and_the_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), player.terminate_like_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_may_load_test_and_leaves_signals_alone() -> None:
    before, during = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with player.terminate_like_interrupt():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert during == [before]
