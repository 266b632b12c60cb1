"""What one endpoint allows: sizes, numbers at a time, patience. Parts of the fleet file."""

from __future__ import annotations

from pydantic import Field

from artifacts.document import Document


class Limits(Document):
    """How much at a time. What is more is refused in OpenAI's envelope, with `Retry-After` where waiting helps."""

    max_body_bytes: int = Field(default=16 << 20, gt=0)
    max_header_bytes: int = Field(default=64 << 10, gt=0, description="request line and headers together")
    max_prompt_chars: int | None = Field(default=None, gt=0, description="of `prompt`, `input` or all message contents")
    max_in_flight: int = Field(default=1024, gt=0, description="requests being answered by all variants together")
    max_in_flight_per_variant: int | None = Field(default=None, gt=0, description="what is more waits in its queue")
    max_queued: int = Field(default=256, ge=0, description="requests that wait for one variant")


class Timeouts(Document):
    """How long anybody is waited for. A request that is cut off gets an error status, or an error event in a stream."""

    header_s: float = Field(default=20, gt=0, description="a client, for all headers of a request")
    body_s: float = Field(default=60, gt=0, description="a client, for the rest of a request")
    queue_s: float = Field(default=30, gt=0, description="a request, for its turn or for a variant that wakes")
    connect_s: float = Field(default=5, gt=0, description="a worker, to accept a connection")
    first_token_s: float = Field(default=600, gt=0, description="a worker, for the first byte of an answer's body")
    between_tokens_s: float = Field(default=120, gt=0, description="a worker, between two pieces of an answer")
    total_s: float = Field(default=3600, gt=0, description="a whole answer")
    health_s: float = Field(default=20, gt=0, description="a worker, to answer at all; then it is started again")
    drain_s: float = Field(default=30, gt=0, description="requests in flight, when their variant or the server stops")


class Swap(Document):
    """Layout `swap`: few variants are awake, the others wait asleep until they are asked for."""

    awake: int = Field(default=1, gt=0, description="variants that may be awake together")
    level: int = Field(
        default=1, ge=1, le=2, description="vLLM's sleep level on a GPU; on a CPU workers stop and start"
    )
    min_awake_s: float = Field(default=2, ge=0, description="a variant with work is not sent to sleep before this")
