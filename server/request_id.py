"""Under which name can one request be found again, in the client's log, here and in the engine's?

The client's own `x-request-id` where it is fit to be written into headers and logs; else one made here. The engine gets
it as the base of its ids, and every answer carries it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

HEADER = b"x-request-id"
MAX_BYTES = 128


class RequestIds:
    """Names requests: a number after a random prefix is unique among all servers and costs next to nothing."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex().encode()
        self._numbers = itertools.count(1)

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """At most `MAX_BYTES` of printable ASCII."""
        for name, value in headers:
            if name == HEADER and is_fit(value):
                return value
        return b"%b-%x" % (self._prefix, next(self._numbers))


def is_fit(given: bytes) -> bool:
    """Whether a client's id can be used as it is."""
    return 0 < len(given) <= MAX_BYTES and given.isascii() and given.decode("ascii").isprintable()
