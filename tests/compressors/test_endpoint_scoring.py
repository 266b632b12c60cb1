"""Scores through an endpoint equal scores in process; an endpoint that cannot be believed is refused in a sentence."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from completions_server import Endpoint, served
from tiny_models import VOCABULARY, build_model, save_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from artifacts.errors import ConfigError, ServingError
from compressors.endpoint import EndpointScorer
from compressors.scoring import Answer, TransformersScorer
from compressors.source import load_tokenizer

Spoiler = Callable[[dict[str, Any]], tuple[int, Any]]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    save_tokenizer(tmp_path)
    with served(Endpoint(build_model("llama"), load_tokenizer(tmp_path))) as running:
        yield running


def scorer(endpoint: Endpoint) -> EndpointScorer:
    return EndpointScorer(endpoint.url, endpoint.name, endpoint.tokenizer)


def some_answers() -> list[Answer]:
    draw = Random(3)
    return [Answer(tuple(draw.randrange(3, VOCABULARY) for _ in range(length)), length // 2) for length in range(2, 12)]


def test_both_ways_give_the_same_likelihoods(endpoint: Endpoint) -> None:
    answers = some_answers()
    expected = TransformersScorer(endpoint.model, endpoint.tokenizer).score(answers)
    found = scorer(endpoint).score(answers)
    assert [f.log_likelihood_nats for f in found] == pytest.approx([e.log_likelihood_nats for e in expected], abs=1e-4)
    assert [f.greedy for f in found] == [e.greedy for e in expected]
    assert [len(body["prompt"]) for body in endpoint.asked] == [len(answers)], "a batch is one request of token ids"


def test_both_ways_see_a_greedy_answer(endpoint: Endpoint) -> None:
    ids = [5, 6, 7]
    for _ in range(3):
        ids.append(int(endpoint._row(ids).argmax()))
    answers = [Answer(tuple(ids), 3), Answer((*ids[:-1], ids[-1] ^ 1), 3)]
    for way in (scorer(endpoint), TransformersScorer(endpoint.model, endpoint.tokenizer)):
        assert [found.greedy for found in way.score(answers)] == [True, False]


def test_both_ways_generate_the_same(endpoint: Endpoint) -> None:
    text = TransformersScorer(endpoint.model, endpoint.tokenizer).generate([5, 6, 7], [], 5)
    stop = text.split()[2]
    for stops in ([], [stop]):
        expected = TransformersScorer(endpoint.model, endpoint.tokenizer).generate([5, 6, 7], stops, 5)
        assert scorer(endpoint).generate([5, 6, 7], stops, 5) == expected


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_url_may_name_the_api(endpoint: Endpoint, suffix: str) -> None:
    assert EndpointScorer(endpoint.url + suffix, "tiny", endpoint.tokenizer).score([Answer((3, 4), 1)])


def without(key: str) -> Spoiler:
    def spoil(answer: dict[str, Any]) -> tuple[int, Any]:
        for choice in answer["choices"]:
            if key == "logprobs":
                choice["logprobs"] = None
            else:
                choice["logprobs"][key] = choice["logprobs"][key][:1]
        return 200, answer

    return spoil


def shifted(answer: dict[str, Any]) -> tuple[int, Any]:
    """As if the server had put a token of its own in front."""
    for choice in answer["choices"]:
        choice["logprobs"]["tokens"].insert(0, "token_id:1")
        choice["logprobs"]["token_logprobs"].insert(1, -1.0)
    return 200, answer


@pytest.mark.parametrize(
    ("spoil", "fragments"),
    [
        (without("logprobs"), ("no log-probabilities of the prompt", "echo with logprobs")),
        (without("token_logprobs"), ("no log-probabilities of the prompt",)),
        (shifted, ("scored other tokens than it was sent",)),
        (lambda answer: (200, {"choices": answer["choices"][:1]}), ("answered 1 of 2 prompts",)),
        (lambda _: (400, {"error": {"message": "echo is\nnot supported"}}), ("answered 400 (echo is not supported)",)),
        (lambda _: (503, b"busy"), ("answered 503 (Service Unavailable)",)),
        (lambda _: (200, b"<html>"), ("cannot be asked", "Start the server, or correct the URL")),
        (lambda _: (200, []), ("no OpenAI-compatible endpoint",)),
    ],
)
def test_answers_that_cannot_be_believed(endpoint: Endpoint, spoil: Spoiler, fragments: tuple[str, ...]) -> None:
    asking = scorer(endpoint)
    endpoint.spoil["/v1/completions"] = spoil
    with pytest.raises((ConfigError, ServingError)) as caught:
        asking.score([Answer((3, 4, 5), 1), Answer((3, 4, 6), 1)])
    assert [part for part in fragments if part not in str(caught.value)] == []
    assert endpoint.url in str(caught.value)


def test_text_in_place_of_ids_is_tolerated(endpoint: Endpoint) -> None:
    """A server that does not know how to echo ids echoes words; there is nothing to compare then."""

    def words(answer: dict[str, Any]) -> tuple[int, Any]:
        for choice in answer["choices"]:
            choice["logprobs"]["tokens"] = ["w"] * len(choice["logprobs"]["tokens"])
        return 200, answer

    asking, answers = scorer(endpoint), some_answers()
    expected = asking.score(answers)
    endpoint.spoil["/v1/completions"] = words
    assert asking.score(answers) == expected


def test_nobody_listens(endpoint: Endpoint) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{url} cannot be asked .*refused"):
            EndpointScorer(url, "tiny", endpoint.tokenizer)
    with pytest.raises(ConfigError, match="cannot be asked"):
        EndpointScorer("not a url", "tiny", endpoint.tokenizer)


def test_a_model_that_is_not_served(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match=r"does not serve dense\. It serves tiny"):
        EndpointScorer(endpoint.url, "dense", endpoint.tokenizer)


def test_an_answer_longer_than_what_is_served(endpoint: Endpoint) -> None:
    endpoint.max_model_len = 6
    asking = scorer(endpoint)
    assert len(asking.score([Answer((3, 4, 5, 6, 7), 1)])) == 1
    with pytest.raises(ConfigError, match="has 6 tokens, and tiny is served with 6"):
        asking.score([Answer((3, 4, 5, 6, 7, 8), 1)])


def swapped_tokenizer() -> Any:
    """The same words, two of them with each other's id."""
    names = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCABULARY))]
    names[40], names[41] = names[41], names[40]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_another_tokenizer_is_noticed(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="another tokenizer"):
        EndpointScorer(endpoint.url, "tiny", swapped_tokenizer())


@pytest.mark.parametrize(("status", "refused"), [(404, False), (405, False), (500, True)])
def test_an_endpoint_that_cannot_decode_is_believed(endpoint: Endpoint, status: int, refused: bool) -> None:
    endpoint.spoil["/detokenize"] = lambda _: (status, {"error": {"message": "no"}})
    if refused:
        with pytest.raises(ServingError, match="answered 500"):
            scorer(endpoint)
    else:
        assert scorer(endpoint).score([Answer((3, 4), 1)])


def test_a_key_is_sent_as_the_openai_client_sends_it(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str | None] = []
    from urllib import request

    real = request.urlopen

    def spy(asked: request.Request, **options: Any) -> Any:
        sent.append(asked.get_header("Authorization"))
        return real(asked, **options)

    monkeypatch.setattr(request, "urlopen", spy)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    scorer(endpoint)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    scorer(endpoint)
    assert set(sent[:2]) == {None} and set(sent[2:]) == {"Bearer k"}
