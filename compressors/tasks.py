"""How well a checkpoint answers questions: tasks of EleutherAI's lm-evaluation-harness, in process or as served.

A task is a name the harness knows (its data come from the hub or its cache), a harness YAML file, or a JSONL file of
multiple-choice questions (`compressors.questions`). The harness makes the prompts and computes the scores; both ways of
scoring see the same token ids, so a variant and what serves it must agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.progress import Progress, silent
from artifacts.variant import QualityRecord
from compressors.endpoint import EndpointScorer
from compressors.request import Device
from compressors.scoring import Scorer, TransformersScorer
from compressors.source import load_model, load_tokenizer, open_source
from compressors.task_sources import load_tasks

# The harness's own seed for few-shot examples.
_FEWSHOT_SEED = 1234


_NEEDED = "Install the eval extra: pip install 'prunebench[eval]'."


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """`limit` takes the first questions of each task. With `url`, the model served there as `served_as` answers, and
    `model` gives tokenizer and context length; without, it answers on `device`."""

    model: Path
    tasks: tuple[str, ...]
    limit: int | None = None
    url: str | None = None
    served_as: str | None = None
    device: Device = "cpu"


class TaskScore(Document):
    """`stderr` is the standard error over questions; null where the harness has no formula for it."""

    value: float
    stderr: float | None


class TaskResult(Document):
    """One task's scores and all that makes them comparable."""

    task: str
    scores: dict[str, TaskScore] = Field(description="by the harness's metric names; a filter's follows a comma")
    questions: int
    tokens: int = Field(description="tokens whose probability was taken; for a group's tasks, of all together")
    length_tokens: int = Field(description="bound on context and answer together")
    truncated: int = Field(description="requests that lost context to that bound, counted likewise")
    corpus: str
    corpus_sha256: str = Field(description="of the questions as they were asked, in order")
    through: Literal["transformers", "endpoint"]
    harness: str

    def records(self) -> tuple[QualityRecord, ...]:
        """The scores as a manifest's quality entries."""
        shared = self.model_dump(exclude={"scores", "truncated"})
        return tuple(
            QualityRecord(metric=metric, value=score.value, stderr=score.stderr, **shared)
            for metric, score in self.scores.items()
        )


def evaluate_tasks(request: TaskRequest, progress: Progress = silent) -> tuple[TaskResult, ...]:
    """One result per task; a group with a score of its own gives that one alone.

    Raises ConfigError for a missing extra, a limit below 1, tasks that are unknown, damaged, named alike or not to be
    had, and what loading the model or reaching the endpoint raises.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(f"Tasks need lm_eval, which is not installed. {_NEEDED}")
    if request.limit is not None and request.limit < 1:
        raise ConfigError(f"limit {request.limit} asks no question. Give 1 or more, or no limit for all.")
    source = open_source(str(request.model))
    with _only_progress_speaks(progress) as audible:
        audible("find tasks", 0, 1)
        loaded = load_tasks(request.tasks)
        audible("find tasks", 1, 1)
        tokenizer = load_tokenizer(source.folder)
        # One token of the context stays free: a server generates at least one.
        limit_tokens = int(source.config["max_position_embeddings"]) - 1
        asking = _Asking(_open_scorer(request, tokenizer), tokenizer, limit_tokens, request.limit, audible)
        return tuple(result for spec, tasks in loaded.items() for result in asking.results(spec, tasks))


def _open_scorer(request: TaskRequest, tokenizer: Any) -> Scorer:
    if request.url is None:
        return TransformersScorer(load_model(request.model).to(request.device), tokenizer)
    return EndpointScorer(request.url, request.served_as or request.model.resolve().name, tokenizer)


@dataclass(frozen=True, slots=True)
class _Asking:
    """What stays the same from task to task."""

    scorer: Scorer
    tokenizer: Any
    limit_tokens: int
    limit: int | None
    progress: Progress

    def results(self, spec: str, loaded: dict[str, Any]) -> Iterator[TaskResult]:
        from lm_eval.evaluator import evaluate

        from compressors.harness import TokenModel

        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        model = TokenModel(_name(spec, loaded), self.scorer, self.tokenizer, self.limit_tokens, self.progress)
        found = evaluate(lm=model, task_dict=loaded, limit=self.limit)
        names = [spec] if spec in found.get("groups", {}) else list(found["samples"])
        for name in names:
            leaves = [name] if name in found["samples"] else list(found["samples"])
            samples = [sample for leaf in leaves for sample in found["samples"][leaf]]
            yield TaskResult(
                task=name,
                scores=_scores(found["results"][name]),
                questions=sum(len({sample["doc_id"] for sample in found["samples"][leaf]}) for leaf in leaves),
                tokens=model.scored_tokens,
                length_tokens=self.limit_tokens,
                truncated=model.truncated,
                corpus=_corpus(loaded["tasks"][name]) if name in loaded["tasks"] else spec,
                corpus_sha256=_sha256(samples),
                through=self.scorer.through,
                harness=f"lm_eval {version('lm_eval')}",
            )


def _name(spec: str, loaded: dict[str, Any]) -> str:
    return next(iter(loaded["tasks"])) if len(loaded["tasks"]) == 1 else spec


def _scores(found: dict[str, Any]) -> dict[str, TaskScore]:
    """From the harness's `metric,filter` keys; the filter `none` goes unnamed."""
    scores = {}
    for key, value in found.items():
        metric, _, filter_ = key.partition(",")
        if not filter_ or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = found.get(f"{metric}_stderr,{filter_}")
        name = metric if filter_ == "none" else key
        scores[name] = TaskScore(value=value, stderr=stderr if isinstance(stderr, int | float) else None)
    return scores


def _corpus(task: Any) -> str:
    return "/".join(part for part in (task.get_config("dataset_path"), task.get_config("dataset_name")) if part)


def _sha256(samples: list[dict[str, Any]]) -> str:
    asked = [(sample["arguments"], sample["target"]) for sample in samples]
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()


@contextlib.contextmanager
def _only_progress_speaks(progress: Progress) -> Iterator[Progress]:
    """Keeps the harness's own bars and log lines off stderr, where callers draw theirs."""
    stderr = sys.stderr

    def audible(stage: str, done: float, total: float) -> None:
        with contextlib.redirect_stderr(stderr):
            progress(stage, done, total)

    with contextlib.redirect_stderr(io.StringIO()):
        yield audible
