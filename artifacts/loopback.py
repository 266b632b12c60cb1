"""Does a host name this machine? The server trusts those who ask from it, the load test reads its meters."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """Whether `host` is `localhost` or an address of the loopback interface, IPv4 mapped into IPv6 included."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
