"""Which hosts are this machine?"""

from __future__ import annotations

import pytest

from artifacts.loopback import is_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1", "::ffff:7f00:1"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "10.0.0.1", "::", "::ffff:10.0.0.1", "fe80::1", "localhost.example.org", "127.1", "127.0.0.1:80"],
)
def test_another_machine_or_none(host: str) -> None:
    assert not is_loopback(host)
