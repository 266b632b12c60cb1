"""Multiple-choice questions from a local file, as a task of the evaluation harness.

One JSON object a line, `{"query": text, "choices": [texts], "gold": index of the right one}`. The harness asks how
likely each choice is after the query and one space; no network and no configuration file are needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from artifacts.errors import ConfigError

# A file named after its split says nothing; its folder's name does then.
_SPLITS = frozenset({"dev", "test", "train", "valid", "validation"})
_SPLIT = "test"


class Question(BaseModel):
    """`gold` counts from 0. Other keys of the line (a category, an id) are not used."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    query: str
    choices: list[str] = Field(min_length=2)
    gold: int = Field(ge=0)

    @model_validator(mode="after")
    def _can_be_answered(self) -> Question:
        if not all(choice.strip() for choice in self.choices):
            raise ValueError("a choice is empty")
        if self.gold >= len(self.choices):
            raise ValueError(f"gold {self.gold} is outside 0 to {len(self.choices) - 1}")
        return self


def read_questions(path: Path) -> list[Question]:
    """Raises ConfigError for a file that cannot be read or is empty, and naming the first line that is no question."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error}). Give a JSONL file of questions.") from error
    questions = [_parse(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise ConfigError(f"{path} is empty. Give a JSONL file with one question a line.")
    return questions


def task_name(path: Path) -> str:
    """The file's name, or its folder's when the file is named after a split: `copa.jsonl` and `copa/dev.jsonl`."""
    return path.resolve().parent.name if path.stem in _SPLITS else path.stem


def local_task(path: Path) -> Any:
    """A harness task that asks the file's questions and scores `acc` and `acc_norm`. Raises what reading raises."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = [question.model_dump() for question in read_questions(path)]
    return ConfigurableTask(
        config={
            "task": task_name(path),
            "dataset_path": path.name,
            "custom_dataset": lambda **_: {_SPLIT: Dataset.from_list(rows)},
            "output_type": "multiple_choice",
            "test_split": _SPLIT,
            "doc_to_text": lambda row: row["query"],
            "doc_to_choice": lambda row: row["choices"],
            "doc_to_target": lambda row: row["gold"],
            "target_delimiter": " ",
            "num_fewshot": 0,
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
            ],
        }
    )


def _parse(path: Path, number: int, line: str) -> Question:
    try:
        return Question.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        reason = f"{where}: {fault['msg']}" if where else fault["msg"]
        raise ConfigError(
            f"{path}, line {number} is no question ({reason}). "
            'Each line is {"query": text, "choices": [texts], "gold": index}.'
        ) from error
