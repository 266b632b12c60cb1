"""A task through the served endpoint, with real vLLM behind it, gives what Transformers gives, number by number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_process import ROOT, Serving, launcher

from compressors.endpoint import EndpointScorer
from compressors.scoring import Likelihood, TransformersScorer
from compressors.source import load_model, load_tokenizer
from compressors.tasks import TaskRequest, TaskResult, evaluate_tasks

DATA = ROOT / "../shared/data"
MODEL = DATA / "models/stories260K-hd32"
QUESTIONS = DATA / "tasks/tinystories-next-sentence/dev.jsonl"
LIMIT = 100
CHOICES = 4

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared test data are not beside this repository"),
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    pytest.importorskip("lm_eval", reason="the eval extra is not installed")
    fleet = [{"name": "dense", "model": str(MODEL.resolve())}]
    for start in launcher(tmp_path_factory.mktemp("tasks")):
        settings = {"dtype": "float32", "max_model_len": 512, "kv_cache_bytes": 128 << 20}
        yield start(fleet, **settings).until_ready(within_s=400)


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


def only(**way: str) -> TaskResult:
    (result,) = evaluate_tasks(TaskRequest(model=MODEL, tasks=(str(QUESTIONS),), limit=LIMIT, **way))
    return result


def test_every_choice_is_as_likely_served_as_in_process(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    served, in_process = kept(monkeypatch, EndpointScorer), kept(monkeypatch, TransformersScorer)
    through, here = only(url=serving.url, served_as="dense"), only()
    assert served.keys() == in_process.keys() and len(served) >= LIMIT * CHOICES * 0.99
    worst = max(abs(served[ids].log_likelihood_nats - in_process[ids].log_likelihood_nats) for ids in served)
    assert worst < 1e-3
    assert {ids: found.greedy for ids, found in served.items()} == {ids: f.greedy for ids, f in in_process.items()}
    assert through == here.model_copy(update={"through": "endpoint"})
    assert through.questions == LIMIT and 0.2 < through.scores["acc"].value < 0.5


def test_both_ways_continue_alike(serving: Serving) -> None:
    tokenizer = load_tokenizer(Path(MODEL))
    ids = tokenizer.encode("Once upon a time")
    here = TransformersScorer(load_model(MODEL), tokenizer).generate(ids, [".", "\n"], 32)
    assert EndpointScorer(serving.url, "dense", tokenizer).generate(ids, [".", "\n"], 32) == here
    assert len(here.split()) > 4 and "." not in here
