"""Did a level meet its SLO? Shares of requests in time with their intervals, and the verdict that follows from them.

A sample percentile has no error bar that says whether the limit is met; a share has one. "p95 below 500 ms" is "at
least 95 % within 500 ms", so the question is whether a binomial share is above 0.95. Wilson's interval answers it
(E. B. Wilson, JASA 22, 1927): it stays inside [0, 1] and keeps its coverage near the ends, where SLOs' shares are.

Requests in one queue are late together and count for fewer than they are: the interval is taken at the effective sample
size n / tau, with the autocorrelation time tau summed over Geyer's initial positive sequence (Stat. Sci. 7, 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from artifacts.capacity import Attainment, Verdict
from artifacts.run import RequestRecord, Window
from artifacts.slo import Slo, SloLimit

CONFIDENCE = 0.95
_FAR = 2.0  # limits: how much later than that a request was, or whether it failed, is no matter
_NOISE = 0.05  # limits: what a server drifts below that, far from the limit, makes nobody late


def quantile_of(looks: int) -> float:
    """The normal quantile at which each of so many looks decides, so that all together err as CONFIDENCE says.

    Looking again until the answer pleases would double the error; Bonferroni's split over the looks prevents it.
    """
    return float(norm.ppf(1 - (1 - CONFIDENCE) / 2 / looks))


def wilson(share: float, count: float, z: float) -> tuple[float, float]:
    """Bounds of a binomial share seen as `share` in `count` trials, which may be fractional; (0, 1) for none."""
    if count <= 0:
        return 0.0, 1.0
    centre = share + z * z / (2 * count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def requests_to_show(required_share: float, z: float) -> int:
    """How many requests, all in time, it takes until Wilson's lower bound n / (n + z²) reaches the share."""
    return ceil(z * z * required_share / (1 - required_share) - 1e-9)


def effective_count(latencies_s: Sequence[float], limit_s: float) -> float:
    """How many independent requests say as much as these, which stand in the order of their schedule.

    The larger autocorrelation time counts of who was late and of the latencies themselves. Where hardly anybody was
    late yet, the first knows nothing of the queue that makes them late together; the second sees it grow and shrink.
    """
    values = np.minimum(np.asarray(latencies_s, dtype=np.float64) / limit_s, _FAR)
    late = (values > 1).astype(np.float64)
    return len(values) / max(_autocorrelation_time(late, 0.0), _autocorrelation_time(values, _NOISE))


def _autocorrelation_time(values: NDArray[np.float64], noise: float) -> float:
    """1 + 2 x the sum of the autocorrelations, up to the first pair of them that is not positive; at least 1.

    `noise` is the deviation of independent noise that is thought added, so that fluctuations below it do not count.
    """
    deviations = values - values.mean() if len(values) else values
    power = float(deviations @ deviations)
    if power < 1e-12:
        return 1.0
    size = 1 << (2 * len(values) - 1).bit_length()  # padded, so that the transform's correlation does not wrap round
    spectrum = np.fft.rfft(deviations, size)
    correlation = np.fft.irfft(spectrum * spectrum.conj(), size)[: len(values)] / (power + len(values) * noise**2)
    correlation[0] = 1.0
    pairs = correlation[: len(values) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    return max(1.0, 2 * float(pairs[: negative[0] if len(negative) else len(pairs)].sum()) - 1)


def attainment(limit: SloLimit, looks: Sequence[Sequence[RequestRecord]], z: float) -> Attainment:
    """Over the requests that started in the looks' windows, which are `looks` without their lead-ins."""
    latencies_s = [[limit.seconds_of(r) for r in in_order(records)] for records in looks]
    requests = sum(map(len, latencies_s))
    within = sum(value_s <= limit.limit_s for of_look in latencies_s for value_s in of_look)
    effective = sum(effective_count(of_look, limit.limit_s) for of_look in latencies_s)
    low, high = wilson(within / requests if requests else 0.0, effective, z)
    return Attainment(limit=limit, requests=requests, within=within, effective_requests=effective, low=low, high=high)


def in_order(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Those that started in the window, by their schedule; the rest only loaded the server."""
    return sorted((r for r in records if not r.warmup), key=lambda r: (r.block, r.scheduled_s))


def verdict_on(attainments: Sequence[Attainment]) -> Verdict:
    """Met if every limit's share is surely enough, missed if some limit's surely is not."""
    if any(a.high < a.limit.required_share for a in attainments):
        return "missed"
    if all(a.low >= a.limit.required_share for a in attainments):
        return "met"
    return "undecided"


def goodput_per_s(slo: Slo, records: Sequence[RequestRecord], windows: Sequence[Window]) -> float | None:
    """Requests that started in the windows and were within every limit, per second of window."""
    measured_s = sum(w.end_s - w.start_s for w in windows)
    good = sum(slo.met_by(r) for r in records if not r.warmup)
    return good / measured_s if measured_s > 0 else None
