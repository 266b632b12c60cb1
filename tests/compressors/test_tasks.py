"""Tasks through the harness: its scores from known likelihoods, both ways, every kind of task file, bad requests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from completions_server import Endpoint, served
from tiny_models import build_model, random_text, save_checkpoint, save_tokenizer

from artifacts.errors import CheckpointError, ConfigError
from compressors import tasks as tasks_module
from compressors.scoring import Answer, TransformersScorer
from compressors.source import load_model, load_tokenizer
from compressors.tasks import TaskRequest, TaskResult, evaluate_tasks

pytest.importorskip("lm_eval", reason="the eval extra is not installed")


def write_questions(path: Path, count: int = 12) -> list[dict[str, Any]]:
    """Questions of random words; choices of unequal length, so that `acc` and `acc_norm` can differ."""
    words = random_text(1, count * 12, seed=7).split()
    rows = [
        {"query": " ".join(w[:4]), "choices": [w[4], " ".join(w[5:8]), " ".join(w[8:12])], "gold": i % 3}
        for i, w in enumerate(words[i * 12 : i * 12 + 12] for i in range(count))
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return rows


@pytest.fixture
def request_(model_folder: Path, tmp_path: Path) -> TaskRequest:
    write_questions(tmp_path / "words.jsonl")
    return TaskRequest(model=model_folder, tasks=(str(tmp_path / "words.jsonl"),))


def only(request: TaskRequest) -> TaskResult:
    (result,) = evaluate_tasks(request)
    return result


def test_scores_are_the_shares_of_questions_whose_likeliest_choice_is_right(request_: TaskRequest) -> None:
    """Computed by hand: the sum of log-probabilities for `acc`, divided by the choice's characters for `acc_norm`."""
    tokenizer = load_tokenizer(request_.model)
    scorer = TransformersScorer(load_model(request_.model), tokenizer)
    hits, normalised = [], []
    for row in map(json.loads, Path(request_.tasks[0]).read_text().splitlines()):
        context = tokenizer.encode(row["query"])
        own = [tokenizer.encode(choice, add_special_tokens=False) for choice in row["choices"]]
        found = [scorer.score([Answer((*context, *ids), len(ids))])[0].log_likelihood_nats for ids in own]
        per_character = [value / len(choice) for value, choice in zip(found, row["choices"], strict=True)]
        hits.append(max(range(3), key=found.__getitem__) == row["gold"])
        normalised.append(max(range(3), key=per_character.__getitem__) == row["gold"])
    result = only(request_)
    assert result.scores["acc"].value == pytest.approx(sum(hits) / 12)
    assert result.scores["acc_norm"].value == pytest.approx(sum(normalised) / 12)
    assert sum(hits) not in (0, 12) and hits != normalised, "the questions must be able to tell"
    share = sum(hits) / 12
    assert result.scores["acc"].stderr == pytest.approx(math.sqrt(share * (1 - share) / 11))


def test_a_result_says_what_makes_it_comparable(request_: TaskRequest) -> None:
    result = only(request_)
    assert (result.task, result.corpus, result.questions, result.through) == (
        "words",
        "words.jsonl",
        12,
        "transformers",
    )
    assert result.tokens == 12 * (1 + 3 + 4) and result.truncated == 0
    assert result.length_tokens == 127, "the model's 128 positions less the one a server generates"
    records = {record.metric: record for record in result.records()}
    assert set(records) == {"acc", "acc_norm"}
    kept = records["acc"]
    assert (kept.task, kept.value, kept.stderr) == ("words", result.scores["acc"].value, result.scores["acc"].stderr)
    assert (kept.questions, kept.through, kept.harness) == (12, "transformers", result.harness)
    assert kept.corpus_sha256 == result.corpus_sha256 and kept.harness.startswith("lm_eval ")


def test_the_limit_takes_the_first_questions(request_: TaskRequest, tmp_path: Path) -> None:
    five = only(replace(request_, limit=5))
    write_questions(tmp_path / "words.jsonl", 12)
    Path(request_.tasks[0]).write_text("\n".join((tmp_path / "words.jsonl").read_text().splitlines()[:5]))
    assert five == only(request_) and five.questions == 5


def test_other_questions_have_another_hash(request_: TaskRequest) -> None:
    path = Path(request_.tasks[0])
    first, rows = only(request_), path.read_text()
    path.write_text(rows.replace('"gold": 0', '"gold": 1', 1))
    relabelled = only(request_)
    assert len({first.corpus_sha256, relabelled.corpus_sha256, only(replace(request_, limit=5)).corpus_sha256}) == 3
    path.write_text(rows)
    assert only(request_) == first


