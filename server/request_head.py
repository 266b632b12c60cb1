"""What do a request's headers say to the gateway, and which of them go on to the worker? Found in one pass."""

from __future__ import annotations

from collections.abc import Iterable

from server.keys import CREDENTIALS
from server.request_id import HEADER as REQUEST_ID

Field = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade host expect".split()
)
_SET_ASIDE = HOP_BY_HOP | CREDENTIALS | {b"content-length", REQUEST_ID}


class RequestHead:
    """A POST to a worker: `target` is path and query as they came, `onward` the header lines that any worker gets."""

    __slots__ = (
        "credentials",
        "declared_bytes",
        "expects_continue",
        "given_ids",
        "headers",
        "onward",
        "path",
        "target",
    )

    def __init__(self, path: str, target: bytes, headers: list[Field]) -> None:
        self.path = path
        self.target = target
        self.headers = headers
        self.credentials: list[Field] = []
        self.given_ids: list[Field] = []
        self.declared_bytes = 0
        self.expects_continue = False
        self.onward = b"".join([b"%b: %b\r\n" % field for field in headers if field[0] not in _SET_ASIDE])
        for field in headers:
            if field[0] in _SET_ASIDE:
                self._set_aside(field)

    def _set_aside(self, field: Field) -> None:
        name, value = field
        if name == b"content-length":
            self.declared_bytes = int(value)
        elif name in CREDENTIALS:
            self.credentials.append(field)
        elif name == REQUEST_ID:
            self.given_ids.append(field)
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"


def header_lines(fields: Iterable[Field]) -> bytes:
    """As they go over the wire."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])
