"""When has a running test seen enough to stop? A percentile of the last seconds that is beyond what was allowed.

`ttft_p95>500ms,itl_p50>20ms,errors>1%`: the first that is broken stops the test. A percentile of fewer values than
certify it breaks nothing, so that one slow first request does not end a test.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.errors import ConfigError
from artifacts.measures import CERTIFYING_SAMPLES, PER_REQUEST
from artifacts.run import RequestRecord

DEFAULT_WINDOW_S = 30.0
_LATENCY = re.compile(r"(?P<quantity>\w+)_p(?P<percentile>\d+)>(?P<value>[\d.]+)(?P<unit>ms|s)")
_ERRORS = re.compile(r"errors>(?P<value>[\d.]+)%")
_FEWEST_FOR_ERRORS = 20
_ALLOWED = (
    f"NAME_pN>VALUEms with {', '.join(PER_REQUEST)} and {', '.join(f'p{p}' for p in CERTIFYING_SAMPLES)}, "
    "or errors>VALUE%"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`percentile` of `quantity` must stay at or below `most` (seconds); of `errors` the share must."""

    text: str
    quantity: str
    percentile: int
    most: float

    def values(self, record: RequestRecord) -> Sequence[float]:
        if self.quantity == "errors":
            return (float(not record.ok),)
        return PER_REQUEST[self.quantity](record) if record.ok else ()

    def broken_by(self, values: Sequence[float]) -> float | None:
        """What was observed, if that is beyond the limit and there is enough of it."""
        if self.quantity == "errors":
            observed = sum(values) / len(values) if len(values) >= _FEWEST_FOR_ERRORS else 0.0
        elif len(values) < CERTIFYING_SAMPLES[self.percentile]:
            return None
        else:
            observed = float(np.percentile(np.asarray(values), self.percentile))
        return observed if observed > self.most else None

    def shown(self, value: float) -> str:
        return f"{value:.1%}" if self.quantity == "errors" else f"{value * 1e3:.1f} ms"


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Comma-separated limits; none for an empty text. Raises ConfigError."""
    return tuple(_limit(part.strip()) for part in text.split(",") if part.strip())


def _limit(text: str) -> Limit:
    if found := _ERRORS.fullmatch(text):
        return Limit(text=text, quantity="errors", percentile=0, most=float(found["value"]) / 100)
    found = _LATENCY.fullmatch(text)
    if found is None or found["quantity"] not in PER_REQUEST or int(found["percentile"]) not in CERTIFYING_SAMPLES:
        raise ConfigError(f"--stop-on {text!r} is no limit. Write {_ALLOWED}.")
    scale = 1e-3 if found["unit"] == "ms" else 1.0
    return Limit(
        text=text,
        quantity=found["quantity"],
        percentile=int(found["percentile"]),
        most=float(found["value"]) * scale,
    )


class Watch:
    """Keeps the last `window_s` seconds of requests, by when they ended, and holds them against the limits."""

    def __init__(self, limits: Sequence[Limit], window_s: float = DEFAULT_WINDOW_S) -> None:
        self._limits, self._window_s = limits, window_s
        self._seen: deque[tuple[float, RequestRecord]] = deque()

    def hear(self, at_s: float, record: RequestRecord) -> None:
        if self._limits:
            self._seen.append((at_s, record))
            while self._seen[0][0] < at_s - self._window_s:
                self._seen.popleft()

    def broken(self) -> str | None:
        """One sentence on the first limit that is broken, or None."""
        for limit in self._limits:
            values = [value for _, record in self._seen for value in limit.values(record)]
            observed = limit.broken_by(values)
            if observed is not None:
                return (
                    f"Stopped by --stop-on {limit.text}: over the last {self._window_s:g} s it was "
                    f"{limit.shown(observed)} ({len(values)} values)."
                )
        return None
