"""How well a checkpoint still predicts text, and how far it moved from the model it was made of.

Protocol: each document of the text is cut into windows of `length_tokens`, a BOS in front of each if the tokenizer has
one, and every token after a window's first is predicted from what stands before it in the window. The loss is the mean
negative log likelihood of those tokens. With a reference, KL(reference || model) and the Jensen-Shannon divergence over
the whole vocabulary and the share of equal most likely tokens are means over the same positions. Jensen-Shannon is the
mean of both distributions' KL to their midpoint (Lin 1991, "Divergence measures based on the Shannon entropy", with
equal weights): symmetric, and at most ln 2 even where the model gives no probability at all to a likely token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.progress import Progress, silent
from artifacts.variant import QualityRecord
from compressors.request import Device
from compressors.source import load_model, load_tokenizer, open_source
from compressors.text import TextCorpus, encode_documents, read_corpus, window_prefix

COMPARED = frozenset({"kl_nats", "js_nats", "top1_agreement"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """`max_tokens` stops after that many predicted tokens; the text's order decides which. Computes on `device`."""

    model: Path
    text: Path
    reference: Path | None = None
    length_tokens: int = 512
    max_tokens: int | None = None
    device: Device = "cpu"


class Evaluation(Document):
    """Means over `tokens` predicted tokens, in nats."""

    loss_nats: float
    standard_error_nats: float | None = Field(default=None, description="of the loss; null for a single window")
    perplexity: float
    tokens: int
    length_tokens: int
    corpus: str
    corpus_sha256: str
    kl_nats: float | None = Field(description="mean KL(reference || model); null without a reference")
    js_nats: float | None = Field(description="mean Jensen-Shannon divergence, in [0, ln 2]; null without a reference")
    top1_agreement: float | None = Field(description="share of positions with the same most likely token")

    def records(self, reference: str | None = None) -> tuple[QualityRecord, ...]:
        """The values as a manifest's quality entries; `reference` names the model the last three compare with."""
        measured = {
            "loss_nats": self.loss_nats,
            "perplexity": self.perplexity,
            "kl_nats": self.kl_nats,
            "js_nats": self.js_nats,
            "top1_agreement": self.top1_agreement,
        }
        return tuple(
            QualityRecord(
                metric=metric,
                value=value,
                corpus=self.corpus,
                corpus_sha256=self.corpus_sha256,
                length_tokens=self.length_tokens,
                tokens=self.tokens,
                reference=reference if metric in COMPARED else None,
            )
            for metric, value in measured.items()
            if value is not None
        )


@dataclass(slots=True)
class Sums:
    """Running sums over predicted tokens."""

    tokens: int = 0
    loss_nats: float = 0.0
    kl_nats: float = 0.0
    js_nats: float = 0.0
    agreements: int = 0


def evaluate(request: EvaluationRequest, progress: Progress = silent) -> Evaluation:
    """Raises ConfigError for a missing or too short text and for a reference with another vocabulary, and what loading
    the models raises."""
    corpus = read_corpus(request.text)
    open_source(str(request.model))
    tokenizer = load_tokenizer(request.model)
    windows = evaluation_windows(tokenizer, corpus, request.length_tokens, request.max_tokens)
    model = load_model(request.model)
    reference = None if request.reference is None else _load_reference(request.reference, model, tokenizer)
    for each in (model, reference):
        if each is not None:
            each.to(request.device)
    sums = []
    with torch.inference_mode():
        for done, window in enumerate(windows):
            progress("evaluate", done, len(windows))
            sums.append(Sums())
            add_window(sums[-1], model, reference, torch.tensor([window], device=request.device))
    progress("evaluate", len(windows), len(windows))
    return _evaluation(sums, request, corpus)


