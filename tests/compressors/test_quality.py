"""Loss, KL and agreement against values known in advance or computed in another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import VOCABULARY, build_model, random_text, save_checkpoint, save_tokenizer, word
from transformers import AutoModelForCausalLM

from artifacts.errors import ConfigError, UnsupportedModel
from compressors.quality import EvaluationRequest, Sums, add_window, evaluate, evaluation_windows
from compressors.source import load_model, load_tokenizer
from compressors.text import corpus_of, read_corpus


@pytest.fixture
def request_(model_folder: Path, text_file: Path) -> EvaluationRequest:
    return EvaluationRequest(model=model_folder, text=text_file, length_tokens=16)


def test_a_uniform_model_has_the_logarithm_of_its_vocabulary(tmp_path: Path, text_file: Path) -> None:
    model = build_model("qwen3")
    model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "uniform")
    save_tokenizer(tmp_path / "uniform")
    result = evaluate(EvaluationRequest(model=tmp_path / "uniform", text=text_file))
    assert result.loss_nats == pytest.approx(math.log(VOCABULARY), abs=1e-6)
    assert result.perplexity == pytest.approx(VOCABULARY, rel=1e-5)
    assert (result.tokens, result.kl_nats, result.js_nats, result.top1_agreement) == (12 * 40, None, None, None)


def test_the_loss_is_the_librarys_own(request_: EvaluationRequest) -> None:
    """Mean over windows of the library's label loss, weighted by predicted tokens."""
    model = AutoModelForCausalLM.from_pretrained(request_.model).eval()
    windows = evaluation_windows(load_tokenizer(request_.model), read_corpus(request_.text), 16, None)
    losses = []
    for window in windows:
        ids = torch.tensor([window])
        with torch.inference_mode():
            losses.append((float(model(input_ids=ids, labels=ids).loss), len(window) - 1))
    tokens = sum(count for _, count in losses)
    expected = sum(loss * count for loss, count in losses) / tokens
    result = evaluate(request_)
    assert result.tokens == tokens and result.loss_nats == pytest.approx(expected, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss_nats))
    assert result.corpus == "stories.txt" and result.length_tokens == 16 and len(result.corpus_sha256) == 64


def test_a_model_agrees_with_itself(request_: EvaluationRequest) -> None:
    result = evaluate(replace(request_, reference=request_.model))
    assert result.kl_nats == pytest.approx(0.0, abs=1e-7) and result.top1_agreement == 1.0
    assert result.js_nats == pytest.approx(0.0, abs=1e-7)
    assert result.loss_nats == evaluate(request_).loss_nats


def test_kl_is_from_the_reference_to_the_model(request_: EvaluationRequest, tmp_path: Path) -> None:
    """A uniform model against a reference p: KL(p || u) = log V - H(p), while the other direction is another number."""
    uniform = build_model("qwen3")
    uniform.lm_head.weight.zero_()
    uniform.save_pretrained(tmp_path / "uniform")
    save_tokenizer(tmp_path / "uniform")
    reference = load_model(request_.model)
    entropy, tokens = 0.0, 0
    for window in evaluation_windows(load_tokenizer(request_.model), read_corpus(request_.text), 16, None):
        with torch.inference_mode():
            log_p = reference(input_ids=torch.tensor([window[:-1]])).logits[0].double().log_softmax(dim=-1)
        entropy -= float((log_p.exp() * log_p).sum())
        tokens += len(window) - 1
    result = evaluate(replace(request_, model=tmp_path / "uniform", reference=request_.model))
    assert result.kl_nats == pytest.approx(math.log(VOCABULARY) - entropy / tokens, rel=1e-5)
    assert result.top1_agreement is not None and result.top1_agreement < 0.2


class Fixed:
    """A model of five tokens that gives `top` nearly all probability, the more the higher `sharpness`."""

    def __init__(self, tops: list[int], sharpness: float = 9) -> None:
        self.logits = torch.nn.functional.one_hot(torch.tensor([tops]), 5).float() * sharpness

    def __call__(self, **_: object) -> Fixed:
        return self


@pytest.mark.parametrize("sharpness", [0.5, 9.0, 200.0])
def test_jensen_shannon_is_the_entropy_of_the_midpoint_less_the_mean_entropy(sharpness: float) -> None:
    one, other = Fixed([1, 2, 3, 4], sharpness), Fixed([1, 0, 3, 0], sharpness / 3)
    p, q = (model.logits[0].double().softmax(dim=1) for model in (one, other))
    middle = (p + q) / 2
    entropy = [-(x * x.clamp_min(1e-300).log()).sum() for x in (middle, p, q)]
    found = []
    for model, reference in ((one, other), (other, one)):
        sums = Sums()
        add_window(sums, model, reference, torch.tensor([[0, 1, 2, 3, 4]]))
        found.append(sums.js_nats)
    assert found[0] == pytest.approx(found[1], rel=1e-6), "symmetric, unlike KL"
    assert found[0] == pytest.approx(float(entropy[0] - (entropy[1] + entropy[2]) / 2), rel=1e-5)
    assert found[0] <= 4 * math.log(2)
    if sharpness == 200:
        assert found[0] == pytest.approx(2 * math.log(2)), "two of four positions share nothing: ln 2 each"


