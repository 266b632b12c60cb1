"""Harness files and names: every kind of request a task can make, and the sentences for what is no task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_text

from artifacts.errors import ConfigError
from compressors.scoring import Answer, TransformersScorer
from compressors.source import load_model, load_tokenizer
from compressors.tasks import TaskRequest, TaskResult, evaluate_tasks

pytest.importorskip("lm_eval", reason="the eval extra is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets that a task file names are converted into a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def task_file(folder: Path, rows: list[dict[str, Any]], **config: Any) -> Path:
    """A harness YAML file (JSON is YAML) over local rows."""
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    shared = {"task": "own", "dataset_path": "json", "test_split": "test"}
    kwargs = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
    path = folder / "own.yaml"
    path.write_text(json.dumps({**shared, **kwargs, **config}))
    return path


def run(model: Path, path: Path) -> TaskResult:
    (result,) = evaluate_tasks(TaskRequest(model=model, tasks=(str(path),)))
    return result


def test_a_file_of_multiple_choice(model_folder: Path, tmp_path: Path) -> None:
    rows = [{"q": "w3 w4", "options": ["w5", "w6"], "right": i % 2} for i in range(4)]
    path = task_file(
        tmp_path,
        rows,
        output_type="multiple_choice",
        doc_to_text="{{q}}",
        doc_to_choice="{{options}}",
        doc_to_target="right",
    )
    result = run(model_folder, path)
    assert result.scores["acc"].value == 0.5 and (result.task, result.questions) == ("own", 4)
    assert result.corpus == "json"


def test_whole_texts_are_scored_token_by_token_once(model_folder: Path, tmp_path: Path) -> None:
    """Longer than the model's 128 positions: BOS and 127 tokens, then the rest after one token of context."""
    text = random_text(1, 200)
    metric = {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
    path = task_file(
        tmp_path,
        [{"text": text}],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[metric],
    )
    result = run(model_folder, path)
    ids = load_tokenizer(model_folder).encode(text)
    scorer = TransformersScorer(load_model(model_folder), None)
    windows = [Answer((1, *ids[:126]), 126), Answer(tuple(ids[73:200]), 74)]
    expected = sum(found.log_likelihood_nats for window in windows for found in scorer.score([window]))
    assert result.tokens == 200
    assert result.scores["word_perplexity"].value == pytest.approx(math.exp(-expected / 200), rel=1e-4)


@pytest.mark.parametrize(("greedy_settings", "refused"), [({"do_sample": False}, False), ({"do_sample": True}, True)])
def test_generated_answers(model_folder: Path, tmp_path: Path, greedy_settings: dict[str, Any], refused: bool) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    ids = tokenizer.encode("w5 w6")
    for _ in range(3):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    rows = [{"q": "w5 w6", "a": tokenizer.decode(ids[2:])}, {"q": "w5 w6", "a": "something else"}]
    path = task_file(
        tmp_path,
        rows,
        output_type="generate_until",
        doc_to_text="{{q}}",
        doc_to_target="{{a}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 3, **greedy_settings},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    if refused:
        with pytest.raises(ConfigError, match="samples its answers"):
            run(model_folder, path)
        return
    result = run(model_folder, path)
    assert result.scores["exact_match"].value == 0.5 and result.questions == 2


@pytest.mark.parametrize(
    ("content", "fragment"),
    [("{", "cannot be loaded"), ("task: own\n", "cannot be loaded"), ("", "cannot be loaded")],
)
def test_damaged_task_files(model_folder: Path, tmp_path: Path, content: str, fragment: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=fragment):
        run(model_folder, path)


def test_names_are_those_the_harness_knows(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a library of one task in place of the harness's thousands, which take many seconds to read."""
    import lm_eval.tasks

    asked: list[bool] = []

    def manager(include_defaults: bool) -> Any:
        asked.append(include_defaults)
        return real(include_path=str(tmp_path), include_defaults=False)

    real = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    rows = [{"q": "w3", "options": ["w5", "w6"], "right": 0}]
    columns = {"doc_to_text": "{{q}}", "doc_to_choice": "{{options}}", "doc_to_target": "right"}
    task_file(tmp_path, rows, task="own_easy", output_type="multiple_choice", **columns)
    assert run(model_folder, Path("own_easy")).task == "own_easy"
    with pytest.raises(ConfigError, match=r"own_eazy is neither a file nor a task .* Did you mean own_easy\?"):
        run(model_folder, Path("own_eazy"))
    assert asked == [True, True]
    assert run(model_folder, tmp_path / "own.yaml").task == "own_easy"
    assert asked[2:] == [False], "a file needs no library"
    (tmp_path / "group.yaml").write_text(json.dumps({"group": "both", "task": ["own_easy"]}))
    with pytest.raises(ConfigError, match="a group goes by name"):
        run(model_folder, tmp_path / "group.yaml")


def test_a_group_gives_its_own_score(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three questions answered and one not, in tasks of one and three questions: the mean over questions is 0.75."""
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_defaults: real(include_path=str(tmp_path), include_defaults=False)
    )
    scorer, tokenizer = TransformersScorer(load_model(model_folder), None), load_tokenizer(model_folder)
    context, one, other = (tokenizer.encode(word)[0] for word in ("w3", "w5", "w6"))
    ends = [scorer.score([Answer((context, end), 1)])[0].log_likelihood_nats for end in (one, other)]
    right = int(ends[1] > ends[0])
    columns = {"doc_to_text": "{{q}}", "doc_to_choice": "{{options}}", "doc_to_target": "right"}
    for name, golds in (("few", [1 - right]), ("many", [right] * 3)):
        (tmp_path / name).mkdir()
        rows = [{"q": "w3", "options": ["w5", "w6"], "right": gold} for gold in golds]
        task_file(tmp_path / name, rows, task=name, output_type="multiple_choice", **columns)
    by_size = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    group = tmp_path / "both.yaml"
    for aggregated, expected in ((by_size, {"both": (0.75, 4)}), (None, {"few": (0.0, 1), "many": (1.0, 3)})):
        extra = {"aggregate_metric_list": aggregated} if aggregated else {}
        group.write_text(json.dumps({"group": "both", "task": ["few", "many"], **extra}))
        found = evaluate_tasks(TaskRequest(model=model_folder, tasks=("both",)))
        assert {r.task: (r.scores["acc"].value, r.questions) for r in found} == expected
