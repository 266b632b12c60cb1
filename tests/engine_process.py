"""A real vLLM process for tests: started, asked for greedy tokens, ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plugin_path import plugin_path
from tests.vllm_host import CACHE_GIB

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 300
PLAIN = ("--dtype", "float32", "--enforce-eager")
LOG_NAME = "log"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def ask(sock: Path, verb: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    connection = UnixConnection(sock)
    try:
        connection.request(verb, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def engine(model: Path, *flags: str, way: tuple[str, ...] = PLAIN) -> Iterator[Path]:
    """A vLLM process serving `model`; yields its socket once it is healthy and always ends its process group.

    Beside the socket stands its log. `way` says in which type and with which kernels it computes."""
    with tempfile.TemporaryDirectory() as folder:
        sock, log = Path(folder) / "s", Path(folder) / LOG_NAME
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--uds", str(sock), *way, "--max-model-len", "256", "--no-enable-prefix-caching", *flags]
        settings = {"VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **settings, **plugin_path(Path(folder))},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until_healthy(process, sock, log)
            yield sock
        finally:
            end_group(process)


def wait_until_healthy(process: subprocess.Popen[bytes], sock: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if ask(sock, "GET", "/health")[0] == 200:
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not become healthy:\n{log.read_text()[-4000:]}")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """The leader may be gone while its children are not, so the group gets the signal in any case."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def require_greedy(served: tuple[list[int], list[float]], model: Any, prompt: list[int]) -> None:
    """Tokens and log-probabilities that an engine gave are those of Transformers' `model`, the latter within 1e-4."""
    tokens, logprobs = reference_greedy(model, prompt, len(served[0]))
    assert served[0] == tokens
    assert served[1] == pytest.approx(logprobs, abs=1e-4)


def require_cache_room(capacity: tuple[int, int], kv_bytes_per_token: int) -> None:
    """The KV cache holds as many tokens as its memory has room for, to a block. `capacity` in tokens: all, a block."""
    capacity_tokens, block_tokens = capacity
    room_tokens = (CACHE_GIB << 30) / kv_bytes_per_token
    assert room_tokens - block_tokens <= capacity_tokens <= room_tokens


def served_greedy(sock: Path, model: Path, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """Token ids and their log-probabilities from the completions endpoint."""
    body = {
        "model": str(model),
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
        "return_tokens_as_token_ids": True,
    }
    status, answer = ask(sock, "POST", "/v1/completions", body)
    assert status == 200, answer
    logprobs = json.loads(answer)["choices"][0]["logprobs"]
    return [int(token.removeprefix("token_id:")) for token in logprobs["tokens"]], logprobs["token_logprobs"]


def reference_greedy(model: Any, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """The same from Transformers, without a cache: the plainest computation there is."""
    ids, logprobs = list(prompt), []
    for _ in range(tokens):
        with torch.inference_mode():
            row = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(dim=-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
    return ids[len(prompt) :], logprobs
