"""How likely a *served* model finds given answers, asked through an OpenAI-compatible endpoint.

`/v1/completions` with a token-id prompt, `echo` and `logprobs` gives the log-probability of every prompt token. The ids
are echoed as well, and compared: a server that puts a token of its own in front would answer another question.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from artifacts.errors import ConfigError, ServingError
from compressors.scoring import Answer, Likelihood, Through, cut_at

_BATCH_TOKENS = 1 << 13
_TIMEOUT_S = 600
_ID_MARK = "token_id:"
# The share of the vocabulary that is decoded on both sides to see whether ids mean the same.
_PROBED_IDS = 256


class EndpointScorer:
    """Scores with the model that `url` serves as `model`.

    Raises ConfigError if nothing answers there, the model is not served, or its ids decode to other text than
    `tokenizer`'s.
    """

    through: Through = "endpoint"
    batch_tokens = _BATCH_TOKENS

    def __init__(self, url: str, model: str, tokenizer: Any) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._served_tokens = self._find_model()
        self._require_same_tokenizer(tokenizer)

    def score(self, answers: Sequence[Answer]) -> list[Likelihood]:
        """Raises ConfigError if an answer is longer than what is served, ServingError for an answer without the
        prompt's log-probabilities and for a request that the endpoint refuses."""
        longest = max(len(answer.ids) for answer in answers)
        if self._served_tokens is not None and longest >= self._served_tokens:
            raise ConfigError(
                f"An answer with its context has {longest} tokens, and {self._model} is served with "
                f"{self._served_tokens}, one of them for output. Serve it with a larger max_model_len."
            )
        body = {
            "prompt": [list(answer.ids) for answer in answers],
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
        }
        choices = sorted(self._complete(body), key=lambda choice: int(choice["index"]))
        if len(choices) != len(answers):
            raise ServingError(f"{self._url} answered {len(choices)} of {len(answers)} prompts. Look at its log.")
        return [self._likelihood(answer, choice) for answer, choice in zip(answers, choices, strict=True)]

    def generate(self, ids: Sequence[int], stops: Sequence[str], max_new_tokens: int) -> str:
        """The most likely continuation, up to the model's end or the first of `stops`, which is left out."""
        body = {
            "prompt": list(ids),
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "stop": [stop for stop in stops if stop] or None,
        }
        return cut_at(str(self._complete(body)[0]["text"]), stops)

    def _complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = self._ask("/v1/completions", {"model": self._model, **body})["choices"]
        return choices

    def _likelihood(self, answer: Answer, choice: dict[str, Any]) -> Likelihood:
        logprobs = choice.get("logprobs") or {}
        tokens, chosen = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
        end, begin = len(answer.ids), len(answer.ids) - answer.scored
        if len(tokens) < end or len(chosen) < end or None in chosen[begin:end]:
            raise ServingError(
                f"{self._url} gives no log-probabilities of the prompt for {self._model}. Tasks need a server whose "
                "/v1/completions supports echo with logprobs, as vLLM's does."
            )
        if any(_echoed_id(token) not in (None, wanted) for token, wanted in zip(tokens, answer.ids, strict=False)):
            raise ServingError(f"{self._url} scored other tokens than it was sent. Serve {self._model} with vLLM.")
        tops = (logprobs.get("top_logprobs") or [None] * end)[begin:end]
        return Likelihood(
            sum(chosen[begin:end]),
            all(
                value >= max((top or {"": value}).values()) for value, top in zip(chosen[begin:end], tops, strict=True)
            ),
        )

    def _find_model(self) -> int | None:
        """The served context length, where the endpoint tells it."""
        entries = {entry["id"]: entry for entry in self._ask("/v1/models")["data"]}
        if self._model not in entries:
            raise ConfigError(f"{self._url} does not serve {self._model}. It serves {', '.join(entries) or 'nothing'}.")
        length: int | None = entries[self._model].get("max_model_len")
        return length

    def _require_same_tokenizer(self, tokenizer: Any) -> None:
        """Compares what ids spread over the vocabulary decode to; white space aside, which tokenizers trim in their
        own ways. An endpoint without /detokenize cannot be asked."""
        ids = list(range(0, len(tokenizer), max(1, len(tokenizer) // _PROBED_IDS)))
        try:
            theirs = str(self._ask("/detokenize", {"model": self._model, "tokens": ids})["prompt"])
        except ServingError as error:
            if error.status in (404, 405, 501):
                return
            raise
        if "".join(theirs.split()) != "".join(tokenizer.decode(ids).split()):
            raise ConfigError(
                f"{self._model} at {self._url} has another tokenizer than the folder. Give its own folder."
            )

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self._url + path, data=data, headers=headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ServingError(
                f"{self._url}{path} answered {error.code} ({_reason(error)}).", status=error.code
            ) from error
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self._url} cannot be asked ({error}). Start the server, or correct the URL."
            ) from error
        if not isinstance(answer, dict):
            raise ConfigError(f"{self._url}{path} is no OpenAI-compatible endpoint. Correct the URL.")
        return answer


def _reason(error: urllib.error.HTTPError) -> str:
    """The message of OpenAI's error envelope, or the status's own phrase."""
    try:
        return " ".join(str(json.load(error)["error"]["message"]).split())[:300]
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


def _echoed_id(token: str) -> int | None:
    """None where a server echoes text although ids were wanted."""
    return int(token.removeprefix(_ID_MARK)) if token.startswith(_ID_MARK) else None
