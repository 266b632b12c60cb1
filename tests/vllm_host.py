"""Many models in one vLLM process, one after the other: an import of vLLM takes far longer than a model of these tests.

Run as a program it reads a question a line, a JSON object of `model`, `prompts`, `tokens`, `max_model_len`, `cores` and
`answer`, and writes the answer into the file of that name.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.plugin_path import plugin_path

ROOT = Path(__file__).resolve().parents[1]
ANSWER_WITHIN_S = 300
CACHE_GIB = 1
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Served:
    """Per prompt the greedy tokens and their log-probabilities; what the KV cache holds, and a block of it."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    capacity_tokens: int
    block_tokens: int


@dataclass
class VllmHost:
    """Starts its process with the first question."""

    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _asked: int = field(default=0, init=False)

    def greedy(
        self,
        model: Path,
        prompts: tuple[list[int], ...],
        tokens: int,
        max_model_len: int = 256,
        cores: tuple[int, ...] = (),
    ) -> Served:
        """What vLLM makes of the checkpoint, on one device or split over so many as `cores` are given.

        A failure of the engine fails the test and costs the process.
        """
        process = self._started()
        self._asked += 1
        answer = self.folder / f"answer-{self._asked}.json"
        question = {"model": str(model), "prompts": prompts, "tokens": tokens, "max_model_len": max_model_len}
        question["cores"] = cores
        assert process.stdin is not None
        process.stdin.write(json.dumps({**question, "answer": str(answer)}).encode() + b"\n")
        process.stdin.flush()
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        while not answer.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                self.end()
                raise AssertionError(f"vLLM gave no answer:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.05)
        return Served(**json.loads(answer.read_text()))

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            home = Path(tempfile.mkdtemp(dir=self.folder))
            with self._log.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.vllm_host"],
                    cwd=ROOT,
                    env={**os.environ, **SETTINGS, **plugin_path(home)},
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                )
        return self._process


@contextmanager
def running_host() -> Iterator[VllmHost]:
    with tempfile.TemporaryDirectory() as folder:
        host = VllmHost(Path(folder))
        try:
            yield host
        finally:
            host.end()


def served(question: dict[str, Any]) -> Served:
    """In the process of its own: the engine, asked and given up."""
    from vllm import LLM, SamplingParams

    cores = question["cores"]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, cores)) or "nobind"
    engine = LLM(
        question["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=question["max_model_len"],
        enable_prefix_caching=False,
        tensor_parallel_size=len(cores) or 1,
        distributed_executor_backend="mp" if cores else "uni",
    )
    greedy = SamplingParams(temperature=0, max_tokens=question["tokens"], logprobs=1, ignore_eos=True)
    prompts = [{"prompt_token_ids": prompt} for prompt in question["prompts"]]
    outputs = [answer.outputs[0] for answer in engine.generate(prompts, greedy, use_tqdm=False)]
    cache = engine.llm_engine.vllm_config.cache_config
    answer = Served(
        tokens=[list(output.token_ids) for output in outputs],
        logprobs=[
            [row[token].logprob for row, token in zip(output.logprobs, output.token_ids, strict=True)]
            for output in outputs
        ],
        capacity_tokens=cache.num_gpu_blocks * cache.block_size,
        block_tokens=cache.block_size,
    )
    engine.llm_engine.engine_core.shutdown()  # forgets the cache's size
    return answer


def main() -> None:
    """What outlives an answer outlives them all, so the collections that vLLM asks for around each engine pass it over;
    they would take two thirds of the time. vLLM itself must not bring it back, nor hide what an engine leaves."""
    pass_over = gc.freeze
    gc.freeze = gc.unfreeze = lambda: None
    for line in sys.stdin:
        question = json.loads(line)
        answer = Path(question["answer"])
        unfinished = answer.with_suffix(".partial")
        unfinished.write_text(json.dumps(served(question).__dict__))
        unfinished.rename(answer)
        gc.collect()
        pass_over()


if __name__ == "__main__":
    main()
