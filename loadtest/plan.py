"""What is sent to which model in which order: everything about a run that can be decided before it starts.

The plan is a file: the runner writes it, the Locust process plays it, and it is kept with the results. Arms are
interleaved in mirrored order (ABBA; for more arms ABCD DCBA ...), so that a machine which slowly warms up or is slowly
loaded by others touches all arms alike.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from artifacts.arrivals import Replay, Steps
from artifacts.document import Document
from artifacts.energy import EnergyLog
from artifacts.run import Level, Window, Workload
from loadtest.conversations import Conversation
from loadtest.limits import DEFAULT_WINDOW_S, parse_limits
from loadtest.replay import ReplayedTrace


class Segment(Document):
    """One arm in one block: a lead-in that is not counted, then the measured window."""

    arm: int
    block: int


class Plan(Document):
    """The whole run. `arms` are names of models or mixes; the reference, if there is one, comes first.

    What it plays from files - a trace, conversations - it holds, so that it can be played again without them.
    """

    schema_version: Literal[1, 2] = 2
    url: str
    arms: tuple[str, ...] = Field(min_length=1)
    level: Level
    workload: Workload
    blocks: int = Field(gt=0)
    window_s: float = Field(gt=0, description="measured seconds of one arm in one block")
    lead_in_s: float = Field(ge=0, description="seconds of load before each window")
    timeout_s: float = Field(gt=0, description="a request that takes longer fails")
    token_range: tuple[int, int] = Field(
        default=(3, 500),
        description="prompt ids are drawn from [low, high): above the usual special ids, inside the smallest "
        "vocabularies, and wide enough that no two prompts are equal",
    )
    nonce: int = Field(ge=0, description="drawn per run: makes its prompts new to every prefix cache")
    context_tokens: int | None = Field(default=None, gt=1, description="prompt and output are cut to fit into it")
    client_processes: int = Field(default=1, gt=0, description="Locust workers that share the schedule out")
    stop_on: str = Field(default="", description="limits that end the run between two segments, see loadtest.limits")
    stop_on_window_s: float = Field(default=DEFAULT_WINDOW_S, gt=0)
    served_here: bool = Field(default=False, description="whether this machine's energy is that of what is asked")
    trace: ReplayedTrace | None = None
    conversations: tuple[Conversation, ...] = ()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        arrivals = self.level.arrivals
        if (self.level.concurrency is None) == (arrivals is None):
            raise ValueError("give either a concurrency or a rate, not both and not neither")
        if isinstance(arrivals, Steps) and arrivals.total_s > self.window_s * (1 + 1e-9):
            raise ValueError(f"the steps last {arrivals.total_s:g} s, a block's window only {self.window_s:g} s")
        if (isinstance(arrivals, Replay) or self.workload.uses_trace) != (self.trace is not None):
            raise ValueError("a trace is needed for a trace's times or lengths, and for nothing else")
        if (self.workload.chat is not None) != bool(self.conversations):
            raise ValueError("conversations belong to a chat file")
        parse_limits(self.stop_on)
        if not 0 <= self.token_range[0] < self.token_range[1]:
            raise ValueError("token_range must be [low, high) with 0 <= low < high")
        return self

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(
            Segment(arm=arm, block=block)
            for block in range(self.blocks)
            for arm in (range(len(self.arms)) if block % 2 == 0 else reversed(range(len(self.arms))))
        )

    @property
    def segment_s(self) -> float:
        """Lead-in and window of one arm in one block."""
        return self.lead_in_s + self.window_s

    @property
    def planned_s(self) -> float:
        """Load time of all segments, the drains between them apart."""
        return len(self.arms) * self.blocks * self.segment_s

    @property
    def path(self) -> str:
        """Where requests go, below `url`."""
        return "/v1/chat/completions" if self.conversations else "/v1/completions"

    def rows(self, block: int) -> range:
        """The numbers of the trace's requests that a block replays: the blocks' slices follow one another."""
        assert self.trace is not None
        return self.trace.rows_between(block * self.segment_s, (block + 1) * self.segment_s)


class Outcome(Document):
    """What the player hands back beside the records."""

    windows: tuple[Window, ...]
    client_cpu_s: float = Field(description="processor time of the client inside the windows; of several, the most")
    served_first: bool = Field(description="whether the client, every process of it, ran in the real-time class")
    loop_lags_s: tuple[float, ...] = Field(default=(), description="how late the client's event loop woke, sampled")
    energy: EnergyLog | None = Field(default=None, description="null from a process that another reads for")
