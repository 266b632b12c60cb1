"""What is asked of a server: how hard it is driven, and with what work.

Level and Workload know the options of `prunebench loadtest` that ask for them, so that a report can print the command
that repeats a run.
"""

from __future__ import annotations

import shlex
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from artifacts.arrivals import Arrivals, Ramp, Replay, Steps
from artifacts.document import Document
from artifacts.lengths import Length, TraceTokens, length_spec
from artifacts.units import number

TraceFormat = Literal["azure", "mooncake", "generic"]


class TraceSource(Document):
    """Which part of which file is replayed, and what is done to it. Times in the file's own seconds from its start."""

    path: str
    format: TraceFormat = "azure"
    from_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    to_s: float | None = Field(default=None, gt=0, description="null: to the end")
    time_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="0.5 replays twice as fast")
    length_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="multiplies token counts")
    sha256: str | None = Field(default=None, description="of the file; filled in when it has been read")

    @property
    def options(self) -> str:
        end = "" if self.to_s is None else number(self.to_s)
        span = f" --trace-span {number(self.from_s)}:{end}" if self.from_s or end else ""
        return (
            f"--trace {shlex.quote(self.path)} --trace-format {self.format}{span}"
            f" --time-scale {number(self.time_scale)} --length-scale {number(self.length_scale)}"
        )


class SharedPrefix(Document):
    """The first `share` of every prompt is one of `prefixes` texts: for people who want to measure a cache."""

    share: float = Field(gt=0, le=1)
    prefixes: int = Field(default=1, gt=0)


class ChatFile(Document):
    """Prompts that are conversations; `sha256` is the file's, filled in when it has been read."""

    path: str
    sha256: str | None = None


class Workload(Document):
    """What each request asks for: token-id prompts of drawn or exact length, or conversations from a file.

    Outputs have the length asked for, whatever the model says, unless `natural_ends`: then they end where the model
    ends them, at `output_tokens` at the latest, and two models no longer do the same work.
    """

    prompt_tokens: Length | None = Field(default=None, description="null where `chat` is set")
    output_tokens: Length
    seed: int = Field(default=0, ge=0)
    prefix: SharedPrefix | None = None
    chat: ChatFile | None = None
    natural_ends: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.prompt_tokens is None) == (self.chat is None):
            raise ValueError("give either prompt_tokens or a chat file, not both and not neither")
        if self.prefix is not None and (self.chat is not None or self._shares_blocks):
            raise ValueError("a shared prefix needs token-id prompts that share nothing else")
        return self

    @property
    def _shares_blocks(self) -> bool:
        return isinstance(self.prompt_tokens, TraceTokens) and self.prompt_tokens.shared_blocks

    @property
    def shares_prefixes(self) -> bool:
        """Whether prompts begin alike on purpose: a prefix cache that answers is then what is measured."""
        return self.prefix is not None or self._shares_blocks

    @property
    def uses_trace(self) -> bool:
        return TraceTokens in (type(self.prompt_tokens), type(self.output_tokens))

    @property
    def label(self) -> str:
        prompt = "conversations" if self.prompt_tokens is None else f"{length_spec(self.prompt_tokens)} prompt"
        shared = f", {self.prefix.share:.0%} of it one of {self.prefix.prefixes} prefixes" if self.prefix else ""
        ends = "at most " if self.natural_ends else ""
        return f"{prompt}{shared} and {ends}{length_spec(self.output_tokens)} output tokens"

    @property
    def options(self) -> str:
        """The options of `prunebench loadtest` that ask for it; a trace's lengths come with the trace."""
        asked = {"--prompt-tokens": self.prompt_tokens, "--output-tokens": self.output_tokens}
        lengths = [
            f"{option} {length_spec(length)}"
            for option, length in asked.items()
            if length is not None and not isinstance(length, TraceTokens)
        ]
        chat = [f"--chat {shlex.quote(self.chat.path)}"] if self.chat else []
        prefix = (
            [f"--prefix-share {number(self.prefix.share)} --prefixes {self.prefix.prefixes}"] if self.prefix else []
        )
        natural = ["--natural-ends"] if self.natural_ends else []
        return " ".join([*lengths, *chat, *prefix, *natural, f"--seed {self.seed}"])


class Level(Document):
    """How hard the server is driven. Exactly one of `concurrency` (closed loop) and `arrivals` (open loop) is set.

    Also takes what runs of version 1 hold: `rate_per_s` beside `arrivals` that are a word.
    """

    concurrency: int | None = Field(default=None, gt=0)
    arrivals: Arrivals | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "rate_per_s" not in data:
            return data
        rest = {name: value for name, value in data.items() if name not in ("rate_per_s", "arrivals")}
        kind, rate_per_s = data.get("arrivals"), data["rate_per_s"]
        if rate_per_s is None:
            return rest
        if data.get("concurrency") is not None:
            raise ValueError("give either a concurrency or a rate, not both")
        if kind not in ("constant", "poisson"):
            raise ValueError("a rate needs arrivals: constant or poisson")
        return rest | {"arrivals": {"kind": kind, "rate_per_s": rate_per_s}}

    @property
    def loop(self) -> Literal["closed", "open"]:
        return "closed" if self.concurrency is not None else "open"

    @property
    def stationary(self) -> bool:
        """Whether the load is meant to stay as it is: what a server then does over time is its own doing."""
        return not isinstance(self.arrivals, Steps | Ramp | Replay)

    @property
    def rate_per_s(self) -> float | None:
        """The open loop's mean rate, None for a closed loop."""
        return self.arrivals.rate_per_s if self.arrivals else None

    @property
    def label(self) -> str:
        return self.arrivals.label if self.arrivals else f"concurrency {self.concurrency}"

    @property
    def options(self) -> str:
        """The options of `prunebench loadtest` that ask for it; a trace's times come with the trace."""
        return self.arrivals.options if self.arrivals else f"--concurrency {self.concurrency}"
