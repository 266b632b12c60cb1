"""May this run's numbers be believed? Checks that fail a run instead of warning about it.

The limits suit small machines as well, where engine and client share two cores: there the scheduler may hold the
client back for a few milliseconds, which is no fault of the run as long as it is small against what is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.measures import CERTIFYING_SAMPLES, inter_token_latencies_s, ttft_s
from artifacts.run import Gate, Level, RequestRecord, Window, Workload
from loadtest.counters import PREEMPTIONS, PREFIX_HITS, PREFIX_QUERIES
from loadtest.stationarity import MIN_BLOCKS, littles_law, mean_residual, steadiness

LATENESS_FLOOR_S = 0.010
LATENESS_SHARE = 0.1
DRIFT_LIMIT = 0.1
LITTLE_LIMIT = 0.05
CALIBRATION_FLOOR_S = 0.0002
CALIBRATION_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the gates look at. `counters` is per model, empty where the server keeps none.

    `calibration_s` is the client's error of the median inter-token latency against a server of known times, before and
    after the run; None where it was not calibrated.
    """

    records: Sequence[RequestRecord]
    windows: Sequence[Window]
    workload: Workload
    client_cpu_s: float
    counters: dict[str, dict[str, float]]
    client_processes: int = 1
    level: Level | None = None
    loop_lags_s: Sequence[float] = ()
    calibration_s: tuple[float, float] | None = None

    @property
    def counted(self) -> list[RequestRecord]:
        return [r for r in self.records if not r.warmup]

    @property
    def successes(self) -> list[RequestRecord]:
        return [r for r in self.counted if r.ok]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """`observe` returns None where there is nothing to look at: such a gate passes and shows no value."""

    name: str
    unit: str
    observe: Callable[[Evidence], float | None]
    limit: Callable[[Evidence], float]
    at_least: bool = False
    cause: str
    remedy: str

    def judge(self, evidence: Evidence) -> Gate:
        observed, limit = self.observe(evidence), self.limit(evidence)
        passed = observed is None or (observed >= limit if self.at_least else observed <= limit)
        return Gate(
            name=self.name,
            observed=observed,
            limit=limit,
            unit=self.unit,
            passed=passed,
            cause=self.cause,
            remedy=self.remedy,
        )


def judge(evidence: Evidence) -> tuple[Gate, ...]:
    """Every gate, passed or not, in a fixed order."""
    return tuple(check.judge(evidence) for check in _CHECKS)


def send_lateness_p99_s(evidence: Evidence) -> float | None:
    """The worst arm's on the worst client process: others that are on time do not make up for one that is not."""

    def p99(records: Sequence[RequestRecord]) -> float | None:
        late = [r.sent_s - r.scheduled_s for r in records if r.sent_s is not None]
        return float(np.percentile(late, 99)) if late else None

    parts = evidence.client_processes
    per_process = (_worst_arm([r for r in evidence.counted if r.index % parts == k], p99) for k in range(parts))
    return max((value for value in per_process if value is not None), default=None)


def lateness_limit_s(evidence: Evidence) -> float:
    """A tenth of the median TTFT, but never less than 10 ms: one slice of a scheduler that runs engine and client."""
    first = [v for r in evidence.successes for v in ttft_s(r)]
    return max(LATENESS_FLOOR_S, LATENESS_SHARE * float(np.median(first))) if first else LATENESS_FLOOR_S


def error_share(evidence: Evidence) -> float | None:
    """The worst arm's, lead-ins included: what fails there leaves the window with another load than asked for."""
    return _worst_arm(evidence.records, lambda records: _share([not r.ok for r in records]))


def length_mismatch_share(evidence: Evidence) -> float | None:
    """The share of answers that read or wrote another number of tokens than their request asked for.

    Outputs that may end by themselves are wrong only beyond what was asked; a null on either side is not compared.
    """
    shorter_is_fine = evidence.workload.natural_ends

    def wrong(r: RequestRecord) -> bool:
        asked, said = r.asked_output_tokens, r.output_tokens
        other = asked is not None and said is not None and (said > asked or (said < asked and not shorter_is_fine))
        return other or (
            None not in (r.asked_prompt_tokens, r.prompt_tokens) and r.prompt_tokens != r.asked_prompt_tokens
        )

    return _share([wrong(r) for r in evidence.successes]) if evidence.successes else None


