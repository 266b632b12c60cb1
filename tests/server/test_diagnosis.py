"""Is the cause found in an engine's log? Excerpts of what vLLM 0.32 really wrote."""

from __future__ import annotations

import pytest

from server.diagnosis import reason_of

POINTER = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"

LOGS = [
    (
        "(Worker pid=6437) ERROR 11-22 00:35:33 [multiproc_executor.py:953] safetensors._safetensors_rust."
        "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered\n"
        "(EngineCore pid=6423) ERROR 11-22 00:35:35 [core.py:1510] Exception: WorkerProc initialization failed due to "
        "an exception in a background process. See stack trace for root cause.\n"
        f"    raise RuntimeError(\n{POINTER}\n",
        1,
        "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
        "the worker's error, not what points to it",
    ),
    (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (4096) is greater than the derived max_model_len "
        "[type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error\n",
        1,
        "User-specified max_model_len (4096) is greater than the derived max_model_len",
        "pydantic says it on the next line",
    ),
    (
        "usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --nosuchflag\n",
        2,
        "unrecognized arguments: --nosuchflag",
        "argparse has a line of its own",
    ),
    (
        "ValueError: No available memory for the cache blocks. Try increasing it.\n"
        f"    raise RuntimeError(\n{POINTER}\n[W1122 utils.cpp:68] Warning: leaked\n",
        1,
        "ValueError: No available memory for the cache blocks. Try increasing it.",
        "lines after the traceback do not matter",
    ),
    (
        "(APIServer pid=31902) ERROR 11-22 13:37:18 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: "
        "EngineCore encountered an issue. See stack trace (above) for the root cause.\n"
        "(APIServer pid=31902) INFO:     Shutting down\n"
        " - See https://nanobind.readthedocs.io/en/latest/refleaks.html\n",
        0,
        "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "a core that was killed has no last words to point to",
    ),
    ("    main()\nMemoryError\n", 1, "MemoryError", "an error without a message"),
    ("INFO [x.py:1] OSError: x\n", 137, "it was killed (SIGKILL), perhaps for want of memory", "no error line"),
    ("loading\n", 143, "it was terminated (SIGTERM)", "the signal says more than the log"),
    ("loading weights\n\n", 3, "exit code 3; last log line: loading weights", "nothing better than the last line"),
    ("", 1, "exit code 1; last log line: it wrote no log", "an empty log"),
]


@pytest.mark.parametrize(("log", "code", "reason", "why"), LOGS)
def test_reason(log: str, code: int, reason: str, why: str) -> None:
    assert reason_of(log, code) == reason, why


def test_a_reason_is_one_line_of_bounded_length() -> None:
    reason = reason_of("ValueError: " + "long \t" * 500, 1)
    assert len(reason) == 300
    assert "\t" not in reason


def test_bytes_of_a_binary_log_do_no_harm() -> None:
    assert reason_of("\x00\x1b[31m\ufffd" * 1000, 1).startswith("exit code 1")
