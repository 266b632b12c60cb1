"""The re-labelled exports in vLLM itself: same greedy tokens and log-probabilities as unpatched Transformers."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.verify import verify_variant

START_TIMEOUT_S = 300
NEW_TOKENS = 24
PROMPTS = ([1, 403, 407, 261, 378], [1, 331, 425, 300, 45, 7], [1, 264])


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
def engine(model: Path) -> Iterator[Path]:
    """A vLLM process serving `model`; yields its socket once it is healthy and always ends its process group."""
    with tempfile.TemporaryDirectory() as folder:
        sock, log = Path(folder) / "s", Path(folder) / "log"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--uds", str(sock), "--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
        command += ["--no-enable-prefix-caching"]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True
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


def served_greedy(sock: Path, model: Path, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Token ids and their log-probabilities from the completions endpoint."""
    body = {
        "model": str(model),
        "prompt": prompt,
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
        "return_tokens_as_token_ids": True,
    }
    status, answer = ask(sock, "POST", "/v1/completions", body)
    assert status == 200, answer
    logprobs = json.loads(answer)["choices"][0]["logprobs"]
    return [int(token.removeprefix("token_id:")) for token in logprobs["tokens"]], logprobs["token_logprobs"]


def reference_greedy(model: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """The same from Transformers, without a cache: the plainest computation there is."""
    ids, logprobs = list(prompt), []
    for _ in range(NEW_TOKENS):
        with torch.inference_mode():
            row = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(dim=-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
    return ids[len(prompt) :], logprobs


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "architecture"),
    [("stories260K-hd32", "MistralForCausalLM"), ("stories260K-hd32-qwen2", "SeedOssForCausalLM")],
)
def test_vllm_computes_what_transformers_computes(
    stories: Callable[[str], Path], tmp_path: Path, name: str, architecture: str
) -> None:
    """One of four KV groups removed from every layer, repaired, served."""
    out = tmp_path / "variant"
    request = CompressionRequest(
        model=str(stories(f"models/{name}")),
        out=out,
        method="wanda_sp",
        ratio=0.25,
        units=("kv",),
        calibration=str(stories("corpora/tinystories/dev.txt")),
        calibration_tokens=4096,
    )
    assert compress(request, verify=verify_variant).architecture == architecture
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with engine(out) as sock:
        for prompt in PROMPTS:
            served, served_logprobs = served_greedy(sock, out, prompt)
            expected, expected_logprobs = reference_greedy(model, prompt)
            assert served == expected
            assert served_logprobs == pytest.approx(expected_logprobs, abs=1e-4)
