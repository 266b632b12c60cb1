"""A way of scoring as a language model of the evaluation harness.

Text becomes token ids here, once, by the folder's own tokenizer and by the harness's rules for causal models (special
tokens as the tokenizer adds them; BOS or else EOS before an empty context; a too long context loses its beginning).
Whatever computes the probabilities gets ids. Needs the `eval` extra: imported only when a task is asked for.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from artifacts.errors import ConfigError
from artifacts.progress import Progress
from compressors.scoring import Answer, Likelihood, Scorer, batches

_MAX_NEW_TOKENS = 256


class TokenModel(TemplateLM):
    """`name` stands in the progress. `limit_tokens` bounds context and answer together, `truncated` counts the requests
    that lost context to it, and `scored_tokens` the tokens whose probability was taken."""

    def __init__(self, name: str, scorer: Scorer, tokenizer: Any, limit_tokens: int, progress: Progress) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.limit_tokens = limit_tokens
        self.truncated = 0
        self.scored_tokens = 0
        self._stage = f"score {name}"
        self._scorer = scorer
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = bos is None or not string.startswith(bos)
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        answers = [self._answer(text, context, own) for text, context, own in requests]
        return [(found.log_likelihood_nats, found.greedy) for found in self._score(answers)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Each text in windows that predict every token once, as the harness's own models cut it."""
        windows = [
            (index, make_disjoint_window(window))
            for index, request in enumerate(requests)
            for window in get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.limit_tokens - 1, 1
            )
        ]
        found = self._score([Answer((*context, *own), len(own)) for _, (context, own) in windows])
        sums = [0.0] * len(requests)
        for (index, _), likelihood in zip(windows, found, strict=True):
            sums[index] += likelihood.log_likelihood_nats
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations. Raises ConfigError for a task that samples."""
        texts = []
        for done, request in enumerate(requests):
            self._progress(self._stage, done, len(requests))
            texts.append(self._generate(*request.args))
        self._progress(self._stage, len(requests), len(requests))
        return texts

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        if settings.get("do_sample") or settings.get("temperature"):
            raise ConfigError("The task samples its answers. Only greedy answers are the same through both ways.")
        until = settings.get("until") or []
        wanted = int(settings.get("max_gen_toks") or _MAX_NEW_TOKENS)
        new_tokens = min(wanted, self.limit_tokens // 2)
        ids = self.tok_encode(context) if context else [self.prefix_token_id]
        room = self.limit_tokens - new_tokens
        self.truncated += len(ids) > room
        return self._scorer.generate(ids[-room:], [until] if isinstance(until, str) else until, new_tokens)

    def _answer(self, text: tuple[str, str], context: list[int], own: list[int]) -> Answer:
        if not 0 < len(own) < self.limit_tokens:
            raise ConfigError(
                f"The answer {text[1][:80]!r} has {len(own)} tokens; a context of {self.limit_tokens} has room for "
                f"1 to {self.limit_tokens - 1}. Leave it out of the task."
            )
        ids = (*context, *own)[-self.limit_tokens :]
        self.truncated += len(ids) < len(context) + len(own)
        return Answer(ids, len(own))

    def _score(self, answers: list[Answer]) -> list[Likelihood]:
        found: dict[int, Likelihood] = {}
        for batch in batches(answers, self._scorer.batch_tokens):
            self._progress(self._stage, len(found), len(answers))
            found.update(zip(batch, self._scorer.score([answers[index] for index in batch]), strict=True))
        self._progress(self._stage, len(answers), len(answers))
        self.scored_tokens += sum(answer.scored for answer in answers)
        return [found[index] for index in range(len(answers))]
