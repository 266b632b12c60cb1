"""`prunebench latency` around its engines: what is asked of them, what is kept of them, what is refused."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError, PrunebenchError, ServingError, UnsupportedModel
from artifacts.latency import DecodeShape, LatencyTable
from artifacts.progress import silent
from modeling.decode_timing import SETTLING_STEPS
from prunebench import timing_process
from prunebench.timed_engine import EngineTimer, open_subject
from prunebench.timing import LatencyRequest, cache_bytes_of, job_of, measure_latency, summary, warnings_about
from prunebench.timing_process import running
from server.warden import under_warden
from tests.prunebench.conftest import MODEL, Verb

ROOT = Path(__file__).parents[2]
BASE = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48}
BASE |= {"hidden_size": 64, "vocab_size": 96, "max_position_embeddings": 128}
FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def write_config(folder: Path, architecture: str = "LlamaForCausalLM", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"architectures": [architecture], "model_type": FAMILIES.get(architecture, "gpt2"), "sliding_window": None}
    (folder / "config.json").write_text(json.dumps({**BASE, **stated, **changes}))
    return folder


class PlantedTimer:
    """An additive engine: half a second, a quarter per KV group, 1/64 per FFN channel. `calls` are its shapes."""

    def __init__(self, fails_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.calls: list[DecodeShape] = []
        self._fails_at = fails_at
        self._error = error

    def __call__(self, shapes: Sequence[DecodeShape]) -> Iterator[tuple[float, ...]]:
        for shape in shapes:
            if len(self.calls) == self._fails_at:
                raise self._error("it ended")
            self.calls.append(shape)
            seconds = 0.5 + sum(shape.kv_groups) / 4 + sum(shape.ffn_channels) / 64
            yield (seconds + 0.125, seconds, seconds + 0.25)


@pytest.fixture
def asked(tmp_path: Path) -> LatencyRequest:
    model = write_config(tmp_path / "model")
    return LatencyRequest(model=str(model), out=tmp_path / "new" / "latency.json", batch=2, context_tokens=64, steps=16)


def test_the_table_holds_what_was_planted(asked: LatencyRequest) -> None:
    timer = PlantedTimer()
    table = measure_latency(asked, silent, timer)
    assert LatencyTable.load(asked.out) == table
    assert [path.name for path in asked.out.parent.iterdir()] == ["latency.json"]
    assert {entry.count for entry in table.entries if entry.unit == "kv"} == {1, 2, 3, 4}
    assert {entry.count for entry in table.entries if entry.unit == "ffn"} == {12, 18, 24, 30, 36, 42, 48}
    for entry in table.entries:
        assert entry.seconds == pytest.approx(entry.count / {"kv": 4, "ffn": 64}[entry.unit])
    assert table.fixed_s == pytest.approx(0.5)
    assert "cores" in table.hardware or "NVIDIA" in table.hardware
    assert (table.batch, table.context_tokens, table.model) == (2, 64, "model")
    assert len(timer.calls) == 13 + asked.checks and table.errors == pytest.approx([0, 0])
    told = summary(table)
    assert told["dense_step_s"] == 0.5 + 3 * (1 + 0.75) and told["drift"] == 0 and told["entries"] == 11
    assert told["largest_spread"] == pytest.approx(0.25 / min(t.seconds for t in table.measured))
    assert warnings_about(table) == []
    busy = table.measured[3].model_copy(update={"steps_s": (1.0, 1.3)})
    (said,) = warnings_about(table.model_copy(update={"measured": (*table.measured[:3], busy, *table.measured[4:])}))
    assert "differed by up to 30%" in said


def test_only_the_asked_widths_are_measured(asked: LatencyRequest) -> None:
    timer = PlantedTimer()
    table = measure_latency(replace(asked, ffn_widths=(16,), kv_groups=(2,), checks=0), silent, timer)
    assert {(entry.unit, entry.count) for entry in table.entries} == {("kv", 2), ("kv", 4), ("ffn", 16), ("ffn", 48)}
    assert len(timer.calls) == 6 and table.checks == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ServingError])
@pytest.mark.parametrize("finished", [0, 5, 14])
def test_finished_shapes_outlive_an_end(asked: LatencyRequest, finished: int, error: type[BaseException]) -> None:
    """The same command measures only the rest, and the table is the one that nothing interrupted."""
    first, second = PlantedTimer(finished, error), PlantedTimer()
    with pytest.raises(error):
        measure_latency(asked, silent, first)
    assert not asked.out.exists()
    table = measure_latency(asked, silent, second)
    assert len(first.calls) == finished and len(second.calls) == 15 - finished
    whole = measure_latency(replace(asked, out=asked.out.with_name("whole.json")), silent, PlantedTimer())
    assert table.model_copy(update={"provenance": None}) == whole.model_copy(update={"provenance": None})
    assert sorted(path.name for path in asked.out.parent.iterdir()) == ["latency.json", "whole.json"]


@pytest.mark.parametrize("change", [{"batch": 3}, {"context_tokens": 65}, {"dtype": "float32"}, {"repeats": 2}])
def test_another_load_finds_nothing_finished(asked: LatencyRequest, change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure_latency(asked, silent, PlantedTimer(5))
    timer = PlantedTimer()
    measure_latency(replace(asked, **change), silent, timer)
    assert len(timer.calls) == 15


def test_another_model_in_the_same_folder_finds_nothing_finished(asked: LatencyRequest) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure_latency(asked, silent, PlantedTimer(5))
    write_config(Path(asked.model), hidden_size=128)
    timer = PlantedTimer()
    measure_latency(asked, silent, timer)
    assert len(timer.calls) == 15


def test_progress_counts_shapes(asked: LatencyRequest) -> None:
    calls: list[tuple[float, float]] = []
    measure_latency(asked, lambda stage, done, total: calls.append((done, total)), PlantedTimer())
    assert calls == [(done, 15) for done in range(16)]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_becomes_ours_at_the_asked_widths(architecture: str, tmp_path: Path) -> None:
    subject = open_subject(str(write_config(tmp_path / "model", architecture)))
    shape = DecodeShape(kv_groups=(3, 0, 4), ffn_channels=(0, 17, 48))
    config = subject.engine_config(shape)
    assert [layer["kv_heads"] for layer in config.layer_shapes] == [3, 0, 4]
    assert [layer["query_heads"] for layer in config.layer_shapes] == [6, 0, 8]
    assert [layer["ffn_width"] for layer in config.layer_shapes] == [0, 17, 48]
    assert (config.qk_norm, config.qkv_bias) == (architecture == "Qwen3ForCausalLM", architecture == "Qwen2ForCausalLM")


def test_the_timed_steps_lie_around_the_context(asked: LatencyRequest) -> None:
    """Their middle is the asked context; a cache of the widest type holds all sequences to their end."""
    subject = open_subject(asked.model)
    job = job_of(asked, subject)
    assert job.prompt_tokens + (SETTLING_STEPS + asked.steps) / 2 == 64
    assert job.max_model_len >= job.prompt_tokens + SETTLING_STEPS + asked.steps + asked.batch
    assert job.engine_arguments["enable_prefix_caching"] is False
    wide = subject.config | {"num_hidden_layers": 32, "num_key_value_heads": 8, "head_dim": 128}
    assert cache_bytes_of(1000, replace(subject, config=wide)) == 1000 * 2 * 32 * 8 * 128 * 4
    assert cache_bytes_of(1, subject) == 64 << 20


@pytest.mark.parametrize(
    ("change", "error", "fragment"),
    [
        ({"context_tokens": 9}, ConfigError, "context of 9 tokens cannot be measured .* 11 to about"),
        ({"context_tokens": 127}, ConfigError, "context of 127 tokens cannot be measured"),
        ({"batch": 100}, ConfigError, "Change --context or --batch"),
        ({"ffn_widths": (49,)}, ConfigError, "width of 49 units of ffn .* 1 to 48"),
        ({"kv_groups": (0,)}, ConfigError, "width of 0 units of kv .* 1 to 4"),
        ({"model": "/nowhere/at/all"}, ConfigError, "is not a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    asked: LatencyRequest, change: dict[str, Any], error: type[PrunebenchError], fragment: str
) -> None:
    timer = PlantedTimer()
    with pytest.raises(error, match=fragment):
        measure_latency(replace(asked, **change), silent, timer)
    assert timer.calls == [] and not asked.out.parent.exists()


@pytest.mark.parametrize(
    ("architecture", "change", "error", "fragment"),
    [
        ("GPT2LMHeadModel", {}, UnsupportedModel, "GPT2LMHeadModel"),
        ("PrunebenchForCausalLM", {}, ConfigError, "differ already.* Measure the dense model"),
        ("LlamaForCausalLM", {"num_hidden_layers": 1}, ConfigError, "one layer"),
        ("MistralForCausalLM", {"sliding_window": 32}, UnsupportedModel, "sliding window of 32"),
    ],
)
def test_models_that_cannot_be_measured(
    asked: LatencyRequest, architecture: str, change: dict[str, Any], error: type[PrunebenchError], fragment: str
) -> None:
    write_config(Path(asked.model), architecture, **change)
    with pytest.raises(error, match=fragment):
        measure_latency(asked, silent)
    assert not asked.out.exists()


def test_an_existing_table_is_never_overwritten(asked: LatencyRequest) -> None:
    asked.out.parent.mkdir()
    asked.out.write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        measure_latency(asked, silent, PlantedTimer())
    assert asked.out.read_text() == "mine"


def test_places_that_cannot_be_written_are_found_before_the_first_engine(asked: LatencyRequest, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a folder, and the table is one file"):
        measure_latency(replace(asked, out=tmp_path / "folder"), silent)
    with pytest.raises(ConfigError, match=r"could not be written \(Not a directory\)"):
        measure_latency(replace(asked, out=tmp_path / "file" / "latency.json"), silent)


def test_noise_and_drift_are_said(asked: LatencyRequest) -> None:
    planted = PlantedTimer()

    def noisy(shapes: Sequence[DecodeShape]) -> Iterator[tuple[float, ...]]:
        for shape, steps_s in zip(shapes, planted(shapes), strict=True):
            slower = 2.0 if set(shape.ffn_channels) == {12} else 0.0
            aged = 1.5 if len(planted.calls) == 13 else 1.0
            yield tuple(seconds * aged + slower for seconds in steps_s)

    said = warnings_about(measure_latency(asked, silent, noisy))
    assert len(said) == 2
    assert "moved by up to" in said[0] and "50% slower at the end" in said[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What the warden runs instead of the engine, with the paths of jobs and results as `paths`."""

    def set_script(code: str) -> None:
        def instead(grace_s: float, log: Path, command: Sequence[str]) -> tuple[str, ...]:
            return under_warden(
                grace_s,
                log,
                [sys.executable, "-c", f"import sys; paths = sys.argv[1:]\n{code}", *command[3:]],
            )

        monkeypatch.setattr(timing_process, "under_warden", instead)

    return set_script