def evaluation_windows(
    tokenizer: Any, corpus: TextCorpus, length_tokens: int, max_tokens: int | None
) -> list[list[int]]:
    """Token ids of all windows, the last cut so that at most `max_tokens` tokens are predicted in all.

    Raises ConfigError if the length or the text leaves nothing to predict.
    """
    if length_tokens < 2 or (max_tokens is not None and max_tokens < 1):
        raise ConfigError(
            f"length {length_tokens} with at most {max_tokens} tokens predicts nothing. Give 2 and 1 or more."
        )
    windows: list[list[int]] = []
    left = math.inf if max_tokens is None else max_tokens
    for window in _cut(encode_documents(tokenizer, corpus), window_prefix(tokenizer), length_tokens):
        if left < 1:
            break
        windows.append(window[: int(min(len(window), left + 1))])
        left -= len(windows[-1]) - 1
    if not windows:
        raise ConfigError(f"{corpus.name} is too short: no token of it can be predicted. Give more text.")
    return windows


def add_window(sums: Sums, model: Any, reference: Any | None, window: Tensor) -> None:
    """Adds the predicted tokens of one window [1, tokens] of ids."""
    targets = window[0, 1:]
    log_probs = _log_probs(model, window)
    sums.tokens += len(targets)
    sums.loss_nats -= float(log_probs.gather(1, targets[:, None]).double().sum())
    if reference is not None:
        wanted = _log_probs(reference, window)
        sums.kl_nats += _kl_sum(wanted, log_probs)
        midpoint = torch.logaddexp(wanted, log_probs) - math.log(2)
        sums.js_nats += (_kl_sum(wanted, midpoint) + _kl_sum(log_probs, midpoint)) / 2
        sums.agreements += int((wanted.argmax(dim=1) == log_probs.argmax(dim=1)).sum())


def _kl_sum(log_p: Tensor, log_q: Tensor) -> float:
    """Sum over positions of KL(p || q); both [positions, vocabulary]."""
    return float((log_p.exp() * (log_p - log_q)).double().sum())


def _log_probs(model: Any, window: Tensor) -> Tensor:
    """[predicted tokens, vocabulary] in float32."""
    logits: Tensor = model(input_ids=window[:, :-1], use_cache=False).logits[0]
    return logits.float().log_softmax(dim=1)


def _cut(documents: list[list[int]], prefix: list[int], length_tokens: int) -> Iterator[list[int]]:
    own = length_tokens - len(prefix)
    for ids in documents:
        for start in range(0, len(ids), own):
            window = prefix + ids[start : start + own]
            if len(window) >= 2:
                yield window


def _load_reference(folder: Path, model: Any, tokenizer: Any) -> Any:
    open_source(str(folder))
    reference = load_model(folder)
    same_size = reference.config.vocab_size == model.config.vocab_size
    if not same_size or load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"{folder} has another vocabulary than the model. Compare models of one tokenizer.")
    return reference


def standard_error_nats(windows: Sequence[Sums]) -> float | None:
    """Of the mean loss a token, None for one window (Cochran, Sampling Techniques, 3rd ed. 1977, eq. 6.9).

    Windows are drawn, not tokens: those of one window are as hard as each other. The mean is a ratio of two sums over
    windows, so what varies is a window's loss about what its number of tokens would have given it.
    """
    if len(windows) < 2:
        return None
    tokens = sum(window.tokens for window in windows)
    mean = sum(window.loss_nats for window in windows) / tokens
    squares = sum((window.loss_nats - mean * window.tokens) ** 2 for window in windows)
    return math.sqrt(squares * len(windows) / (len(windows) - 1)) / tokens


def _total(windows: Sequence[Sums]) -> Sums:
    return Sums(**{field.name: sum(getattr(each, field.name) for each in windows) for field in fields(Sums)})


def _evaluation(windows: Sequence[Sums], request: EvaluationRequest, corpus: TextCorpus) -> Evaluation:
    sums = _total(windows)
    loss_nats = sums.loss_nats / sums.tokens
    compared = request.reference is not None
    return Evaluation(
        loss_nats=loss_nats,
        standard_error_nats=standard_error_nats(windows),
        perplexity=math.exp(loss_nats) if loss_nats < 700 else math.inf,
        tokens=sums.tokens,
        length_tokens=request.length_tokens,
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        kl_nats=sums.kl_nats / sums.tokens if compared else None,
        js_nats=sums.js_nats / sums.tokens if compared else None,
        top1_agreement=sums.agreements / sums.tokens if compared else None,
    )
