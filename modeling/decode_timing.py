"""How long does one decode step of a model of a given shape take in vLLM on this machine?

`python -m modeling.decode_timing JOB RESULT [JOB RESULT ...]` imports vLLM once, which takes longer than most shapes,
and runs each job in a copy of itself, because an engine gives its memory back only with its process. A job's folder
holds nothing but a `config.json`: weights are drawn, for no kernel's time depends on their values. Scheduler and model
run in one process, so that one call of the engine is one step; prefill and steps in which a sequence was missing are
left out, and the median over steps forgives a busy machine's outliers.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field

from artifacts.document import Document

SETTLING_STEPS = 4


class DecodeJob(Document):
    """`prompt_tokens` are in front of each of `batch` sequences; a repeat times `steps` steps in which all decode."""

    folder: str
    batch: int = Field(ge=1)
    prompt_tokens: int = Field(ge=1)
    max_model_len: int
    steps: int = Field(ge=1)
    repeats: int = Field(ge=1)
    vocab_size: int
    engine_arguments: dict[str, Any]
    environment: dict[str, str] = Field(description="what the process must be started with")


class DecodeTimes(Document):
    """Median decode step of each repeat."""

    steps_s: tuple[float, ...]


class DecodeClock:
    """Watches which sequences got a token when; `durations_s` are the steps in which every sequence only decoded."""

    def __init__(self, names: Iterable[str]) -> None:
        self._all = frozenset(names)
        self._begun: set[str] = set()
        self._last_s: float | None = None
        self.durations_s: list[float] = []

    def tick(self, now_s: float, tokens: dict[str, int]) -> None:
        """A step ended and gave each sequence in `tokens` so many new tokens."""
        decoded = self._begun == self._all and tokens == dict.fromkeys(self._all, 1)
        if decoded and self._last_s is not None:
            self.durations_s.append(now_s - self._last_s)
        self._begun |= {name for name, count in tokens.items() if count}
        self._last_s = now_s


def time_repeat(engine: Any, job: DecodeJob, repeat: int, parameters: Any) -> float:
    """Seconds of the median step. Raises RuntimeError if sequences end before they all decoded long enough."""
    names = [f"{repeat}-{index}" for index in range(job.batch)]
    for index, name in enumerate(names):
        engine.add_request(name, {"prompt_token_ids": prompt(job, repeat * job.batch + index)}, parameters)
    clock = DecodeClock(names)
    while len(clock.durations_s) < SETTLING_STEPS + job.steps:
        if not engine.has_unfinished_requests():
            raise RuntimeError(f"only {len(clock.durations_s)} decode steps had all {job.batch} sequences in them")
        outputs = engine.step()
        clock.tick(time.perf_counter(), {each.request_id: len(each.outputs[0].token_ids) for each in outputs})
    engine.abort_request(names)
    return median(clock.durations_s[SETTLING_STEPS:])


def prompt(job: DecodeJob, number: int) -> list[int]:
    """Token ids that no other prompt of the run begins with."""
    return [(number + 7 * place) % job.vocab_size for place in range(job.prompt_tokens)]


def start_engine(job: DecodeJob) -> tuple[Any, Any]:
    """vLLM's engine and the sampling parameters of every sequence."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from modeling.plugin import register

    register()
    model = LLM(
        model=job.folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_num_seqs=job.batch,
        max_model_len=job.max_model_len,
        **job.engine_arguments,
    )
    parameters = SamplingParams(
        max_tokens=job.max_model_len - job.prompt_tokens,
        temperature=0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    return model.llm_engine, parameters


def measure(job: DecodeJob, start: Callable[[DecodeJob], tuple[Any, Any]] = start_engine) -> DecodeTimes:
    """One repeat more than asked: the first only warms up."""
    engine, parameters = start(job)
    return DecodeTimes(steps_s=tuple(time_repeat(engine, job, n, parameters) for n in range(job.repeats + 1))[1:])


def measure_to_file(job: DecodeJob, result: Path) -> None:
    measure(job).save(result)


def in_copies(jobs: Sequence[tuple[Any, ...]], work: Callable[..., None]) -> int:
    """Does `work` with each job in a fork of this process, one after the other. The first exit code that is not 0.

    128 + n for signal n, as a shell has it.
    """
    fork = multiprocessing.get_context("fork")
    for job in jobs:
        copy = fork.Process(target=work, args=job)
        copy.start()
        copy.join()
        code = copy.exitcode or 0
        if code != 0:
            return code if code > 0 else 128 - code
    return 0


def main(paths: list[str]) -> int:
    jobs = [(DecodeJob.load(Path(job)), Path(result)) for job, result in zip(paths[::2], paths[1::2], strict=True)]
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # What vLLM itself imports before it forks an engine, and not the model: that could initialise a device.
    import vllm.entrypoints.llm
    import vllm.v1.engine.core  # noqa: F401

    return in_copies(jobs, measure_to_file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
