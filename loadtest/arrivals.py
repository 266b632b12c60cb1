"""When does each request of an open-loop test start? Drawn before the run, so that the server cannot slow the clock.

A generator that waits for answers before it sends (a closed loop) sends less exactly when the server is slow and so
hides the slowness ("coordinated omission"). Here the times are fixed in advance and latency counts from them.

All processes are one: events of a process with rate 1 (equal, exponential or gamma gaps), carried through the inverse
of the cumulative rate (the random time change: Daley and Vere-Jones, An Introduction to the Theory of Point Processes,
7.4). A rate that changes then bends the clock and leaves the law of the gaps as it is; with exponential gaps that is
the inhomogeneous Poisson process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.arrivals import Constant, Gamma, Poisson, Ramp, Spacing, Steps

Scheduled = Constant | Poisson | Gamma | Steps | Ramp
"""Arrivals that follow from a rate; those of a trace follow from the trace."""

_Floats = NDArray[np.float64]
_Draw = Callable[[int], _Floats]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A span over which the rate changes linearly."""

    seconds: float
    from_per_s: float
    to_per_s: float

    @property
    def expected(self) -> float:
        return self.seconds * (self.from_per_s + self.to_per_s) / 2


def arrival_times_s(
    arrivals: Scheduled, duration_s: float, seed: Sequence[int], lead_in_s: float = 0.0
) -> tuple[float, ...]:
    """Ascending times in [0, duration_s), the same for the same arguments.

    The number of requests is not rescaled to a fixed count, so that counts in disjoint spans of a Poisson process are
    independent. Steps and ramps begin after `lead_in_s`, before which their first rate holds; of the ramp, the last
    rate holds at `duration_s`.
    """
    pieces = _profile(arrivals, duration_s, lead_in_s)
    spacing, burstiness = _spacing(arrivals)
    events = _unit_events(spacing, burstiness, sum(piece.expected for piece in pieces), seed)
    times = _invert(pieces, events)
    return tuple(times[times < duration_s].tolist())


def _spacing(arrivals: Scheduled) -> tuple[Spacing, float]:
    if isinstance(arrivals, Steps | Ramp):
        return arrivals.spacing, arrivals.burstiness
    return arrivals.kind, arrivals.burstiness if isinstance(arrivals, Gamma) else 1.0


def _profile(arrivals: Scheduled, duration_s: float, lead_in_s: float) -> list[_Piece]:
    """The rate over [0, duration_s) in pieces."""
    if isinstance(arrivals, Ramp):
        lead_in = _Piece(lead_in_s, arrivals.from_rate_per_s, arrivals.from_rate_per_s)
        return [lead_in, _Piece(duration_s - lead_in_s, arrivals.from_rate_per_s, arrivals.to_rate_per_s)]
    if not isinstance(arrivals, Steps):
        return [_Piece(duration_s, arrivals.rate_per_s, arrivals.rate_per_s)]
    rates = [step.rate_per_s for step in arrivals.steps]
    spans = [step.for_s for step in arrivals.steps]
    rest_s = max(0.0, duration_s - lead_in_s - sum(spans))
    held = zip([lead_in_s, *spans, rest_s], [rates[0], *rates, rates[-1]], strict=True)
    return [_Piece(seconds, rate, rate) for seconds, rate in held]


def _unit_events(spacing: Spacing, burstiness: float, expected: float, seed: Sequence[int]) -> _Floats:
    """Events below `expected` of a process with rate 1.

    Gamma gaps have shape `burstiness` and mean 1. The first is drawn from their equilibrium law (a uniform share of a
    length-biased gap, which for a gamma law is one with shape + 1): the test then begins at no particular moment of
    the traffic, and the expected count is `expected` from the first second on.
    """
    if spacing == "constant":
        return np.arange(int(np.ceil(expected - 1e-9)), dtype=np.float64)
    generator = np.random.default_rng(list(seed))
    if spacing == "poisson":
        return _cumulated(generator.standard_exponential, expected, 1.0)
    first = generator.random() * generator.standard_gamma(burstiness + 1) / burstiness
    rest = _cumulated(lambda n: generator.standard_gamma(burstiness, n) / burstiness, expected, 1 / burstiness)
    events = np.concatenate([[first], first + rest])
    return events[events < expected]


def _cumulated(draw: _Draw, expected: float, dispersion: float) -> _Floats:
    """Sums of gaps of mean 1, up to the first beyond `expected` and no further."""
    batch = int(expected + 10 * (dispersion * expected) ** 0.5 + 10)  # ten standard deviations: but for freak seeds
    events = np.cumsum(draw(batch))
    while events[-1] < expected:
        events = np.concatenate([events, events[-1] + np.cumsum(draw(batch))])
    return events[events < expected]


def _invert(pieces: Sequence[_Piece], events: _Floats) -> _Floats:
    """The times at which the cumulative rate reaches `events`.

    Inside a piece with rate a + c t: a t + c t^2 / 2 = e, so t = 2 e / (a + sqrt(a^2 + 2 c e)), which stays exact
    where c is 0. An event that falls on a pause begins after it.
    """
    edges = np.cumsum([0.0, *(piece.expected for piece in pieces)])
    starts = np.cumsum([0.0, *(piece.seconds for piece in pieces)])
    at = np.searchsorted(edges, events, side="right") - 1
    begins = np.array([piece.from_per_s for piece in pieces])[at]
    slopes = np.array([(p.to_per_s - p.from_per_s) / p.seconds if p.seconds else 0.0 for p in pieces])[at]
    into = events - edges[at]
    bottom = begins + np.sqrt(np.maximum(0.0, begins**2 + 2 * slopes * into))
    times: _Floats = starts[at] + np.divide(2 * into, bottom, out=np.zeros_like(into), where=bottom > 0)
    return times
