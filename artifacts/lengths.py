"""How long may prompts and answers be? A number of tokens, or a law from which each request draws its own."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from artifacts.document import Document
from artifacts.units import number

_NORMAL_P95 = 1.6448536269514722


class UniformTokens(Document):
    """Every length from `low` to `high` is equally likely, both included."""

    kind: Literal["uniform"] = "uniform"
    low: int = Field(gt=0)
    high: int = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, as {self.low} is above {self.high}")
        return self

    @property
    def mean_tokens(self) -> float | None:
        return (self.low + self.high) / 2

    @property
    def spec(self) -> str:
        return f"uniform:{self.low}:{self.high}"


class LogNormalTokens(Document):
    """Log-normal lengths, as prompts and answers of people mostly are, by their median and 95th percentile."""

    kind: Literal["lognormal"] = "lognormal"
    median: float = Field(ge=1, allow_inf_nan=False)
    p95: float = Field(ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p95 < self.median:
            raise ValueError(f"p95 must not be below the median, as {self.p95:g} is below {self.median:g}")
        return self

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.p95 / self.median) / _NORMAL_P95

    @property
    def mean_tokens(self) -> float | None:
        return self.median * math.exp(self.sigma**2 / 2)

    @property
    def spec(self) -> str:
        return f"lognormal:{number(self.median)}:{number(self.p95)}"


class NormalTokens(Document):
    """Normal lengths; what falls outside [low, high] becomes low or high."""

    kind: Literal["normal"] = "normal"
    mean: float = Field(ge=1, allow_inf_nan=False)
    std: float = Field(ge=0, allow_inf_nan=False)
    low: int = Field(default=1, gt=0)
    high: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mean <= (self.high or math.inf):
            raise ValueError("the mean must lie between low and high")
        return self

    @property
    def mean_tokens(self) -> float | None:
        """Of the law before it is clipped."""
        return self.mean

    @property
    def spec(self) -> str:
        bounds = "" if (self.low, self.high) == (1, None) else f":{self.low}:{'' if self.high is None else self.high}"
        return f"normal:{number(self.mean)}:{number(self.std)}{bounds}"


class TraceTokens(Document):
    """Lengths of the trace: of the replayed request, or of one drawn for each request where the times are others'."""

    kind: Literal["trace"] = "trace"
    shared_blocks: bool = Field(default=False, description="prompts that shared blocks in the trace share them here")

    @property
    def mean_tokens(self) -> float | None:
        return None

    @property
    def spec(self) -> str:
        return "trace"


Spread = Annotated[UniformTokens | LogNormalTokens | NormalTokens | TraceTokens, Field(discriminator="kind")]


def _which(value: Any) -> str:
    return "law" if isinstance(value, dict | Document) else "number"


Length = Annotated[
    Annotated[int, Field(gt=0), Tag("number")] | Annotated[Spread, Tag("law")],
    Discriminator(_which),  # what is no number is a law, and is told what is wrong with it as one
]


def mean_tokens(length: Length | None) -> float | None:
    """What a length law gives on average; None where only the server or the trace knows."""
    return length if length is None or isinstance(length, int) else length.mean_tokens


def length_spec(length: Length) -> str:
    """A length as the command line takes it: `128` or `lognormal:128:512`."""
    return str(length) if isinstance(length, int) else length.spec
