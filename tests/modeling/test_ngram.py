"""The baselines by hand."""

from __future__ import annotations

import numpy as np
import pytest

from modeling.ngram import bigram_loss_nats, unigram_loss_nats


def test_unigram_by_hand() -> None:
    train = np.array([0, 0, 0, 1])  # add-one over 3 symbols: 4/7, 2/7, 1/7
    held_out = np.array([0, 2])
    assert unigram_loss_nats(train, held_out, 3) == pytest.approx(-(np.log(4 / 7) + np.log(1 / 7)) / 2)


def test_bigram_by_hand() -> None:
    train = np.array([0, 1, 0, 1, 0])  # after 0: {1: 2}; after 1: {0: 2}; unigram 4/8, 3/8, 1/8
    held_out = np.array([0, 1, 2])
    first = (2 + 1 * 3 / 8) / (2 + 1)
    second = (0 + 1 * 1 / 8) / (2 + 1)
    assert bigram_loss_nats(train, held_out, 3) == pytest.approx(-(np.log(first) + np.log(second)) / 2)


def test_bigram_probabilities_sum_to_one() -> None:
    draw = np.random.default_rng(0)
    train = draw.integers(0, 5, 200)
    for history in range(5):
        losses = [bigram_loss_nats(train, np.array([history, after]), 5) for after in range(5)]
        assert np.exp(-np.array(losses)).sum() == pytest.approx(1)


def test_bigram_falls_back_after_an_unseen_history() -> None:
    train = np.array([0, 1, 0])
    assert bigram_loss_nats(train, np.array([2, 0]), 3) == pytest.approx(unigram_loss_nats(train, np.array([0]), 3))


def test_bigram_beats_unigram_on_dependent_text() -> None:
    train = np.tile(np.array([0, 1, 2]), 100)
    assert bigram_loss_nats(train, train, 3) < 0.2 < unigram_loss_nats(train, train, 3)
