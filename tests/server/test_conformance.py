"""Does the endpoint speak OpenAI's protocol? The official client decides, on the simulator and on real vLLM alike."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from serving_process import Serving

PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture
def client(endpoint: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["dense", "pruned"])
def test_completion_has_text_and_exact_usage(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
    assert answer.model == model
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


@pytest.mark.parametrize("model", ["dense", "pruned"])
def test_streamed_completion_equals_the_whole_one(client: openai.OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_token_ids_count_exactly(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="dense", prompt=[5, 6, 7, 8, 9], max_tokens=3, temperature=0)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)


def test_completion_logprobs_are_one_per_token(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="dense", prompt=PROMPT, max_tokens=4, temperature=0, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 4
    assert all(value is not None and value <= 0 for value in logprobs.token_logprobs)


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="dense", messages=MESSAGES, max_tokens=5, temperature=0)
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_streamed_chat_equals_the_whole_one(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="dense", messages=MESSAGES, max_tokens=6, temperature=0)
    stream = client.chat.completions.create(model="dense", messages=MESSAGES, max_tokens=6, temperature=0, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content


def test_chat_logprobs_are_one_per_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="dense", messages=MESSAGES, max_tokens=3, temperature=0, logprobs=True, top_logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 3
    assert all(len(token.top_logprobs) == 1 for token in logprobs.content)


def test_models_lists_every_variant_as_ready(client: openai.OpenAI, endpoint: Serving) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"dense", "pruned"} <= set(listed) == set(endpoint.states())
    assert {model.to_dict()["prunebench"]["state"] for model in listed.values()} == {"ready"}  # type: ignore[index]
    assert client.models.retrieve("pruned").id == "pruned"


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model_is_not_found_and_names_the_known(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-9", prompt=PROMPT, stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "dense, pruned" in str(caught.value)


MALFORMED = [
    (b"{", "cut off in the middle"),
    (b"", "empty"),
    (b"[1, 2]", "a list"),
    (b'"dense"', "a string"),
    (b'{"prompt": "x"}', "no model"),
    (b'{"model": 7, "prompt": "x"}', "a model that is no string"),
    (b"\xff\xfe{}", "not UTF-8"),
    (b"[" * 40_000, "nested too deeply"),
]


@pytest.mark.parametrize(("body", "what"), MALFORMED, ids=[what for _, what in MALFORMED])
def test_malformed_body_is_a_bad_request_with_the_envelope(endpoint: Serving, body: bytes, what: str) -> None:
    answer = endpoint.client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, what
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_worker_refusal_comes_through_as_it_is(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="dense", prompt=PROMPT, max_tokens=-1)
