"""The method as the pipeline meets it: planted structure that only a second-order, iterated selection sees."""

from __future__ import annotations

import pytest
import torch
from coupled import evidence_of, ffn_group, gaussian, kv_group, linear, statistics_of
from tiny_models import build_model, random_windows
from torch import Tensor

from artifacts.errors import CompressionError
from compressors.compensation import damping_share, refit_consumer
from compressors.methods import REGISTRY, obs, wanda_sp
from compressors.methods.obs import ObsConfig
from compressors.plan import LayerBudget
from compressors.resident import prune_resident
from compressors.second_order import signed_sums
from compressors.sequential import PruningJob

CONFIG = ObsConfig()


@pytest.fixture
def no_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactness needs next to no pull towards the sliced weights."""
    monkeypatch.setattr("compressors.compensation.DAMPING", 1e-9)
    monkeypatch.setattr("compressors.compensation.DAMPING_PER_COLUMN", 0.0)


@pytest.mark.usefixtures("no_ridge")
def test_a_linear_dependency_is_found_that_wanda_takes_for_important() -> None:
    """40 = 2 c3 - c7 is large, so Wanda-sp keeps it to the end; the surgeon's three cheapest are 3, 7 and 40."""
    inputs = gaussian(1000, 48)
    inputs[:, 40] = 2 * inputs[:, 3] - inputs[:, 7]
    group = ffn_group(gaussian(16, 48, seed=1))
    untouched = evidence_of(group, inputs, most_removed=0)
    assert set(obs.rank(CONFIG, untouched).order[:3]) == {3, 7, 40}
    assert wanda_sp.rank(wanda_sp.WandaSpConfig(), untouched).order.index(40) >= 44


@pytest.mark.usefixtures("no_ridge")
def test_the_second_of_two_twins_stays() -> None:
    inputs, consumer = gaussian(1000, 48), gaussian(16, 48, seed=1)
    inputs[:, 1] = inputs[:, 0]
    consumer[:, :2] *= 5
    ranking = obs.rank(CONFIG, evidence_of(ffn_group(consumer), inputs, most_removed=47))
    assert {ranking.order[0], ranking.order[-1]} == {0, 1}


@pytest.mark.usefixtures("no_ridge")
def test_of_twin_kv_groups_only_one_goes() -> None:
    """Four groups of six columns; group 3 repeats group 1 and both are large."""
    inputs, consumer = gaussian(600, 24), gaussian(9, 24, seed=1)
    inputs[:, 18:24] = inputs[:, 6:12]
    consumer[:, 6:12] *= 4
    ranking = obs.rank(CONFIG, evidence_of(kv_group(consumer, 6), inputs, most_removed=3))
    assert ranking.order[0] in {1, 3} and ranking.order[-1] in {1, 3}


def test_costs_are_what_the_repair_will_lose() -> None:
    """Summed over the removed prefix, a cost is the growth of the objective that the refit then attains."""
    inputs, wanted = gaussian(500, 30), gaussian(500, 7, seed=3)
    group = ffn_group(gaussian(7, 30, seed=1))
    evidence = evidence_of(group, inputs, wanted, most_removed=12)
    ranking = obs.rank(CONFIG, evidence)
    ridge = damping_share(18, 500) * float(inputs.square().sum() / 30)
    base = group.consumer.weight

    def best(kept: Tensor) -> float:
        gram, cross = inputs[:, kept].T @ inputs[:, kept], wanted.T @ inputs[:, kept]
        pulled = gram + ridge * torch.eye(len(kept), dtype=torch.float64)
        weights = torch.zeros_like(base)
        weights[:, kept] = torch.linalg.solve(pulled, (cross + ridge * base[:, kept]).T).T
        return float((inputs @ weights.T - wanted).square().sum() + ridge * (weights - base).square().sum())

    grown = best(torch.tensor(ranking.kept(18))) - best(torch.arange(30))
    assert float(ranking.costs[list(ranking.order[:12])].sum()) == pytest.approx(grown, rel=1e-8)


def test_the_target_decides_what_is_superfluous() -> None:
    """The stream behind the layer does not want what channel 4 writes: only the dense target sees that."""
    inputs, consumer = gaussian(800, 20), gaussian(6, 20, seed=1)
    consumer[:, 4] *= 3
    silenced = consumer.clone()
    silenced[:, 4] = 0
    evidence = evidence_of(ffn_group(consumer), inputs, inputs @ silenced.T, most_removed=5)
    assert 4 in obs.rank(ObsConfig(target="dense"), evidence).order[:5]
    assert obs.rank(ObsConfig(target="own"), evidence).order[-1] == 4


def test_dead_channels_go_first_and_cost_nothing() -> None:
    inputs = gaussian(300, 12)
    inputs[:, [2, 9]] = 0
    ranking = obs.rank(CONFIG, evidence_of(ffn_group(gaussian(4, 12, seed=1) * 50), inputs, most_removed=6))
    assert set(ranking.order[:2]) == {2, 9}
    assert ranking.costs[[2, 9]].tolist() == [0.0, 0.0] and float(ranking.costs.sort().values[2]) > 0


def test_a_layer_without_any_signal_has_no_preference() -> None:
    ranking = obs.rank(CONFIG, evidence_of(ffn_group(gaussian(4, 6, seed=1)), torch.zeros(50, 6).double()))
    assert sorted(ranking.order) == list(range(6)) and not bool(ranking.costs.any())