SHAPES = [DecodeShape(kv_groups=(groups,) * 3, ffn_channels=(48,) * 3) for groups in (4, 2)]


ONE_THEN_THE_OTHER = """
import time
from pathlib import Path
from modeling.decode_timing import DecodeTimes
first, second = Path(paths[1]), Path(paths[3])
DecodeTimes(steps_s=(3,)).save(first)
while first.exists():
    time.sleep(0.01)
DecodeTimes(steps_s=(5,)).save(second)
"""


def test_each_shape_is_told_when_it_is_known(asked: LatencyRequest, script: Callable[[str], None]) -> None:
    """The second result is written only after the first has been taken away."""
    script(ONE_THEN_THE_OTHER)
    folder = asked.out.with_name("unfinished")
    steps = EngineTimer(open_subject(asked.model), job_of(asked, open_subject(asked.model)), folder)(SHAPES)
    assert next(steps) == (3.0,)
    configs = [json.loads((folder / "engines" / name / "config.json").read_text()) for name in "01"]
    assert [config["layer_shapes"][0]["kv_heads"] for config in configs] == [4, 2]
    (folder / "engines" / "0" / "result.json").unlink()
    assert list(steps) == [(5.0,)]


def test_an_engine_that_ends_gives_its_reason(asked: LatencyRequest, script: Callable[[str], None]) -> None:
    script("print('INFO starting\\nValueError: no block is free'); sys.exit(1)")
    timer = EngineTimer(open_subject(asked.model), job_of(asked, open_subject(asked.model)), asked.out.with_name("x"))
    with pytest.raises(ServingError, match=r"ValueError: no block is free\. Its log is .*log\.txt"):
        next(timer(SHAPES))