def events_per_read(evidence: Evidence) -> float | None:
    """Output events divided by the reads that held them (one read has one time); the worst arm's."""

    def ratio(records: Sequence[RequestRecord]) -> float | None:
        reads = sum(len(set(r.event_s)) for r in records)
        return sum(len(r.event_s) for r in records) / reads if reads else None

    return _worst_arm(evidence.successes, ratio)


def client_cpu_share(evidence: Evidence) -> float | None:
    measured_s = sum(w.end_s - w.start_s for w in evidence.windows)
    return evidence.client_cpu_s / measured_s if measured_s else None


def prefix_hit_share(evidence: Evidence) -> float | None:
    """The worst model's share of looked-up prompt tokens that a prefix cache answered."""
    hits = [
        of_model[PREFIX_HITS] / max(1.0, of_model.get(PREFIX_QUERIES, 0.0))
        for of_model in evidence.counters.values()
        if PREFIX_HITS in of_model
    ]
    return max(hits, default=None)


def preemptions(evidence: Evidence) -> float | None:
    counts = [of_model[PREEMPTIONS] for of_model in evidence.counters.values() if PREEMPTIONS in of_model]
    return sum(counts) if counts else None


def fewest_requests_per_arm(evidence: Evidence) -> float:
    counts = Counter(r.arm for r in evidence.successes)
    return min((counts[arm] for arm in {w.arm for w in evidence.windows}), default=0)


def fewest_requests_per_block(evidence: Evidence) -> float:
    counts = Counter((r.arm, r.block) for r in evidence.successes)
    return min((counts[(w.arm, w.block)] for w in evidence.windows), default=0)


def loop_lag_p99_s(evidence: Evidence) -> float | None:
    return float(np.percentile(evidence.loop_lags_s, 99)) if len(evidence.loop_lags_s) else None


def calibration_error_s(evidence: Evidence) -> float | None:
    """The larger of the two."""
    return None if evidence.calibration_s is None else max(abs(error_s) for error_s in evidence.calibration_s)


def calibration_limit_s(evidence: Evidence) -> float:
    """A hundredth of the median inter-token latency, but never less than 0.2 ms."""
    gaps = [v for r in evidence.successes for v in inter_token_latencies_s(r)]
    return max(CALIBRATION_FLOOR_S, CALIBRATION_SHARE * float(np.median(gaps))) if gaps else CALIBRATION_FLOOR_S


def window_drift(evidence: Evidence) -> float | None:
    """The worst arm's and signal's sure drift. In a closed loop only TTFT can drift: what is in flight is given.

    None for a load that is itself meant to change.
    """
    if evidence.level is not None and not evidence.level.stationary:
        return None
    open_loop = evidence.level is not None and evidence.level.loop == "open"
    seen = steadiness(evidence.records, evidence.windows)
    return max((s.sure for s in seen if open_loop or s.signal == "ttft"), default=None)


def littles_residual(evidence: Evidence) -> float | None:
    """The worst arm's. The law is one of steady flows: of a window that drifts it says nothing that is new."""
    if (window_drift(evidence) or 0.0) > DRIFT_LIMIT:
        return None
    balances = littles_law(evidence.records, evidence.windows)
    arms = {b.arm for b in balances if b.in_flight > 0}
    return max((mean_residual([b for b in balances if b.arm == arm]) for arm in arms), default=None)


def littles_limit(evidence: Evidence) -> float:
    """5 %, but where requests are long against the window their share of it: so much may cross one edge by chance.

    Over fewer windows than an interval needs, chance does not average out: one that crosses may be twice the mean.
    """
    lengths_s = {(w.arm, w.block): w.end_s - w.start_s for w in evidence.windows}
    balances = littles_law(evidence.records, evidence.windows)
    few = len(balances) < MIN_BLOCKS * len({b.arm for b in balances})
    shares = [
        (2 if few else 1) * b.sojourn_s / lengths_s[b.arm, b.block] for b in balances if lengths_s[b.arm, b.block] > 0
    ]
    return max([LITTLE_LIMIT, *shares])


def _worst_arm(
    records: Sequence[RequestRecord], observe: Callable[[Sequence[RequestRecord]], float | None]
) -> float | None:
    per_arm = (observe([r for r in records if r.arm == arm]) for arm in {r.arm for r in records})
    return max((value for value in per_arm if value is not None), default=None)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


