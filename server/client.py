"""What do the parts of the data path know of a client's connection, and it of them?"""

from __future__ import annotations

from typing import Protocol

from artifacts.errors import ServingError
from server.request_head import RequestHead


class Upstream(Protocol):
    """What a client slows down and ends."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class Queuing(Protocol):
    """What a queue needs to know of a client."""

    def attach(self, upstream: Upstream) -> None: ...

    def detach(self) -> None: ...


class Client(Queuing, Protocol):
    """What the data path knows of a request's client. `told` is added to the headers of its answer.

    `begin` and `write_body` say what has come of the answer, whose end is `end`, or `cut` where there is no proper one;
    `refuse` is a whole answer.
    """

    head: RequestHead
    told: bytes

    @property
    def body(self) -> bytes: ...

    @property
    def body_bytes(self) -> int: ...

    @property
    def whole(self) -> bool: ...

    @property
    def gone(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    @property
    def refusal(self) -> ServingError | None: ...

    def cut_if_paused(self) -> bool: ...

    def begin(self, status: int, lines: bytes, length: int | None) -> None: ...

    def write_body(self, body: bytes, last: bool) -> None: ...

    def end(self) -> None: ...

    def cut(self) -> None: ...

    def refuse(self, error: ServingError, body: bytes, request_id: bytes) -> None: ...
