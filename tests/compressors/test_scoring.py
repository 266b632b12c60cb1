"""Batched scores against one plain forward pass per answer."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, build_model, save_tokenizer

from compressors.scoring import Answer, TransformersScorer, batches, cut_at
from compressors.source import load_tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model("qwen3")


def some_answers(count: int, seed: int = 0) -> list[Answer]:
    draw = Random(seed)
    lengths = [draw.randrange(2, 24) for _ in range(count)]
    return [
        Answer(tuple(draw.randrange(VOCABULARY) for _ in range(length)), draw.randrange(1, length))
        for length in lengths
    ]


def plain_score(model: Any, answer: Answer) -> tuple[float, bool]:
    """Token by token, each from a forward pass over exactly what stands before it."""
    total, greedy = 0.0, True
    for at in range(len(answer.ids) - answer.scored, len(answer.ids)):
        with torch.inference_mode():
            row = model(input_ids=torch.tensor([answer.ids[:at]])).logits[0, -1].double().log_softmax(dim=0)
        total += float(row[answer.ids[at]])
        greedy &= int(row.argmax()) == answer.ids[at]
    return total, greedy


def test_a_batch_scores_as_single_answers_do(model: Any) -> None:
    answers = some_answers(17)
    found = TransformersScorer(model, None).score(answers)
    expected = [plain_score(model, answer) for answer in answers]
    assert [f.log_likelihood_nats for f in found] == pytest.approx([value for value, _ in expected], abs=2e-4)
    assert [f.greedy for f in found] == [greedy for _, greedy in expected]


def test_a_greedy_answer_is_seen_as_one(model: Any) -> None:
    ids = [5, 6, 7]
    for _ in range(4):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % VOCABULARY]
    found = TransformersScorer(model, None).score([Answer(tuple(ids), 4), Answer(tuple(other), 4), Answer((3, 4), 1)])
    assert [f.greedy for f in found[:2]] == [True, False]
    assert found[0].log_likelihood_nats > found[1].log_likelihood_nats


def test_a_first_token_can_be_the_whole_context(model: Any) -> None:
    (found,) = TransformersScorer(model, None).score([Answer((3, 4, 5), 2)])
    assert found.log_likelihood_nats == pytest.approx(plain_score(model, Answer((3, 4, 5), 2))[0], abs=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 24, 60, 10_000])
def test_batches_hold_every_answer_once_and_keep_their_bound(batch_tokens: int) -> None:
    answers = some_answers(40)
    found = list(batches(answers, batch_tokens))
    assert sorted(index for batch in found for index in batch) == list(range(40))
    longest = [max(len(answers[index].ids) for index in batch) for batch in found]
    assert longest == sorted(longest, reverse=True), "the largest batch comes first: what does not fit fails at once"
    assert all(len(batch) == 1 or len(batch) * most <= batch_tokens for batch, most in zip(found, longest, strict=True))


def test_generation_is_greedy_and_ends_at_a_stop(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer, model = load_tokenizer(tmp_path), build_model("llama")
    scorer = TransformersScorer(model, tokenizer)
    ids = [5, 6, 7]
    for _ in range(6):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert 2 not in ids, "the greedy text must not end by itself for this test"
    words = tokenizer.decode(ids[3:], skip_special_tokens=True)
    assert scorer.generate(ids[:3], [], 6) == words
    stop = words.split()[3]
    assert scorer.generate(ids[:3], [stop], 6) == words[: words.index(stop)]


@pytest.mark.parametrize(
    ("stops", "expected"),
    [([], "a b c b"), (["b"], "a "), (["c", "b"], "a "), (["x"], "a b c b"), ([""], "a b c b"), (["a"], "")],
)
def test_text_is_cut_at_the_first_stop(stops: list[str], expected: str) -> None:
    assert cut_at("a b c b", stops) == expected
