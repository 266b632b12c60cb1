"""How likely a model finds given answers: the one question a task asks, and its answer by Transformers.

A way of scoring sees token ids alone. Two ways that compute the same function then give the same score, whatever they
think of tokenizers. `compressors.endpoint` is the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

# Elements of one batch's logits: 128 MiB of float32.
_MAX_LOGITS = 1 << 25
_MAX_BATCH_TOKENS = 1 << 13

Through = Literal["transformers", "endpoint"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids, of which the last `scored` are the answer and those before it the context (at least one)."""

    ids: tuple[int, ...]
    scored: int


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Sum of the answer's log-probabilities, and whether each of its tokens was the most likely one."""

    log_likelihood_nats: float
    greedy: bool


class Scorer(Protocol):
    """A way of scoring. `batch_tokens` bounds rows x longest row of what `score` is given at once."""

    through: Through
    batch_tokens: int

    def score(self, answers: Sequence[Answer]) -> list[Likelihood]: ...

    def generate(self, ids: Sequence[int], stops: Sequence[str], max_new_tokens: int) -> str: ...


class TransformersScorer:
    """Scores with a loaded model, in its own type and on its own device."""

    through: Through = "transformers"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.batch_tokens = max(1, min(_MAX_BATCH_TOKENS, _MAX_LOGITS // int(model.config.vocab_size)))

    def score(self, answers: Sequence[Answer]) -> list[Likelihood]:
        """Rows are filled up at the right: a causal model's earlier positions do not see what follows."""
        longest = max(len(answer.ids) for answer in answers)
        rows = torch.tensor([[*answer.ids, *[0] * (longest - len(answer.ids))] for answer in answers])
        first = min(len(answer.ids) - answer.scored for answer in answers) - 1
        with torch.inference_mode():
            logits = self._model(
                input_ids=rows[:, :-1].to(self._model.device), use_cache=False, logits_to_keep=longest - 1 - first
            ).logits
        return [_likelihood(logits[row, -(longest - 1 - first) :].cpu(), first, a) for row, a in enumerate(answers)]

    def generate(self, ids: Sequence[int], stops: Sequence[str], max_new_tokens: int) -> str:
        """The most likely continuation, up to the model's end or the first of `stops`, which is left out."""

        def text_of(rows: Tensor) -> str:
            text: str = self._tokenizer.decode(rows[0, len(ids) :], skip_special_tokens=True)
            return text

        def has_stop(rows: Tensor, _: object) -> Tensor:
            return torch.tensor([any(stop in text_of(rows) for stop in stops if stop)], device=rows.device)

        with torch.inference_mode():
            rows = self._model.generate(
                input_ids=torch.tensor([list(ids)], device=self._model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                # The library's own `stop_strings` cannot read every tokenizer's vocabulary.
                stopping_criteria=StoppingCriteriaList([has_stop]),
                pad_token_id=0,
            )
        return cut_at(text_of(rows), stops)


def _likelihood(logits: Tensor, first: int, answer: Answer) -> Likelihood:
    """`logits` [positions, V] begin at the position that predicts token `first` + 1."""
    begin = len(answer.ids) - answer.scored - 1 - first
    log_probs = logits[begin : begin + answer.scored].float().log_softmax(dim=1)
    targets = torch.tensor(answer.ids[-answer.scored :])
    chosen = log_probs.gather(1, targets[:, None])
    return Likelihood(float(chosen.double().sum()), bool((log_probs.argmax(dim=1) == targets).all()))


def batches(answers: Sequence[Answer], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of `answers`, longest first, in batches of at most `batch_tokens` (but at least one row)."""
    order = sorted(range(len(answers)), key=lambda index: (-len(answers[index].ids), answers[index].ids))
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // len(answers[order[start]].ids))
        yield order[start : start + rows]
        start += rows


def cut_at(text: str, stops: Sequence[str]) -> str:
    """What stands before the first of `stops`."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]
