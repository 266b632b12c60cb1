"""What is fast enough? A service-level objective: limits on latencies, each for a stated share of the requests.

`ttft_p95<500ms` says that at least 95 % of all requests get their first token within 500 ms. A percentile limit is thus
a share, which can be counted request by request, and a request that fails is late. The presets are the limits that
MLPerf Inference publishes for its server scenarios (inference_policies, July 2026): Poisson arrivals, 99th percentiles.
MLPerf holds a run to at least 600 s, a stated data set and an accuracy; using its limits makes no MLPerf result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.measures import e2e_s, tpot_s, ttft_s
from artifacts.run import RequestRecord

Quantity = Literal["ttft", "tpot", "e2e"]

_VALUES: dict[Quantity, Callable[[RequestRecord], Sequence[float]]] = {"ttft": ttft_s, "tpot": tpot_s, "e2e": e2e_s}
_PER_SECOND = {"us": 1e6, "ms": 1e3, "s": 1.0}
_LIMIT = re.compile(r"(?P<quantity>\w+)_p(?P<percentile>[\d.]+)\s*<=?\s*(?P<value>[\d.]+)\s*(?P<unit>[a-z]*)")


class SloLimit(Document):
    """At least `percentile` per cent of the requests must have a `quantity` of at most `limit_s` seconds."""

    quantity: Quantity
    percentile: float = Field(gt=0, lt=100)
    limit_s: float = Field(gt=0, allow_inf_nan=False)

    @property
    def required_share(self) -> float:
        return self.percentile / 100

    @property
    def text(self) -> str:
        return f"{self.quantity}_p{self.percentile:g}<{self.limit_s * 1e3:.12g}ms"

    def seconds_of(self, record: RequestRecord) -> float:
        """The request's quantity; infinite if it failed, 0 if it has none, as one output token has no TPOT."""
        return max(_VALUES[self.quantity](record), default=0.0) if record.ok else inf

    def met_by(self, record: RequestRecord) -> bool:
        """Whether the request succeeded and was in time."""
        return self.seconds_of(record) <= self.limit_s


class Slo(Document):
    """All limits together; `text` is what `parse_slo` takes."""

    limits: tuple[SloLimit, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        places = [(limit.quantity, limit.percentile) for limit in self.limits]
        if len(set(places)) < len(places):
            raise ValueError("a percentile of one quantity is given twice")
        return self

    @property
    def text(self) -> str:
        return ",".join(limit.text for limit in self.limits)

    def met_by(self, record: RequestRecord) -> bool:
        """Whether the request is within every limit: what goodput counts."""
        return all(limit.met_by(record) for limit in self.limits)

    def longest_s(self, output_tokens: int | None) -> float | None:
        """What a request of so many tokens takes at most within the laxest limits; None where they leave it open."""
        most = {q: max((x.limit_s for x in self.limits if x.quantity == q), default=None) for q in _VALUES}
        first_s, step_s, whole_s = most["ttft"], most["tpot"], most["e2e"]
        by_parts = None
        if first_s is not None and step_s is not None and output_tokens is not None:
            by_parts = first_s + (output_tokens - 1) * step_s
        return max((bound for bound in (by_parts, whole_s) if bound is not None), default=None)


def _mlperf(ttft_ms: float, tpot_ms: float) -> Slo:
    limits = (("ttft", ttft_ms), ("tpot", tpot_ms))
    return Slo.parse(
        {"limits": [{"quantity": q, "percentile": 99, "limit_s": ms / 1e3} for q, ms in limits]}, "a preset"
    )


PRESETS: dict[str, Slo] = {
    "mlperf-llama3.1-8b-conversational": _mlperf(2000, 100),
    "mlperf-llama3.1-8b-interactive": _mlperf(500, 30),
    "mlperf-llama2-70b-conversational": _mlperf(2000, 200),
    "mlperf-llama2-70b-interactive": _mlperf(450, 40),
    "mlperf-gpt-oss-120b-conversational": _mlperf(3000, 80),
    "mlperf-gpt-oss-120b-interactive": _mlperf(2000, 20),
    "mlperf-deepseek-r1-conversational": _mlperf(2000, 80),
    "mlperf-deepseek-r1-interactive": _mlperf(1500, 15),
}


def parse_slo(text: str) -> Slo:
    """Limits and presets, separated by commas: `ttft_p95<500ms,tpot_p95<50ms`. Raises ConfigError for anything else."""
    limits: list[SloLimit] = []
    for part in (piece.strip() for piece in text.split(",")):
        limits += PRESETS[part].limits if part in PRESETS else (_limit(part),)
    return Slo.parse({"limits": limits}, f"The SLO {text!r}")


def _limit(part: str) -> SloLimit:
    found = _LIMIT.fullmatch(part)
    if found is None:
        raise ConfigError(
            f"{part!r} is no limit. Write one as ttft_p95<500ms, or name a preset: {', '.join(sorted(PRESETS))}."
        )
    if found["unit"] not in _PER_SECOND:
        raise ConfigError(f"{part!r} has no unit of time. Write us, ms or s behind the number, as in ttft_p95<500ms.")
    if found["quantity"] not in _VALUES:
        raise ConfigError(f"{part!r} limits {found['quantity']!r}. Limits can be on {', '.join(_VALUES)}.")
    try:
        percentile, limit_s = float(found["percentile"]), float(found["value"]) / _PER_SECOND[found["unit"]]
    except ValueError as error:
        raise ConfigError(f"{part!r} holds something that is no number. Write it as ttft_p95<500ms.") from error
    if not 0 < percentile < 100 or limit_s <= 0:
        raise ConfigError(f"{part!r} is out of range: the percentile is between 0 and 100, the limit above 0.")
    return SloLimit.parse({"quantity": found["quantity"], "percentile": percentile, "limit_s": limit_s}, part)
