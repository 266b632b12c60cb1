"""May this request come in, whatever it asks for? Decided from its head alone, before a byte of its body is read.

Who sends it, may that key do this, and is it within its rate? Without a key file everybody may ask, and whoever is on
this machine may steer. What a key opened goes on without the key: a worker has no business with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from artifacts.loopback import is_loopback
from server import faults
from server.asgi import Message, Scope, Send
from server.faults import RATE_HEADERS, Headers
from server.keys import CREDENTIALS, KEY_NAME, Key, Keyring
from server.rate import TokenBucket
from server.request_head import RequestHead, header_lines

OPEN_PATHS = frozenset(("/health", "/ready"))
_READING = frozenset(("GET", "HEAD"))


class Doorkeeper:
    """Asked once per request, before anybody else."""

    def __init__(self, keyring: Keyring | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._keyring = keyring
        self._clock = clock

    def admit(self, scope: Scope, send: Send, forwarded: bool) -> Send:
        """How to answer it; the answers of keys with a rate say what is left of it. Its key is taken out of `scope`.

        Raises ServingError: 401 without a known key, 403 without the right to steer, 429 over the key's rate.
        """
        reads = scope["method"] in _READING
        if self._keyring is None:
            if not (forwarded or reads or is_local(scope)):
                raise faults.control_from_afar()
            return send
        if reads and scope["path"] in OPEN_PATHS:
            return send
        key = self._keyring.identify(scope["headers"])
        scope[KEY_NAME] = key.entry.name
        if not (forwarded or reads or key.entry.role == "control"):
            raise faults.not_a_control_key(key.entry.name)
        scope["headers"] = [field for field in scope["headers"] if field[0] not in CREDENTIALS]
        return send if key.bucket is None else telling(send, self.charge(key, key.bucket))

    def asker(self, head: RequestHead) -> Key | None:
        """Whose request it is that goes to a worker; None where nobody needs a key, and then the worker gets it.

        Raises ServingError (401).
        """
        if self._keyring is not None:
            return self._keyring.identify(head.credentials)
        head.onward += header_lines(head.credentials)
        return None

    def charge(self, key: Key, bucket: TokenBucket) -> Headers:
        """What the key's owner is told of its rate. Raises ServingError (429)."""
        wait_s = bucket.take(self._clock())
        if wait_s:
            raise faults.RateExceeded(key.entry.name, bucket.per_minute, bucket.burst, wait_s)
        return faults.rate_headers(bucket.burst, bucket.remaining)


def telling(send: Send, told: Headers) -> Send:
    """`send` for an answer that says what is left of a key's rate."""

    async def send_told(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [field for field in message["headers"] if field[0] not in RATE_HEADERS] + told
        await send(message)

    return send_told


def is_local(scope: Scope) -> bool:
    """Whether somebody on this machine asks, and not a page from elsewhere that a browser on it shows."""
    client = scope.get("client")
    origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
    from_here = not client or is_loopback(client[0])  # a client without an address came through a Unix socket
    return from_here and (origin is None or is_loopback(_host_of(origin)))


def _host_of(origin: bytes) -> str:
    try:
        return urlsplit(origin.decode("ascii")).hostname or ""
    except ValueError:
        return ""
