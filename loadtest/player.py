"""How is Locust started, followed and surely stopped? In a session of its own, killed as a group.

One process, or a master and several workers that share the schedule out; then their records become one list again.
The process that calls this never imports Locust: Locust patches sockets and threads of whatever process imports it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from artifacts.errors import LoadTestError
from artifacts.progress import Progress
from artifacts.run import RequestRecord, read_requests
from loadtest.plan import Outcome, Plan
from loadtest.protocol import (
    API_KEY_VARIABLE,
    OUTCOME_NAME,
    PLAN_NAME,
    RECORDS_NAME,
    STOPPED_NAME,
    parse_progress,
    part_name,
)

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_LOG_NAME = "locust.log"
_SPARE_S = 60


def play(
    plan: Plan, folder: Path, api_key: str | None, stage: str, progress: Progress
) -> tuple[list[RequestRecord], Outcome]:
    """Plays `plan` in a Locust process that works in `folder`; returns the records and the outcome.

    However it ends, no process of it is left. Raises LoadTestError with Locust's last words if it brought no result.
    """
    plan.save(folder / PLAN_NAME)
    with _locust(plan, folder, api_key) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if (at := parse_progress(line)) is not None:
                progress(stage, *at)
    if (folder / STOPPED_NAME).is_file():
        raise LoadTestError((folder / STOPPED_NAME).read_text())
    if not all((folder / part_name(OUTCOME_NAME, number)).is_file() for number in range(plan.client_processes)):
        words = (folder / _LOG_NAME).read_text(errors="replace").strip().splitlines()
        raise LoadTestError(
            f"The Locust process ended without a result (exit code {process.returncode}): "
            f"{words[-1] if words else 'it said nothing'}. Run again, or with fewer streams."
        )
    return merged(plan, folder)


def merged(plan: Plan, folder: Path) -> tuple[list[RequestRecord], Outcome]:
    """All processes' records in the order of play, and the outcome of the worst of them. Nothing is averaged."""
    parts = range(plan.client_processes)
    records = [r for number in parts for r in read_requests(folder / part_name(RECORDS_NAME, number))]
    outcomes = [Outcome.load(folder / part_name(OUTCOME_NAME, number)) for number in parts]
    order = {(segment.block, segment.arm): place for place, segment in enumerate(plan.segments)}
    records.sort(key=lambda r: (order[r.block, r.arm], r.index))
    return records, Outcome(
        windows=outcomes[0].windows,
        client_cpu_s=max(outcome.client_cpu_s for outcome in outcomes),
        served_first=all(outcome.served_first for outcome in outcomes),
        loop_lags_s=max((outcome.loop_lags_s for outcome in outcomes), key=sum),
        energy=next((outcome.energy for outcome in outcomes if outcome.energy is not None), None),
    )


@contextmanager
def _locust(plan: Plan, folder: Path, api_key: str | None) -> Iterator[subprocess.Popen[str]]:
    longest_s = plan.planned_s + len(plan.segments) * (plan.timeout_s + 1) + _SPARE_S
    with (folder / _LOG_NAME).open("w") as log:
        process = subprocess.Popen(
            _command(plan, folder, longest_s),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            cwd=_LOCUSTFILE.parent.parent,  # Locust imports from there first, and it must be our packages
            env=_environment(api_key),
        )
        try:
            yield process
            process.wait()
        finally:
            _kill_group(process)


def _command(plan: Plan, folder: Path, longest_s: float) -> list[str]:
    users = str(plan.client_processes)
    return [
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"),
        *("--users", users, "--spawn-rate", users, "--host", plan.url, "--run-time", f"{int(longest_s) + 1}s"),
        *("--exit-code-on-error", "0", "--loglevel", "WARNING", "--plan", str(folder / PLAN_NAME)),
        *(_as_workers(plan.client_processes) if plan.client_processes > 1 else ()),
    ]


def _as_workers(processes: int) -> tuple[str, ...]:
    with socket.socket() as probe:  # two tests at once must not share a master
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)
    return ("--processes", str(processes), "--expect-workers-max-wait", str(_SPARE_S), *bind)


def _environment(api_key: str | None) -> dict[str, str]:
    here = str(_LOCUSTFILE.parent.parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    return environment | {"PYTHONPATH": path} | ({API_KEY_VARIABLE: api_key} if api_key else {})


def _kill_group(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """Lets SIGTERM unwind the stack as SIGINT does. Only the main thread may, and need, handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
