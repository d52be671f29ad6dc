"""Tells an address that only this machine reaches from one that others reach, too."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches a server on that address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
