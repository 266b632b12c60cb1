"""Local question files: what is read, what is refused and where, and how the harness asks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from compressors.questions import Question, local_task, read_questions, task_name

GOOD = {"query": "w3 w4", "choices": ["w5", "w6 w7"], "gold": 1}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_questions_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, "", {**GOOD, "gold": 0, "category": "unused"})
    assert read_questions(path) == [Question(**GOOD), Question(**{**GOOD, "gold": 0})]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ('{"query": "w3", "choices"', "EOF"),
        ("[1, 2]", "object"),
        ({"query": "w3", "choices": ["w4", "w5"]}, "gold: Field required"),
        ({**GOOD, "gold": 2}, "gold 2 is outside 0 to 1"),
        ({**GOOD, "gold": -1}, "gold"),
        ({**GOOD, "gold": "1"}, "gold"),
        ({**GOOD, "gold": True}, "gold"),
        ({**GOOD, "choices": ["w5"]}, "choices"),
        ({**GOOD, "choices": ["w5", " "]}, "a choice is empty"),
        ({**GOOD, "choices": ["w5", 6]}, "choices.1"),
        ({**GOOD, "query": None}, "query"),
    ],
)
def test_a_line_that_is_no_question_is_numbered(tmp_path: Path, line: object, fragment: str) -> None:
    path = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(ConfigError) as caught:
        read_questions(path)
    assert f"{path}, line 3 is no question" in str(caught.value) and fragment in str(caught.value)


@pytest.mark.parametrize(("content", "fragment"), [(b"", "is empty"), (b"\n\n", "is empty"), (b"\xff", "as UTF-8")])
def test_files_without_questions(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=fragment):
        read_questions(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/copa.jsonl", "copa"), ("a/copa/dev.jsonl", "copa"), ("a/copa/test.json", "copa"), ("a/dev-2.jsonl", "dev-2")],
)
def test_a_task_is_not_named_after_its_split(tmp_path: Path, path: str, name: str) -> None:
    assert task_name(tmp_path / path) == name


def test_the_harness_asks_query_space_choice(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the eval extra is not installed")
    task = local_task(written(tmp_path, {**GOOD, "query": "{{query}} w4"}, GOOD))
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests()
    asked = [(instance.doc_id, instance.args) for instance in task.instances]
    assert asked == [
        (0, ("{{query}} w4", " w5")),
        (0, ("{{query}} w4", " w6 w7")),
        (1, ("w3 w4", " w5")),
        (1, ("w3 w4", " w6 w7")),
    ], "braces in a text are text, not a template"


def test_every_shared_question_file_is_read(stories: Callable[[str], Path]) -> None:
    counts = {path.name: len(read_questions(path)) for path in stories("tasks/llm-foundry").glob("*.jsonl")}
    assert set(counts) == {"arc_easy.jsonl", "copa.jsonl", "openbook_qa.jsonl"} and min(counts.values()) > 50
    assert len(read_questions(stories("tasks/tinystories-next-sentence/dev.jsonl"))) == 921
