"""Steady series pass, warm-ups, trends and growing queues are seen, and Little's law balances what balances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from artifacts.run import RequestRecord, Steadiness, Window
from loadtest.gates import DRIFT_LIMIT
from loadtest.stationarity import littles_law, mean_residual, mser5_cut, steadiness, sure_part

MakeRecord = Callable[..., RequestRecord]
Latency = Callable[[np.random.Generator, np.ndarray], np.ndarray]
BLOCKS, REQUESTS = 8, 60


def noise(generator: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    return generator.lognormal(0, 0.4, len(phase))


def steady(generator: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    return 0.02 * noise(generator, phase)


def warming(generator: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    return steady(generator, phase) * (1 + 2 * np.exp(-phase / 0.15))


def drifting(generator: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    return steady(generator, phase) * (1 + phase)


def saturating(generator: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Arrivals at twice the rate of service: who comes at t waits for half of all before."""
    return steady(generator, phase) + phase / 2


def correlated(generator: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Steady, but with the memory of a queue: an autoregression of 0.9 on the log scale."""
    state, values = 0.0, []
    for shock in generator.normal(0, 0.2, len(phase)):
        state = 0.9 * state + shock
        values.append(0.02 * np.exp(state))
    return np.array(values)


def seen(make_record: MakeRecord, latency: Latency, seed: int, blocks: int = BLOCKS) -> Steadiness:
    generator, records = np.random.default_rng(seed), []
    for block in range(blocks):
        phase = np.sort(generator.random(REQUESTS))
        for at, first in zip(phase, latency(generator, phase), strict=True):
            begin = 10 * block + at
            records.append(make_record(begin, block=block, event_s=(begin + first,)))
    windows = [Window(arm=0, block=b, start_s=10 * b, end_s=10 * b + 1) for b in range(blocks)]
    return next(s for s in steadiness(records, windows) if s.signal == "ttft")


@pytest.mark.parametrize(
    ("latency", "blocks", "most"),
    [
        pytest.param(steady, 1, 1, id="independent, one block"),
        pytest.param(steady, BLOCKS, 0, id="independent"),
        pytest.param(correlated, BLOCKS, 0, id="a queue's memory"),
        pytest.param(correlated, 1, 6, id="a queue's memory, one block: nothing tells it from a trend for sure"),
    ],
)
def test_a_steady_load_passes(make_record: MakeRecord, latency: Latency, blocks: int, most: int) -> None:
    tripped = sum(seen(make_record, latency, seed, blocks).sure > DRIFT_LIMIT for seed in range(40))
    assert tripped <= most


@pytest.mark.parametrize(
    ("latency", "sign"), [(warming, -1), (drifting, 1), (saturating, 1)], ids=["warming", "drifting", "saturating"]
)
def test_an_unsteady_one_does_not(make_record: MakeRecord, latency: Latency, sign: int) -> None:
    found = [seen(make_record, latency, seed) for seed in range(20)]
    assert all(s.sure > DRIFT_LIMIT and np.sign(s.drift) == sign for s in found)


def test_the_drift_is_the_log_ratio_of_the_halves(make_record: MakeRecord) -> None:
    """TTFT 20 ms in each first half, 40 ms in each second."""
    found = seen(make_record, lambda _, phase: np.where(phase < 0.5, 0.02, 0.04), 0)
    assert found.drift == pytest.approx(np.log(2))
    assert found.sure == pytest.approx(np.log(2))
    assert found.cut == pytest.approx(0.5, abs=0.05)
    assert found.blocks == BLOCKS


def test_one_block_tells_of_a_queue_that_only_grows(make_record: MakeRecord) -> None:
    assert seen(make_record, saturating, 1, blocks=1).sure > DRIFT_LIMIT


def test_mser_cuts_what_is_not_yet_steady() -> None:
    """A transient over the first 40 of 200 values, ten deviations high."""
    generator = np.random.default_rng(4)
    series = generator.normal(0, 1, 200) + np.where(np.arange(200) < 40, 10.0, 0.0)
    assert mser5_cut(series.tolist()) == pytest.approx(0.2, abs=0.03)


def test_mser_cuts_little_of_a_steady_series() -> None:
    cuts = [mser5_cut(np.random.default_rng(seed).normal(5, 1, 300).tolist()) for seed in range(40)]
    assert np.mean(cuts) < 0.1


def test_mser_finds_no_steady_part_of_a_ramp_and_says_nothing_of_a_few_values() -> None:
    assert mser5_cut([float(k) for k in range(200)]) == 0.5
    assert mser5_cut([float(k) for k in range(19)]) == 0.0


def test_the_sure_part_by_hand() -> None:
    """Mean 0.3, s = 0.1, n = 4: the 95 % half-width is 3.18245 x 0.05."""
    sample = [0.2, 0.3, 0.3, 0.4]
    half = 3.182446305 * np.std(sample, ddof=1) / 2
    assert sure_part(sample, 0.95) == pytest.approx(0.3 - half)
    assert sure_part([-x for x in sample], 0.95) == pytest.approx(0.3 - half)
    assert sure_part([0.5], 0.95) == sure_part([-1.0, 1.0], 0.95) == 0


def test_littles_law_balances_to_the_last_digit(make_record: MakeRecord) -> None:
    """Two streams, requests of 0.1 s back to back from before the window until after it: L = 2 = 20/s x 0.1 s."""
    records = [make_record(0.1 * k, done_s=0.1 * k + 0.1) for k in range(-5, 20) for _ in range(2)]
    (balance,) = littles_law(records, [Window(arm=0, block=0, start_s=0.0, end_s=1.0)])
    assert (balance.in_flight, balance.arrivals_per_s) == (pytest.approx(2), pytest.approx(20))
    assert balance.residual == pytest.approx(0, abs=1e-9)


def test_work_that_crosses_an_edge_one_way_does_not_balance(make_record: MakeRecord) -> None:
    """Requests that were under way when the window began are missing: L falls short by what they had left."""
    whole = [make_record(0.05 * k, done_s=0.05 * k + 0.5) for k in range(-20, 40)]
    window = Window(arm=0, block=0, start_s=0.0, end_s=1.0)
    (balance,), (short,) = littles_law(whole, [window]), littles_law([r for r in whole if r.scheduled_s >= 0], [window])
    assert balance.residual == pytest.approx(0, abs=0.01)
    assert short.in_flight < 0.8 * balance.in_flight
    assert mean_residual([short]) == pytest.approx(abs(1 - short.arrivals_per_s * short.sojourn_s / short.in_flight))
    assert mean_residual([short]) > 0.2


def test_nothing_under_way_is_balanced(make_record: MakeRecord) -> None:
    (balance,) = littles_law([], [Window(arm=0, block=0, start_s=0, end_s=1)])
    assert (balance.in_flight, balance.residual) == (0, 0)
    assert steadiness([], [Window(arm=0, block=0, start_s=0, end_s=1)]) == ()
