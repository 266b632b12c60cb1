"""Repair brings back what a linear combination of the survivors can say, and does no harm where it cannot."""

from __future__ import annotations

import pytest
import torch
from coupled import gaussian, statistics_of
from tiny_models import build_model, logits_of, random_windows
from torch import Tensor, nn

from artifacts.errors import CompressionError
from compressors.arch import LayerView, ModelView
from compressors.compensation import refit_consumer, solve_ridge
from compressors.plan import LayerBudget, Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence
from compressors.repair import Repair
from compressors.resident import prune_resident
from compressors.sequential import PruningJob

TINY_DAMPING = 1e-10


def refitted(weight: Tensor, inputs: Tensor, kept: Tensor, damping: float | None) -> Tensor:
    """The consumer's new weights [rows, kept] when its wanted output is what it wrote before the cut."""
    consumer = nn.Linear(len(kept), len(weight), bias=False).double().requires_grad_(False)
    consumer.weight.copy_(weight[:, kept])
    refit_consumer(consumer, statistics_of(inputs, inputs @ weight.T), kept, damping=damping)
    return consumer.weight


def test_a_planted_linear_dependency_is_repaired_exactly() -> None:
    """Channel 40 is 2 c3 - c7: without it, plain slicing errs by a tenth and more, the refit by nothing."""
    inputs, weight = gaussian(1000, 48), gaussian(16, 48, seed=1)
    inputs[:, 40] = 2 * inputs[:, 3] - inputs[:, 7]
    kept = torch.tensor([channel for channel in range(48) if channel != 40])
    wanted = inputs @ weight.T
    new = refitted(weight, inputs, kept, TINY_DAMPING)
    error = (inputs[:, kept] @ new.T - wanted).norm() / wanted.norm()
    sliced_error = (inputs[:, kept] @ weight[:, kept].T - wanted).norm() / wanted.norm()
    assert error < 1e-8 and sliced_error > 0.1


def test_ridge_equals_the_normal_equations() -> None:
    inputs, wanted = gaussian(300, 12), gaussian(300, 5, seed=1)
    gram, cross, base = inputs.T @ inputs, wanted.T @ inputs, gaussian(5, 12, seed=2)
    ridge = 0.01 * gram.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    expected = base + torch.linalg.lstsq(gram + ridge, (cross - base @ gram).T).solution.T
    assert torch.allclose(solve_ridge(gram, cross, base, 0.01), expected, atol=1e-12)


def test_the_refit_is_the_least_squares_optimum() -> None:
    """No small step in any random direction lowers the reconstruction error."""
    inputs, weight = gaussian(500, 20), gaussian(8, 20, seed=1)
    kept = torch.arange(0, 20, 2)
    new, wanted = refitted(weight, inputs, kept, TINY_DAMPING), inputs @ weight.T
    best = (inputs[:, kept] @ new.T - wanted).square().sum()
    for seed in range(10):
        step = 1e-3 * gaussian(*new.shape, seed=seed)
        assert (inputs[:, kept] @ (new + step).T - wanted).square().sum() > best


def test_little_text_fades_into_slicing() -> None:
    """With fewer tokens than columns a refit can explain everything and knows nothing: it must stay near the slice."""
    inputs, weight = gaussian(2000, 40), gaussian(8, 40, seed=1)
    kept = torch.arange(0, 40, 2)
    sliced, fresh = weight[:, kept], gaussian(4000, 40, seed=2)

    def error(new: Tensor) -> float:
        return float((fresh[:, kept] @ new.T - fresh @ weight.T).norm())

    few = refitted(weight, inputs[:15], kept, None)
    free = refitted(weight, inputs[:15], kept, TINY_DAMPING)
    assert error(few) < 1.1 * error(sliced) < 0.8 * error(free)
    many = refitted(weight, inputs, kept, None)
    assert (many - sliced).norm() < (few - sliced).norm(), "independent inputs say nothing about each other"


def test_channels_without_signal_keep_their_weights() -> None:
    inputs, weight = gaussian(400, 6), gaussian(3, 6, seed=1)
    inputs[:, 2] = 0
    kept = torch.tensor([0, 2, 4])
    new = refitted(weight, inputs, kept, 0.01)
    assert torch.equal(new[:, 1], weight[:, 2])
    assert not torch.equal(new[:, 0], weight[:, 0])


def test_all_channels_dead_means_nothing_to_refit() -> None:
    weight = gaussian(3, 4)
    assert torch.equal(refitted(weight, torch.zeros(100, 4).double(), torch.tensor([1, 3]), 0.01), weight[:, [1, 3]])


def test_an_indefinite_gram_matrix_is_damped_until_it_can_be_solved() -> None:
    """Rounding may leave an eigenvalue below zero, here by a thousandth of the mean diagonal."""
    gram = torch.diag(torch.tensor([1.0, 1.0, -1e-3], dtype=torch.float64))
    ones = torch.ones(1, 3, dtype=torch.float64)
    solution = solve_ridge(gram, ones, 0 * ones, 1e-6)
    assert bool(torch.isfinite(solution).all()) and solution[0, 0] == pytest.approx(1.0, rel=0.02)


def test_a_hopeless_system_is_reported() -> None:
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(CompressionError, match="cannot be factorised"):
        solve_ridge(-torch.eye(3, dtype=torch.float64), zeros, zeros, 0.01)


def test_activations_that_are_not_finite_are_reported() -> None:
    inputs = gaussian(100, 4)
    inputs[3, 1] = float("inf")
    with pytest.raises(CompressionError, match="not finite"):
        refitted(gaussian(2, 4), inputs, torch.tensor([0, 1]), 0.01)


def _even_stay_longest(_config: object, evidence: WidthEvidence) -> Ranking:
    return rank_by_score([float(unit % 2 == 0) for unit in range(evidence.group.count)])


EVEN = Method(
    name="even", config=None, units=("ffn", "kv"), needs="nothing", paper="none", rank_width=_even_stay_longest
)


def make_twins(layer: LayerView) -> None:
    """Odd FFN channels and odd KV groups compute what the even ones before them do; only their consumers differ."""
    for unit in ("ffn", "kv"):
        for producer in layer.group(unit).producers:  # type: ignore[arg-type]
            for tensor in filter(lambda t: t is not None, (producer.linear.weight, producer.linear.bias)):
                pairs = tensor.view(-1, 2, producer.rows_per_unit, *tensor.shape[1:])
                pairs[:, 1] = pairs[:, 0]


@pytest.mark.parametrize("family", ["llama", "llama-biased", "qwen2", "qwen3"])
def test_twins_can_go_from_a_whole_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all channels and groups are copies: with next to no ridge the repair brings the logits back."""
    monkeypatch.setattr("compressors.compensation.DAMPING", 1e-8)
    monkeypatch.setattr("compressors.compensation.DAMPING_PER_COLUMN", 0.0)
    distances = {}
    for compensate in (True, False):
        model = build_model(family)
        for layer in ModelView(model).layers:
            make_twins(layer)
        expected = logits_of(model)
        halves = (LayerBudget(kv_groups=2, ffn_channels=24),) * 3
        repair: Repair = "ridge" if compensate else "none"
        job = PruningJob(method=EVEN, units=("ffn", "kv"), allocation=halves, repair=repair, seed=0)
        prune_resident(model, job, random_windows(64, 24))
        distances[compensate] = float((logits_of(model) - expected).norm() / expected.norm())
    assert distances[True] < 1e-3
    assert distances[False] > 0.1
