"""Requests drawn from `/openapi.json`, fitting and not: is each answer one that it describes, is nothing left open?

The checks are schemathesis' own, all of them: no answer is a server error, statuses, content types, headers and bodies
are those that the description has, what does not fit it is refused, what fits is not, other methods are answered 405.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from fuzzing import Fuzzed, fuzz_command, fuzzed
from serving_process import Serving, Start, eventually, simulated
from test_mutated_requests import in_gateway

from artifacts.keys import add_key

VARIANTS = ("dense", "pruned")
ORDERS = "^/(variants/.*/|fleet)"


def run(serving: Serving, folder: Path, *chosen: str) -> Fuzzed:
    command = fuzz_command(folder, serving.url, VARIANTS, *chosen)
    ran = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return fuzzed(folder)


def descriptors(serving: Serving) -> int:
    """Once each variant has an idle connection, and this client its own; looks at health may have made one more."""
    for name in VARIANTS:
        body = {"model": name, "prompt": "x", "max_tokens": 1}
        assert serving.client.post("/v1/completions", json=body).status_code == 200
    return len(list(Path(f"/proc/{serving.process.pid}/fd").iterdir()))


def test_the_data_path_and_all_that_can_be_read(start: Start, tmp_path: Path) -> None:
    serving = start([simulated(name) for name in VARIANTS]).until_ready()
    before = descriptors(serving)
    result = run(serving, tmp_path, "--exclude-path-regex", ORDERS)
    assert result.faults == []
    assert result.requests > 400
    for operation in ("POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models/{name}", "GET /metrics"):
        assert result.accepted(operation) > 1, operation
    eventually(lambda: descriptors(serving) <= before + len(VARIANTS), 5, "what was opened is closed")
    assert {counts["restarts"] for counts in serving.stop()["variants"].values()} == {0}


def test_what_asks_for_a_key_opens_to_no_other(start: Start, tmp_path: Path) -> None:
    """Requests without a key, and with one that nobody made, are refused wherever the description says so."""
    key = add_key(tmp_path / "keys.json", "alice", "control")
    serving = start([simulated(name) for name in VARIANTS], keys_file=str(tmp_path / "keys.json")).until_ready()
    with_key = ("--header", f"Authorization: Bearer {key}", "--generation-with-security-parameters", "false")
    result = run(serving, tmp_path, "--phases", "coverage", "--exclude-path-regex", ORDERS, *with_key)
    assert result.faults == []
    assert result.accepted("GET /metrics") > 0
    serving.stop()


def test_orders(start: Start, tmp_path: Path) -> None:
    """They stop, start and wake the variants in any order; in the end all can serve again."""
    serving = start([simulated(name) for name in VARIANTS]).until_ready()
    before = descriptors(serving)
    result = run(serving, tmp_path, "--include-path-regex", ORDERS)
    assert result.faults == []
    for order in ("start", "stop", "drain"):
        assert result.accepted(f"POST /variants/{{name}}/{order}") > 2, order
    for name in VARIANTS:
        serving.order(name, "stop")
        serving.order(name, "start")
    serving.until_ready()
    eventually(lambda: descriptors(serving) <= before + len(VARIANTS), 5, "what was opened is closed")
    serving.stop()


@pytest.mark.timeout(200)
def test_no_task_and_no_descriptor_is_left(tmp_path: Path) -> None:
    """The gateway runs inside this test: all that is asked after a few examples opens no more than they did."""
    phases = iter(("examples", "coverage"))

    async def use(port: int) -> None:
        chosen = ("--phases", next(phases))
        command = fuzz_command(tmp_path, f"http://127.0.0.1:{port}", ["m"], *chosen)
        ran = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=subprocess.PIPE)
        said, _ = await ran.communicate()
        assert ran.returncode == 0, said.decode()

    assert in_gateway(tmp_path, use) == (0, 0)
    assert fuzzed(tmp_path).requests > 100
