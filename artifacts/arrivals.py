"""How can requests come? Documents, each with the options of `prunebench loadtest` that ask for it.

What they mean in times is the load tester's business.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.units import number

Spacing = Literal["constant", "poisson", "gamma"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RateOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Burstiness = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="shape of the gaps' gamma law: 1 is Poisson, smaller is burstier"),
]


class Constant(Document):
    """Equal gaps."""

    kind: Literal["constant"] = "constant"
    rate_per_s: Rate

    @property
    def label(self) -> str:
        return f"{self.rate_per_s:g} requests/s, constant"

    @property
    def options(self) -> str:
        return f"--rate {number(self.rate_per_s)} --arrivals constant"


class Poisson(Document):
    """Independent exponential gaps: many users who do not know of each other."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: Rate

    @property
    def label(self) -> str:
        return f"{self.rate_per_s:g} requests/s, poisson"

    @property
    def options(self) -> str:
        return f"--rate {number(self.rate_per_s)} --arrivals poisson"


class Gamma(Document):
    """Independent gamma gaps; their coefficient of variation is 1 / sqrt(burstiness)."""

    kind: Literal["gamma"] = "gamma"
    rate_per_s: Rate
    burstiness: Burstiness

    @property
    def label(self) -> str:
        return f"{self.rate_per_s:g} requests/s, gamma, burstiness {self.burstiness:g}"

    @property
    def options(self) -> str:
        return f"--rate {number(self.rate_per_s)} --arrivals gamma --burstiness {number(self.burstiness)}"


class Varying(Document):
    """What rates that change share: how the requests are spaced around the changing rate."""

    spacing: Spacing = "poisson"
    burstiness: Burstiness = 1.0

    @property
    def spacing_label(self) -> str:
        return f"gamma, burstiness {self.burstiness:g}" if self.spacing == "gamma" else self.spacing

    @property
    def spacing_options(self) -> str:
        burstiness = f" --burstiness {number(self.burstiness)}" if self.spacing == "gamma" else ""
        return f"--arrivals {self.spacing}{burstiness}"


class Step(Document):
    """One rate for some seconds; a rate of 0 is a pause."""

    rate_per_s: RateOrNone
    for_s: float = Field(gt=0, allow_inf_nan=False)


class Steps(Varying):
    """One rate after the other inside each measured window; the last one holds until its end."""

    kind: Literal["step"] = "step"
    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _any(self) -> Self:
        if all(step.rate_per_s == 0 for step in self.steps):
            raise ValueError("at least one step needs a rate above 0")
        return self

    @property
    def total_s(self) -> float:
        return sum(step.for_s for step in self.steps)

    @property
    def rate_per_s(self) -> float:
        """The mean over the steps."""
        return sum(step.rate_per_s * step.for_s for step in self.steps) / self.total_s

    @property
    def label(self) -> str:
        rates = ", ".join(f"{step.rate_per_s:g} for {step.for_s:g} s" for step in self.steps)
        return f"steps of {rates}, requests/s, {self.spacing_label}"

    @property
    def options(self) -> str:
        steps = ",".join(f"{number(step.rate_per_s)}x{number(step.for_s)}" for step in self.steps)
        return f"--step {steps} {self.spacing_options}"


class Ramp(Varying):
    """A rate that changes linearly over each measured window."""

    kind: Literal["ramp"] = "ramp"
    from_rate_per_s: RateOrNone
    to_rate_per_s: RateOrNone

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.rate_per_s == 0:
            raise ValueError("a ramp needs a rate above 0 at one of its ends")
        return self

    @property
    def rate_per_s(self) -> float:
        """The mean over the window."""
        return (self.from_rate_per_s + self.to_rate_per_s) / 2

    @property
    def label(self) -> str:
        return f"{self.from_rate_per_s:g} to {self.to_rate_per_s:g} requests/s, {self.spacing_label}"

    @property
    def options(self) -> str:
        return f"--ramp {number(self.from_rate_per_s)}:{number(self.to_rate_per_s)} {self.spacing_options}"


class Replay(Document):
    """The times of a recorded trace. `rate_per_s` is what they come to, filled in when the trace has been read."""

    kind: Literal["trace"] = "trace"
    rate_per_s: Rate | None = None

    @property
    def label(self) -> str:
        return "trace" if self.rate_per_s is None else f"trace, {self.rate_per_s:.3g} requests/s"

    @property
    def options(self) -> str:
        return ""


Arrivals = Annotated[Constant | Poisson | Gamma | Steps | Ramp | Replay, Field(discriminator="kind")]
