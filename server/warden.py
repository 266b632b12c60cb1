"""Who makes sure that no engine outlives the server, even when the server is killed?

This small process stands between them. It runs the engine in a process group of its own and ends the whole group when
any of these happens: its standard input closes (the server asked for it, or is gone, however it died), it is told to
terminate, or the engine's first process exits and leaves children behind (vLLM's do, when it is killed). A death
signal on the engine alone would not do: it is not inherited by the processes that the engine starts.

Run as `python -I -S warden.py GRACE_S COMMAND...`; standard library only. Exits with the engine's code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STDIN = 0


def main(grace_s: float, command: list[str]) -> int:
    """Runs `command` until it ends or must end; returns its exit code, 128 + n for signal n."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told = _told_to_terminate()
    engine = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )
    _wait(engine.pid, told, grace_s)
    return _end_group(engine.pid)


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


def _end_group(group: int, patience_s: float = 30.0) -> int:
    """Kills what is left of the group and reaps every child, orphans included; returns the first process's code.

    Patient, because a killed engine holds its memory until its last thread is gone, and the next one needs it.
    """
    code = 0
    give_up_s = time.monotonic() + patience_s
    while time.monotonic() < give_up_s:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == group:
            code = os.waitstatus_to_exitcode(status)
        elif pid == 0:
            time.sleep(0.01)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