_CHECKS: tuple[_Check, ...] = (
    _Check(
        name="send lateness p99",
        unit="s",
        observe=send_lateness_p99_s,
        limit=lateness_limit_s,
        cause="The load client could not send on time, so latencies hold its own delay.",
        remedy="Lower the load, or give the client a core of its own.",
    ),
    _Check(
        name="event-loop lag p99",
        unit="s",
        observe=loop_lag_p99_s,
        limit=lambda _: LATENESS_FLOOR_S,
        cause="Whatever waited in the load client was woken late, so every time it took is late as well.",
        remedy="Give the client a core of its own, or allow it the real-time class (CAP_SYS_NICE).",
    ),
    _Check(
        name="client calibration",
        unit="s",
        observe=calibration_error_s,
        limit=calibration_limit_s,
        cause="Against a server of known times the load client measured others, just before or after this run.",
        remedy="Lower the load, or give the client a core of its own.",
    ),
    _Check(
        name="error share",
        unit="ratio",
        observe=error_share,
        limit=lambda _: 0.001,
        cause="Requests failed; the rest ran under a lighter load than asked for.",
        remedy="See failures_by_kind and the server's log, mend the cause, run again.",
    ),
    _Check(
        name="length mismatch",
        unit="ratio",
        observe=length_mismatch_share,
        limit=lambda _: 0.0,
        cause="The server read or wrote another number of tokens than asked: the arms did not do the same work.",
        remedy="Use a server that honours ignore_eos and min_tokens, and lengths inside the model's context.",
    ),
    _Check(
        name="events per read",
        unit="ratio",
        observe=events_per_read,
        limit=lambda _: 1.2,
        cause="Several output events came in one read: the client, or a proxy that buffers, blurs inter-token latency.",
        remedy="Lower the load, give the client a core of its own, or take the proxy out of the way.",
    ),
    _Check(
        name="client CPU share",
        unit="ratio",
        observe=client_cpu_share,
        limit=lambda _: 0.5,  # at half load a read waits, on average, as long as handling one takes (M/G/1)
        cause="The load client was busy for more than half of the time: its reads queued behind each other.",
        remedy="Lower the load or use a faster core for the client.",
    ),
    _Check(
        name="prefix cache hits",
        unit="ratio",
        observe=prefix_hit_share,
        limit=lambda evidence: 1.0 if evidence.workload.shares_prefixes else 0.01,
        cause="Prompts were answered from the prefix cache, so prefill was skipped; other traffic can do that.",
        remedy="Serve with prefix caching off and without other clients.",
    ),
    _Check(
        name="preemptions",
        unit="requests",
        observe=preemptions,
        limit=lambda _: 0.0,
        cause="The KV cache was too small for this concurrency and work was thrown away and redone.",
        remedy="Lower the concurrency or give the engine more KV cache.",
    ),
    _Check(
        name="window drift",
        unit="log ratio",
        observe=window_drift,
        limit=lambda _: DRIFT_LIMIT,
        cause="The halves of the windows differ: the load was still warming up, or its queue kept growing.",
        remedy="Lower the rate if latency rises; lengthen the warm-up if it falls (`steadiness` says by how much).",
    ),
    _Check(
        name="Little's law",
        unit="ratio",
        observe=littles_residual,
        limit=littles_limit,
        cause="Requests in flight differ from arrivals times their duration: work crossed the windows' edges one way.",
        remedy="Lengthen the windows and the warm-up, and look whether records are missing.",
    ),
    _Check(
        name="requests per arm",
        unit="requests",
        observe=fewest_requests_per_arm,
        limit=lambda _: float(CERTIFYING_SAMPLES[50]),
        at_least=True,
        cause="Too few requests succeeded for a median.",
        remedy="Lengthen the run or shorten the outputs.",
    ),
    _Check(
        name="requests per block",
        unit="requests",
        observe=fewest_requests_per_block,
        limit=lambda _: 2.0,  # one request is no measurement of a block; the spread over blocks covers the rest
        at_least=True,
        cause="A block of some arm measured fewer than two requests, so its ratio rests on next to nothing.",
        remedy="Lengthen the run, use fewer blocks, or shorten the outputs.",
    ),
)
