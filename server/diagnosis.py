"""Why did an engine stop? One sentence out of a log of hundreds of lines.

vLLM's last line is nearly always "see root cause above". The cause is the last error line that is not such a pointer;
pydantic's errors carry it one line further down, argparse's in a line of its own.
"""

from __future__ import annotations

import re

_PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\) )?(?:(?:ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]+\] ?)?")
_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?:: (.*))?$")
_ARGUMENTS = re.compile(r"^.{1,60}: error: (.+)$")
_POINTERS = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineCore encountered an issue")
_LONGEST = 300
_SIGNALS = {137: "it was killed (SIGKILL), perhaps for want of memory", 143: "it was terminated (SIGTERM)"}


def reason_of(log: str, exit_code: int | None) -> str:
    """The cause as the log tells it, else its last line with the exit code. Never empty, one line."""
    lines = [_PREFIX.sub("", line).rstrip() for line in log.splitlines()]
    cause = _root_cause(lines)
    if exit_code in _SIGNALS and cause is None:
        return _SIGNALS[exit_code]
    if cause is not None:
        return _shortened(cause)
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no log")
    return _shortened(f"exit code {exit_code}; last log line: {last}")


def _root_cause(lines: list[str]) -> str | None:
    """The last error that is none of the pointers; a pointer where nothing is pointed to, as when a core was killed."""
    pointer = None
    for index in range(len(lines) - 1, -1, -1):
        arguments = _ARGUMENTS.match(lines[index])
        if arguments:
            return arguments[1]
        error = _ERROR.match(lines[index])
        if error and not any(words in lines[index] for words in _POINTERS):
            return _error_text(error, lines[index + 1 :])
        if error and pointer is None:
            pointer = _error_text(error, [])
    return pointer


def _error_text(error: re.Match[str], following: list[str]) -> str:
    name, message = error[1], error[2] or ""
    if "validation error" in message and following:
        return following[0].strip().removeprefix("Value error, ").split(" [type=", 1)[0]
    return f"{name}: {message}" if message else name


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _LONGEST else one_line[: _LONGEST - 1] + "…"
