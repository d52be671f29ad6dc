"""Which addresses requests may come from."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from ingest.errors import NotAuthentic

Network = IPv4Network | IPv6Network

UNIX_SOCKET = "unix"
"""What stands for the address of a sender at a Unix socket."""
# IPv4 addresses are written as IPv6 ones below ::ffff:0:0/96 (RFC 4291, section 2.5.5.2).
MAPPED_BITS = 96


def check_sender(sender: str, listed: Iterable[Network]) -> None:
    """Raise NotAuthentic unless this address is listed."""
    if not sender:
        raise NotAuthentic("It cannot be told from which address it came, see FORWARDED_BY.")
    address = _parse(sender)
    if address is None or not any(address in network for network in listed):
        raise NotAuthentic("It came from an address that is not in PLUGSURFING_SOURCES.")


def normalize_address(text: str) -> str:
    """Return an address in its shortest form: IPv4 not mapped into IPv6, no zone. Empty if it is none."""
    address = _parse(text)
    return "" if address is None else str(address)


def trusted_proxies(networks: Iterable[Network]) -> list[str]:
    """Return what uvicorn's ProxyHeadersMiddleware is to trust: these networks, however their addresses are written.

    A sender at a Unix socket has no address and is on this machine: it counts as a proxy of ours.
    """
    given = list(networks)
    mapped = [
        f"::ffff:{each.network_address}/{MAPPED_BITS + each.prefixlen}"
        for each in given
        if isinstance(each, IPv4Network)
    ]
    return [*(str(each) for each in given), *mapped, UNIX_SOCKET]


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        # Without its zone: that is a name on the machine that wrote it, and may be any text.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
