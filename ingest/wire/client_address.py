"""Where a request comes from, and whether requests may come from there."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from ingest.errors import NotAuthentic

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED_FOR = b"x-forwarded-for"


@dataclass(frozen=True)
class AllowedSources:
    """The addresses that requests may come from."""

    listed: tuple[Network, ...]
    proxies: tuple[Network, ...] = ()
    """Those whose word we take for who sent what they pass on."""

    def sender(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Name the address of the sender: the last one that is none of our proxies. Empty if it cannot be told.

        `peer` is at the other end of the connection. A peer without an address, at a Unix socket, is on this machine:
        it counts as a proxy of ours if we have any.
        """
        address = _read(peer) if peer else None
        if not self.proxies or (peer and not _is_among(address, self.proxies)):
            return _text(address)
        # Every proxy adds who spoke to it at the end, so what an outsider made up is to the left of who it is.
        passed_on = b",".join(value for name, value in headers if name == FORWARDED_FOR)
        for said in reversed(passed_on.split(b",") if passed_on else []):
            address = _read(said.decode("latin-1"))
            if not _is_among(address, self.proxies):
                break
        return _text(address)

    def check(self, sender: str) -> None:
        """Raise NotAuthentic unless this address is listed."""
        if not sender:
            raise NotAuthentic("It cannot be told from which address it came, see FORWARDED_BY.")
        if not _is_among(_read(sender), self.listed):
            raise NotAuthentic("It came from an address that is not in PLUGSURFING_SOURCES.")


def _read(text: str) -> Address | None:
    text = text.strip(" \t")
    if text.startswith("["):  # as in [2001:db8::7]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # as in 192.0.2.7:443
        text = text.partition(":")[0]
    try:
        # Without its zone: that is a name on the machine that wrote it, and may be any text.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_among(address: Address | None, networks: tuple[Network, ...]) -> bool:
    return address is not None and any(address in network for network in networks)


def _text(address: Address | None) -> str:
    return "" if address is None else str(address)
