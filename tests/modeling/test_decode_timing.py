"""A decode step is timed only where every sequence decodes: against an engine whose clock is known."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modeling import decode_timing
from modeling.decode_timing import SETTLING_STEPS, DecodeClock, DecodeJob, in_copies, measure, prompt

DECODE_S, PREFILL_S, SETTLING_S = 3.0, 100.0, 50.0


@dataclass
class PlantedEngine:
    """Prefills one sequence a step beside those that decode already; its first decode steps are slow.

    `stall_every` steps one takes ten times as long; `budget` ends sequences after so many tokens.
    """

    budget: int = 1000
    stall_every: int = 0
    slower_each_repeat: float = 0.0
    now_s: float = 0.0
    prompts: list[list[int]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    decoded: int = 0

    def add_request(self, name: str, given: dict[str, list[int]], parameters: Any) -> None:
        self.prompts.append(given["prompt_token_ids"])
        self.waiting.append(name)

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting or self.running)

    def abort_request(self, names: list[str]) -> None:
        self.waiting, self.running, self.decoded = [], {}, 0
        self.repeats += 1

    def step(self) -> list[Any]:
        if self.waiting:
            self.now_s += PREFILL_S
            self.running[self.waiting.pop(0)] = self.budget
        else:
            self.decoded += 1
            stalls = self.stall_every and self.decoded % self.stall_every == 0
            usual_s = SETTLING_S if self.decoded <= SETTLING_STEPS else DECODE_S
            self.now_s += (usual_s + self.slower_each_repeat * self.repeats) * (10 if stalls else 1)
        given = [SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=[1])]) for name in self.running]
        self.running = {name: left - 1 for name, left in self.running.items() if left > 1}
        return given


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlantedEngine]:
    planted = PlantedEngine()
    monkeypatch.setattr(decode_timing.time, "perf_counter", lambda: planted.now_s)
    yield planted


def job_of(**changes: Any) -> DecodeJob:
    usual: dict[str, Any] = {
        "folder": "none",
        "batch": 3,
        "prompt_tokens": 5,
        "max_model_len": 64,
        "steps": 10,
        "repeats": 4,
        "vocab_size": 97,
        "engine_arguments": {},
        "environment": {},
    }
    return DecodeJob(**{**usual, **changes})


def timed(engine: PlantedEngine, **changes: Any) -> tuple[float, ...]:
    return measure(job_of(**changes), lambda job: (engine, None)).steps_s


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_neither_prefill_nor_settling_is_in_it(engine: PlantedEngine, batch: int) -> None:
    """The last sequence's prefill gives every other one a token as well: that step is no decode step."""
    assert timed(engine, batch=batch) == (DECODE_S,) * 4


def test_a_stall_does_not_move_the_median(engine: PlantedEngine) -> None:
    engine.stall_every = 3
    assert timed(engine) == (DECODE_S,) * 4


def test_the_first_repeat_warms_up_and_is_not_told(engine: PlantedEngine) -> None:
    engine.slower_each_repeat = 1.0
    assert timed(engine, repeats=3) == (DECODE_S + 1, DECODE_S + 2, DECODE_S + 3)


def test_sequences_that_end_early_are_an_error(engine: PlantedEngine) -> None:
    """The first of three sequences decodes beside two prefills: of its 12 tokens 9 come while all three decode."""
    engine.budget = 12
    with pytest.raises(RuntimeError, match="only 9 decode steps had all 3 sequences"):
        timed(engine)
    engine.budget = 17
    engine.waiting, engine.running = [], {}
    assert timed(engine) == (DECODE_S,) * 4


def test_a_step_in_which_a_sequence_was_missing_is_left_out() -> None:
    clock = DecodeClock(["a", "b"])
    both, one = {"a": 1, "b": 1}, {"b": 1}
    for now_s, tokens in [
        (1.0, {"a": 1}),
        (2.0, both),
        (4.0, both),
        (8.0, one),
        (16.0, both),
        (32.0, {"a": 2, "b": 1}),
    ]:
        clock.tick(now_s, tokens)
    assert clock.durations_s == [2.0, 8.0]


def test_no_prompt_is_the_prefix_of_another(engine: PlantedEngine) -> None:
    timed(engine)
    assert len({given[0] for given in engine.prompts}) == len(engine.prompts) == 3 * 5
    assert {len(given) for given in engine.prompts} == {5}
    assert max(max(prompt(job_of(vocab_size=11), number)) for number in range(30)) == 10


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    job = job_of(engine_arguments={"enforce_eager": True})
    job.save(tmp_path / "job.json")
    assert DecodeJob.load(tmp_path / "job.json") == job


def write_pid(job: str, result: Path) -> None:
    if job == "exits":
        raise SystemExit(3)
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    result.write_text(str(os.getpid()))


@pytest.mark.parametrize(("ends", "code"), [("well", 0), ("exits", 3), ("killed", 137)])
def test_each_job_runs_in_a_copy_until_one_fails(ends: str, code: int, tmp_path: Path) -> None:
    """All in processes of their own; after a failure nothing more is begun."""
    results = [tmp_path / str(number) for number in range(3)]
    jobs = list(zip(("well", ends, "well"), results, strict=True))
    assert in_copies(jobs, write_pid) == code
    pids = {int(result.read_text()) for result in results if result.exists()}
    assert len(pids) == (3 if code == 0 else 1) and os.getpid() not in pids
