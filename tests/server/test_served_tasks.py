"""A task through the served endpoint, with real vLLM behind it, gives what Transformers gives, number by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving_process import ROOT, Serving

from compressors.endpoint import EndpointScorer
from compressors.scoring import Likelihood, TransformersScorer
from compressors.source import load_model, load_tokenizer
from compressors.tasks import TaskRequest, TaskResult, evaluate_tasks

DATA = ROOT / "../shared/data"
QUESTIONS = DATA / "tasks/tinystories-next-sentence/dev.jsonl"
LIMIT = 100
CHOICES = 4

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared test data are not beside this repository"),
]


def kept(monkeypatch: pytest.MonkeyPatch, scorer: type[Any]) -> dict[tuple[int, ...], Likelihood]:
    """Every answer that `scorer` scores from now on, by its token ids."""
    found: dict[tuple[int, ...], Likelihood] = {}
    score = scorer.score

    def keeping(self: Any, answers: Any) -> list[Likelihood]:
        likelihoods: list[Likelihood] = score(self, answers)
        found.update(zip((answer.ids for answer in answers), likelihoods, strict=True))
        return likelihoods

    monkeypatch.setattr(scorer, "score", keeping)
    return found


def only(model: Path, **way: str) -> TaskResult:
    (result,) = evaluate_tasks(TaskRequest(model=model, tasks=(str(QUESTIONS),), limit=LIMIT, **way))
    return result


def test_every_choice_is_as_likely_served_as_in_process(
    engines: Serving, engine_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine_models["dense"]
    served, in_process = kept(monkeypatch, EndpointScorer), kept(monkeypatch, TransformersScorer)
    through, here = only(model, url=engines.url, served_as="dense"), only(model)
    assert served.keys() == in_process.keys() and len(served) >= LIMIT * CHOICES * 0.99
    worst = max(abs(served[ids].log_likelihood_nats - in_process[ids].log_likelihood_nats) for ids in served)
    assert worst < 1e-3
    assert {ids: found.greedy for ids, found in served.items()} == {ids: f.greedy for ids, f in in_process.items()}
    assert through == here.model_copy(update={"through": "endpoint"})
    assert through.questions == LIMIT and 0.2 < through.scores["acc"].value < 0.5


def test_both_ways_continue_alike(engines: Serving, engine_models: dict[str, Path]) -> None:
    model = engine_models["dense"]
    tokenizer = load_tokenizer(model)
    ids = tokenizer.encode("import os\n\ndef ")
    here = TransformersScorer(load_model(model), tokenizer).generate(ids, [":", "\n\n"], 32)
    assert EndpointScorer(engines.url, "dense", tokenizer).generate(ids, [":", "\n\n"], 32) == here
    assert len(here) > 4 and ":" not in here