def test_activations_that_are_not_finite_are_reported() -> None:
    inputs = gaussian(100, 6)
    inputs[7, 3] = float("nan")
    with pytest.raises(CompressionError, match="not finite"):
        obs.rank(CONFIG, evidence_of(ffn_group(gaussian(4, 6, seed=1)), inputs))


def test_repeated_text_makes_a_singular_gram_matrix_and_still_an_order() -> None:
    inputs = gaussian(5, 30).repeat(40, 1)
    ranking = obs.rank(CONFIG, evidence_of(ffn_group(gaussian(4, 30, seed=1)), inputs, most_removed=29))
    assert sorted(ranking.order) == list(range(30)) and bool(torch.isfinite(ranking.costs).all())


def test_ranking_changes_nothing() -> None:
    group, inputs = ffn_group(gaussian(4, 20, seed=1)), gaussian(200, 20)
    evidence = evidence_of(group, inputs)
    statistics = evidence.required_statistics
    assert statistics.gram is not None and statistics.cross is not None
    tensors = (group.consumer.weight, statistics.gram, statistics.cross, statistics.energy)
    before = [tensor.clone() for tensor in tensors]
    first, again = obs.rank(CONFIG, evidence), obs.rank(CONFIG, evidence)
    assert all(torch.equal(*pair) for pair in zip(before, tensors, strict=True))
    assert first.order == again.order


def repaired_error(order: tuple[int, ...], inputs: Tensor, weight: Tensor, kept_count: int) -> float:
    """Squared error of the consumer after cutting along `order` and refitting."""
    kept = torch.tensor(sorted(order[-kept_count:]))
    consumer = linear(weight[:, kept])
    wanted = inputs @ weight.T
    refit_consumer(consumer, statistics_of(inputs, wanted), kept)
    return float((inputs[:, kept] @ consumer.weight.T - wanted).square().sum())


def test_after_the_repair_no_other_selector_is_as_good() -> None:
    """Correlated inputs, half of the channels gone, the same repair behind every selector."""
    inputs = gaussian(2000, 64) @ (gaussian(64, 64, seed=4) * torch.linspace(0.1, 2, 64))
    weight = gaussian(16, 64, seed=1)
    evidence = evidence_of(ffn_group(weight), inputs, most_removed=32)
    errors = {}
    for name in ("random", "magnitude", "wanda_sp", "flap", "modegpt_mlp", "obs"):
        method = REGISTRY.named(name)
        assert method.rank_width is not None
        errors[name] = repaired_error(method.rank_width(method.config, evidence).order, inputs, weight, 32)
    best = errors.pop("obs")
    assert all(best < 0.96 * error for error in errors.values()), (best, errors)


@pytest.mark.parametrize("family", ["llama", "llama-biased", "qwen3"])
def test_the_whole_way_through_a_model(family: str) -> None:
    model = build_model(family)
    widths = (LayerBudget(kv_groups=2, ffn_channels=30),) * 3
    job = PruningJob(method=obs.METHOD, units=("ffn", "kv"), allocation=widths, repair="ridge", seed=0)
    plan = prune_resident(model, job, random_windows(16, 24))
    assert [len(layer.ffn_channels) for layer in plan.layers] == [30] * 3
    assert [len(layer.kv_groups) for layer in plan.layers] == [2] * 3
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_sums_of_rows_keep_norms_on_average_and_relations_exactly() -> None:
    """33 rows as 9 sums of four: unbiased over many draws, and a dependent column stays dependent in each."""
    rows = gaussian(33, 6)
    rows[:, 5] = 2 * rows[:, 0] - rows[:, 3]
    norms = torch.zeros(6, dtype=torch.float64)
    for seed in range(4000):
        sums = signed_sums(rows, 10, torch.Generator().manual_seed(seed))
        assert sums.shape == (9, 6) and torch.allclose(sums[:, 5], 2 * sums[:, 0] - sums[:, 3])
        norms += sums.square().sum(dim=0) / 4000
    assert torch.allclose(norms, rows.square().sum(dim=0), rtol=0.05)


def test_as_many_rows_as_may_be_are_looked_at_one_by_one() -> None:
    rows = gaussian(8, 5)
    assert signed_sums(rows, 8, torch.Generator()) is rows


def test_sums_of_rows_choose_nearly_as_all_rows_do() -> None:
    """256 rows as 64 sums: most of 60 removals are the same, and the repair loses at most 3 % more."""
    inputs = gaussian(600, 120) @ gaussian(120, 120, seed=2)
    group = ffn_group(gaussian(256, 120, seed=5) * torch.linspace(0.2, 2, 120, dtype=torch.float64))
    kept, lost = [], []
    for most in (256, 64):
        evidence = evidence_of(group, inputs, most_removed=60)
        kept.append(obs.rank(ObsConfig(most_rows=most), evidence).kept(60))
        consumer = linear(group.consumer.weight[:, list(kept[-1])])
        statistics = evidence.required_statistics
        refit_consumer(consumer, statistics, torch.tensor(kept[-1]))
        wrong = inputs @ group.consumer.weight.T - inputs[:, list(kept[-1])] @ consumer.weight.T
        lost.append(float(wrong.square().sum()))
    assert 50 <= len(set(kept[0]) & set(kept[1])) < 60
    assert lost[0] < lost[1] <= 1.03 * lost[0]