def test_a_damaged_job_ends_the_process_with_its_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with running((str(tmp_path / "none.json"), str(tmp_path / "result.json")), {}, log) as process:
        assert process.wait() == 1
    assert "none.json does not exist" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_engine_does_not_outlive_its_verb(number: signal.Signals, tmp_path: Path) -> None:
    """The engine's process reads its job from a pipe that stays open; when it is gone, the pipe has no reader.

    The verb's whole process group gets the signal, as from a terminal.
    """
    job = tmp_path / "job.json"
    os.mkfifo(job)
    script = (
        "from pathlib import Path; from prunebench.timing_process import running\n"
        f"with running(({str(job)!r}, 'none'), {{}}, Path({str(tmp_path / 'log')!r})) as process: process.wait()"
    )
    command = [sys.executable, "-c", script]
    verb = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    with job.open("wb") as pipe:
        os.killpg(verb.pid, number)
        assert verb.wait(timeout=60) != 0
        poll = select.poll()
        poll.register(pipe, 0)
        assert [event for _, event in poll.poll(30_000)] == [select.POLLERR]


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--ffn-widths", "12,x", "whole numbers"),
        ("--kv-groups", "1;2", "whole numbers"),
        ("--ffn-widths", "9999", "768"),
    ],
)
def test_bad_options_are_one_sentence(verb: Verb, tmp_path: Path, option: str, value: str, word: str) -> None:
    outcome = verb("latency", MODEL, "--out", tmp_path / "table.json", option, value)
    assert outcome.code == 2 and outcome.stderr.startswith("error: ")
    assert word in outcome.stderr and list(tmp_path.iterdir()) == []


def test_the_verb_prints_what_the_table_is_worth(verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = PlantedTimer()
    monkeypatch.setattr("prunebench.timing.EngineTimer", lambda *given: planted)
    out = tmp_path / "table.json"
    outcome = verb("latency", MODEL, "--out", out, "--kv-groups", "2", "--ffn-widths", "384", "--checks", "1")
    assert outcome.code == 0, outcome.stderr
    assert outcome.result["out"] == str(out) and outcome.result["entries"] == 4
    assert outcome.result["check_errors"] == pytest.approx([0])
    assert {shape.layers for shape in planted.calls} == {8} and len(planted.calls) == 7
    assert LatencyTable.load(out).fixed_s == pytest.approx(0.5)
