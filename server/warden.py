"""Who makes sure that no engine outlives the server, even when the server is killed?

This small process stands between them. It runs the engine in a process group of its own and ends the whole group when
any of these happens: its standard input closes (the server asked for it, or is gone, however it died), it is told to
terminate, or the engine's first process exits and leaves children behind (vLLM's do, when it is killed). A death
signal on the engine alone would not do: it is not inherited by the processes that the engine starts.

As soon as the engine's first process is gone it says so on its standard output, with the engine's last words; it ends
later, when the last child is gone and the engine's memory is free. The engine's own output goes to a bounded log,
and so does whatever goes wrong in here.

Standard library only, because it starts without looking for anything else. Exits with the engine's code, 127 if the
engine cannot be run at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from server.engine_log import EngineLog, RotatingFile

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STDIN = 0
_STDOUT = 1
_STDERR = 2
_LAST_WORDS_WITHIN_S = 0.5
_WRITTEN_WITHIN_S = 2.0
NOT_RUN = 127
_ROOT = str(Path(__file__).resolve().parents[1])
_START = f"import runpy, sys; sys.path.append({_ROOT!r}); runpy.run_module('server.warden', run_name='__main__')"


def under_warden(grace_s: float, log_path: Path, command: Sequence[str]) -> tuple[str, ...]:
    """The command line that runs `command` under a warden: `log_path` gets its output, standard output its end."""
    return (sys.executable, "-I", "-S", "-c", _START, str(grace_s), str(log_path), *command)


def main(grace_s: float, log_path: str, command: list[str]) -> int:
    """Runs `command` until it ends or must end; returns its exit code, 128 + n for signal n."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told = _told_to_terminate()
    try:
        engine = _run(command, libc)
    except OSError as error:
        _say(NOT_RUN, str(error).encode())
        return NOT_RUN
    assert engine.stdout is not None
    log = EngineLog(engine.stdout, RotatingFile(log_path, follower=_STDERR))
    _wait(engine.pid, told, grace_s)
    code = _end_group(engine.pid, log)
    log.close(_WRITTEN_WITHIN_S)
    return code


def _run(command: list[str], libc: ctypes.CDLL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )


def _told_to_terminate() -> int:
    """A descriptor that becomes readable on SIGTERM: an exception could strike before the engine's pid is known."""
    told, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return told


def _wait(engine: int, told: int, grace_s: float) -> None:
    """Until the engine has ended or must be killed; when standard input closes, it is asked to end within the grace."""
    ended = os.pidfd_open(engine)
    readable, _, _ = select.select([_STDIN, ended, told], [], [])
    if readable == [_STDIN]:
        os.killpg(engine, signal.SIGTERM)
        select.select([ended, told], [], [], grace_s)
    os.close(ended)


def _end_group(group: int, log: EngineLog, patience_s: float = 30.0) -> int:
    """Kills what is left of the engine and reaps every child, orphans included; returns the first process's code.

    Patient, because a killed engine holds its memory until its last thread is gone, and the next one needs it.
    """
    code = 0
    give_up_s = time.monotonic() + patience_s
    while time.monotonic() < give_up_s:
        _kill(group)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == group:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            threading.Thread(target=_report, args=(code, log)).start()
        elif pid == 0:
            time.sleep(0.01)
    return code


def _kill(group: int) -> None:
    """Also those who left the group: once their parents are dead they are children of this process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (thread / "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)


def _report(code: int, log: EngineLog) -> None:
    """In a thread of its own: the server may be busy, or gone."""
    _say(code, log.last_words(_LAST_WORDS_WITHIN_S))


def _say(code: int, last_words: bytes) -> None:
    message = b"%d %d\n%b" % (code, len(last_words), last_words)
    with contextlib.suppress(OSError):
        while message:
            message = message[os.write(_STDOUT, message) :]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