def test_agreement_counts_equal_most_likely_tokens() -> None:
    sums = Sums()
    add_window(sums, Fixed([1, 2, 3, 4]), Fixed([1, 0, 3, 0]), torch.tensor([[0, 1, 2, 3, 4]]))
    assert (sums.tokens, sums.agreements) == (4, 2)
    assert sums.kl_nats > 1


@pytest.mark.parametrize("bos", [True, False])
def test_windows_cover_every_document_and_start_with_bos(tmp_path: Path, bos: bool) -> None:
    save_tokenizer(tmp_path, bos=bos)
    text = " ".join(word(3 + i) for i in range(25)) + "\n<|endoftext|>\n" + " ".join(word(40 + i) for i in range(5))
    windows = evaluation_windows(load_tokenizer(tmp_path), corpus_of("t", text), 11, None)
    prefix = [1] if bos else []
    assert all(window[: len(prefix)] == prefix and len(window) <= 11 for window in windows)
    assert [token for window in windows for token in window[len(prefix) :]] == [*range(3, 28), *range(40, 45)]
    assert len(windows) == 4, "a document's rest is a shorter window of its own, never mixed with the next document"


def test_a_single_leftover_token_predicts_nothing_without_bos(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, bos=False)
    windows = evaluation_windows(load_tokenizer(tmp_path), corpus_of("t", " ".join([word(5)] * 12)), 11, None)
    assert [len(window) for window in windows] == [11]


@pytest.mark.parametrize("limit", [1, 7, 15, 16, 40, 100])
def test_max_tokens_is_exact(request_: EvaluationRequest, limit: int) -> None:
    assert evaluate(replace(request_, max_tokens=limit)).tokens == limit


def test_progress_reaches_its_end(request_: EvaluationRequest) -> None:
    calls: list[tuple[str, float, float]] = []
    evaluate(request_, lambda *call: calls.append(call))
    assert calls[0][:2] == ("evaluate", 0) and calls[-1][1] == calls[-1][2] == len(calls) - 1


def test_records_carry_what_makes_them_comparable(request_: EvaluationRequest) -> None:
    result = evaluate(replace(request_, reference=request_.model))
    records = {record.metric: record for record in result.records("dense")}
    assert set(records) == {"loss_nats", "perplexity", "kl_nats", "js_nats", "top1_agreement"}
    assert records["loss_nats"].value == result.loss_nats and records["loss_nats"].reference is None
    assert records["kl_nats"].reference == "dense" and records["kl_nats"].tokens == result.tokens
    assert records["js_nats"].reference == "dense" and records["js_nats"].value == result.js_nats
    assert [record.metric for record in evaluate(request_).records()] == ["loss_nats", "perplexity"]


def test_stories260k_predicts_stories(stories: Callable[[str], Path], tmp_path: Path) -> None:
    """Others measured 1.461 nats on every fourth story of this file, cut at the context length."""
    whole = stories("corpora/tinystories/dev.txt").read_text().split("\n<|endoftext|>\n")
    text = tmp_path / "fourth.txt"
    text.write_text("\n<|endoftext|>\n".join(whole[::4][:40]))
    result = evaluate(EvaluationRequest(model=stories("models/stories260K"), text=text))
    assert result.loss_nats == pytest.approx(1.461, abs=0.06)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("", "stories.txt is empty"), ("\n<|endoftext|>\n", "stories.txt is empty")],
)
def test_text_without_words(request_: EvaluationRequest, text: str, fragment: str) -> None:
    request_.text.write_text(text)
    with pytest.raises(ConfigError) as caught:
        evaluate(request_)
    assert fragment in str(caught.value)


def test_bad_requests(request_: EvaluationRequest, tmp_path: Path) -> None:
    for changes, fragment in (
        ({"text": tmp_path / "none.txt"}, "none.txt does not exist"),
        ({"length_tokens": 1}, "length 1 with at most None tokens predicts nothing"),
        ({"max_tokens": 0}, "predicts nothing"),
        ({"model": tmp_path / "none"}, "is not a folder"),
        ({"reference": tmp_path / "none"}, "is not a folder"),
        ({"model": tmp_path}, "is not a model folder"),
    ):
        with pytest.raises(ConfigError, match=fragment):
            evaluate(replace(request_, **changes))  # type: ignore[arg-type]


def test_a_reference_of_another_vocabulary_is_refused(request_: EvaluationRequest, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other", vocab_size=VOCABULARY + 1)
    with pytest.raises(ConfigError, match="another vocabulary"):
        evaluate(replace(request_, reference=other))


def test_an_unsupported_model_is_refused(request_: EvaluationRequest) -> None:
    (request_.model / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel"):
        evaluate(request_)


def test_random_text_is_what_the_tests_think(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    ids = load_tokenizer(tmp_path)(random_text(1, 40), add_special_tokens=False)["input_ids"]
    assert len(ids) == 40 and 0 not in ids
