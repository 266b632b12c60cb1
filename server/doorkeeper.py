"""May this request come in, whatever it asks for? Decided from its head alone, before a byte of its body is read.

Who sends it, may that key do this, and is it within its rate? Without a key file everybody may ask, and whoever is on
this machine may steer. What a key opened goes on without the key: a worker has no business with it.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from server import faults
from server.forward import Scope, Send
from server.keys import CREDENTIALS, Key, Keyring
from server.rate import TokenBucket

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
        if not (forwarded or reads or key.entry.role == "control"):
            raise faults.not_a_control_key(key.entry.name)
        scope["headers"] = [field for field in scope["headers"] if field[0] not in CREDENTIALS]
        return send if key.bucket is None else self._charged(key, key.bucket, send)

    def _charged(self, key: Key, bucket: TokenBucket, send: Send) -> Send:
        wait_s = bucket.take(self._clock())
        if wait_s:
            raise faults.RateExceeded(key.entry.name, bucket.per_minute, bucket.burst, wait_s)
        told = faults.rate_headers(bucket.burst, bucket.remaining)

        async def send_told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                others = [field for field in message["headers"] if field[0] not in faults.RATE_HEADERS]
                message["headers"] = others + told
            await send(message)

        return send_told


def is_local(scope: Scope) -> bool:
    """Whether the client is on this machine: it has a loopback address, or none, which is a Unix socket's."""
    client = scope.get("client")
    if not client:
        return True
    address = ipaddress.ip_address(client[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
