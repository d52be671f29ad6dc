"""Limit wrong logins: from each address, and what is recorded of all together."""

from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

WRONG_LOGINS = parse("10/5minutes")
"""What one address, or one network of IPv6, may try; beyond it even the right secret is refused."""
RECORDED = parse("60/minute")
"""How many wrong logins of all addresses are written to the audit log, so that strangers cannot fill it."""
BUCKETS = 65_536
NETWORK_BITS = 64
"""Of IPv6 whoever has one address has a network of them."""


class LoginLimit:
    """Counts wrong logins by address, in a bounded memory: addresses share a fixed number of counts."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def is_exceeded(self, address: str) -> bool:
        """Return whether this address has given too many wrong secrets."""
        return not self._limiter.test(WRONG_LOGINS, _bucket(address))

    def count_wrong(self, address: str) -> bool:
        """Count a wrong login, and return whether it is to be recorded."""
        return self._limiter.hit(WRONG_LOGINS, _bucket(address)) and self._limiter.hit(RECORDED, "recorded")


def _bucket(address: str) -> str:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        parsed = None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        address = str(ip_network((parsed, NETWORK_BITS), strict=False))
    return str(int.from_bytes(sha256(address.encode()).digest()[:8]) % BUCKETS)