def test_the_endpoint_gives_the_same_score(request_: TaskRequest) -> None:
    tokenizer = load_tokenizer(request_.model)
    with served(Endpoint(load_model(request_.model), tokenizer, name=request_.model.name)) as endpoint:
        through = only(replace(request_, url=endpoint.url))
        named = only(replace(request_, url=endpoint.url, served_as=request_.model.name))
    here = only(request_)
    assert through == named == here.model_copy(update={"through": "endpoint"})


def test_a_long_context_loses_its_beginning(tmp_path: Path) -> None:
    """The same answer as for the context's end alone."""
    folder = save_checkpoint(tmp_path / "short", max_position_embeddings=9)
    words = random_text(1, 30).split()
    for name, context in (("long", words[:20]), ("end", words[13:20])):
        row = {"query": " ".join(context), "choices": [words[20], words[21]], "gold": 0}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    long, end = (only(TaskRequest(model=folder, tasks=(str(tmp_path / f"{n}.jsonl"),))) for n in ("long", "end"))
    assert (long.truncated, end.truncated, long.length_tokens) == (2, 0, 8)
    assert long.scores["acc"].value == end.scores["acc"].value
    row = {"query": "w3", "choices": ["w4", " ".join(words[:8])], "gold": 0}
    (tmp_path / "long.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match="has 8 tokens; a context of 8 has room for 1 to 7"):
        only(TaskRequest(model=folder, tasks=(str(tmp_path / "long.jsonl"),)))


def test_an_empty_query_is_asked_after_bos(request_: TaskRequest, tmp_path: Path) -> None:
    (tmp_path / "bare.jsonl").write_text(json.dumps({"query": "", "choices": ["w5", "w6"], "gold": 0}))
    assert only(replace(request_, tasks=(str(tmp_path / "bare.jsonl"),))).tokens == 2


def test_progress_names_the_task_and_reaches_its_end(request_: TaskRequest, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    calls: list[tuple[str, float, float]] = []

    def watch(stage: str, done: float, total: float) -> None:
        calls.append((stage, done, total))
        sys.stderr.write("drawn\n")

    evaluate_tasks(request_, watch)
    assert calls[:2] == [("find tasks", 0, 1), ("find tasks", 1, 1)]
    assert calls[2][0] == "score words" and calls[-1] == ("score words", 36, 36)
    assert capsys.readouterr().err == "drawn\n" * len(calls), "the harness's own bars stay off the terminal"


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"limit": 0}, "limit 0 asks no question"),
        ({"tasks": ("none.jsonl",)}, "none.jsonl cannot be read"),
        ({"model": Path("/no/folder")}, "/no/folder is not a folder"),
        ({"url": "http://127.0.0.1:9"}, "cannot be asked"),
    ],
)
def test_bad_requests(request_: TaskRequest, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        evaluate_tasks(replace(request_, **changes))


def test_two_tasks_of_one_name(request_: TaskRequest, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_questions(tmp_path / "other" / "words.jsonl")
    with pytest.raises(ConfigError, match="Two tasks have the name words"):
        evaluate_tasks(replace(request_, tasks=(*request_.tasks, str(tmp_path / "other" / "words.jsonl"))))


def test_a_missing_extra_is_named(request_: TaskRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'prunebench\[eval\]'"):
        evaluate_tasks(request_)


def test_a_damaged_model_is_refused(request_: TaskRequest) -> None:
    (request_.model / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        evaluate_tasks(request_)


def test_a_uniform_model_ties_and_the_shortest_choice_wins(tmp_path: Path) -> None:
    model = build_model("qwen3")
    model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "uniform")
    save_tokenizer(tmp_path / "uniform")
    rows = write_questions(tmp_path / "words.jsonl")
    result = only(TaskRequest(model=tmp_path / "uniform", tasks=(str(tmp_path / "words.jsonl"),)))
    assert result.scores["acc"].value == sum(row["gold"] == 0 for row in rows) / 12


def test_stories260k_beats_chance(stories: Callable[[str], Path]) -> None:
    """0.3355 over all 921 questions; chance is a quarter."""
    path = stories("tasks/tinystories-next-sentence/dev.jsonl")
    result = only(TaskRequest(model=stories("models/stories260K"), tasks=(str(path),), limit=300))
    assert result.task == "tinystories-next-sentence" and result.questions == 300
    score = result.scores["acc"]
    assert score.stderr is not None and abs(score.value - 0.3355) < 2 * score.stderr
    assert score.value - 0.25 > score.stderr
