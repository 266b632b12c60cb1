"""Unigram and bigram losses: the baselines that a trained language model must beat by far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unigram_loss_nats(train: NDArray[np.int64], held_out: NDArray[np.int64], vocabulary: int) -> float:
    """Mean nats per token under add-one smoothed token frequencies."""
    return float(-np.log(_unigram(train, vocabulary)[held_out]).mean())


def bigram_loss_nats(train: NDArray[np.int64], held_out: NDArray[np.int64], vocabulary: int) -> float:
    """Mean nats per token after the first, bigrams interpolated with unigrams.

    Source: Witten & Bell 1991, method C: the weight of the unigram after history h is N1+(h) / (c(h) + N1+(h)),
    where N1+(h) is the number of distinct tokens seen after h.
    """
    pairs = train[:-1] * vocabulary + train[1:]
    counts = np.bincount(pairs, minlength=vocabulary * vocabulary).reshape(vocabulary, vocabulary)
    history, distinct = counts.sum(axis=1), (counts > 0).sum(axis=1)
    before, after = held_out[:-1], held_out[1:]
    unigram = _unigram(train, vocabulary)
    weight = np.where(distinct > 0, distinct, 1)  # an unseen history falls back to the unigram
    joint = counts[before, after] + weight[before] * unigram[after]
    return float(-np.log(joint / (history[before] + weight[before])).mean())


def _unigram(train: NDArray[np.int64], vocabulary: int) -> NDArray[np.float64]:
    counts = np.bincount(train, minlength=vocabulary) + 1.0
    return np.asarray(counts / counts.sum(), dtype=np.float64)
