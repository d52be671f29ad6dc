import asyncio

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ingest.config.settings import load_settings
from ingest.config.types import read_networks
from ingest.errors import NotAuthentic, SettingsError
from ingest.wire.client_address import UNIX_SOCKET, check_sender, normalize_address, trusted_proxies

PROXIES = "10.0.0.0/8, fd00::/8"


def check(sender, listed="192.0.2.0/24, 2001:db8::7"):
    check_sender(sender, read_networks(listed))


def sender_behind(proxies, peer, forwarded_for):
    """Return the sender of a request as an endpoint behind these proxies sees it."""
    seen = []

    async def endpoint(scope, _receive, _send):
        seen.append(normalize_address(scope["client"][0]))

    app = ProxyHeadersMiddleware(endpoint, trusted_proxies(read_networks(proxies))) if proxies else endpoint
    headers = [(b"x-real-ip", b"192.0.2.8"), *((b"x-forwarded-for", value) for value in forwarded_for)]
    asyncio.run(app({"type": "http", "client": (peer, 1), "headers": headers}, None, None))
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "proxies", "sender"),
    [
        ("192.0.2.7", [], "", "192.0.2.7"),
        ("2001:DB8:0::7", [], "", "2001:db8::7"),
        ("::ffff:192.0.2.7", [], "", "192.0.2.7"),
        ("fe80::1%eth0", [], "", "fe80::1"),
        # Only our proxies may name a sender.
        ("203.0.113.9", [b"192.0.2.7"], "", "203.0.113.9"),
        ("203.0.113.9", [b"192.0.2.7"], PROXIES, "203.0.113.9"),
        ("10.0.0.1", [b"192.0.2.7"], PROXIES, "192.0.2.7"),
        ("10.0.0.1", [b"192.0.2.7"], "10.0.0.1", "192.0.2.7"),
        ("10.0.0.2", [b"192.0.2.7"], "10.0.0.1", "10.0.0.2"),
        ("::ffff:10.0.0.1", [b"192.0.2.7"], PROXIES, "192.0.2.7"),
        ("::ffff:11.0.0.1", [b"192.0.2.7"], PROXIES, "11.0.0.1"),
        ("fd00::1", [b"10.0.0.1"], PROXIES, "10.0.0.1"),
        # What an outsider made up is to the left of the outsider's address.
        ("10.0.0.1", [b"192.0.2.7, 203.0.113.9"], PROXIES, "203.0.113.9"),
        ("10.0.0.1", [b"192.0.2.7", b"203.0.113.9"], PROXIES, "203.0.113.9"),
        ("10.0.0.1", [b"192.0.2.7,203.0.113.9 ,10.0.0.2", b"\tfd00::1"], PROXIES, "203.0.113.9"),
        ("10.0.0.1", [b"192.0.2.7,203.0.113.9, ::ffff:10.0.0.2"], PROXIES, "203.0.113.9"),
        ("10.0.0.1", [b"junk, 192.0.2.7"], PROXIES, "192.0.2.7"),
        ("10.0.0.1", [b"192.0.2.7, unix"], PROXIES, "192.0.2.7"),
        # As proxies write them.
        ("10.0.0.1", [b"192.0.2.7:443"], PROXIES, "192.0.2.7"),
        ("10.0.0.1", [b"[2001:db8::7]:443"], PROXIES, "2001:db8::7"),
        ("10.0.0.1", [b"::ffff:c000:207"], PROXIES, "192.0.2.7"),
        # A proxy that names nobody is the sender.
        ("10.0.0.1", [], PROXIES, "10.0.0.1"),
        ("10.0.0.1", [b"192.0.2.7,"], PROXIES, "10.0.0.1"),
        # To the left of what cannot be parsed, nothing counts.
        ("10.0.0.1", [b"192.0.2.7, unknown"], PROXIES, ""),
        ("10.0.0.1", [b"192.0.2.7, \xff\x00, 10.0.0.2"], PROXIES, ""),
        ("10.0.0.1", [b"192.0.2.7, 1.2.3.4.5"], PROXIES, ""),
        ("no address", [b"192.0.2.7"], PROXIES, ""),
        (UNIX_SOCKET, [b"192.0.2.7"], PROXIES, "192.0.2.7"),
        (UNIX_SOCKET, [b"192.0.2.7"], "", ""),
        (UNIX_SOCKET, [], PROXIES, ""),
        ("", [], "", ""),
    ],
)
def test_the_sender_is_the_last_address_that_is_not_one_of_our_proxies(peer, forwarded_for, proxies, sender):
    assert sender_behind(proxies, peer, forwarded_for) == sender


@pytest.mark.parametrize("sender", ["192.0.2.0", "192.0.2.255", "2001:db8::7"])
def test_a_listed_address_is_allowed(sender):
    check(sender)


@pytest.mark.parametrize(
    ("sender", "reason"),
    [
        ("192.0.3.0", "not in PLUGSURFING_SOURCES"),
        ("2001:db8::8", "not in PLUGSURFING_SOURCES"),
        ("::1", "not in PLUGSURFING_SOURCES"),
        ("", "cannot be told"),
    ],
)
def test_any_other_address_is_refused(sender, reason):
    with pytest.raises(NotAuthentic, match=reason):
        check(sender)


def test_a_listed_ipv4_network_may_be_written_as_ipv6():
    check("192.0.2.9", "::ffff:192.0.2.0/120")
    check("2001:db8::9", "::/0")


def test_without_a_list_every_address_is_allowed():
    assert load_settings().plugsurfing_sources == ()
    assert load_settings(forwarded_by="10.0.0.1").plugsurfing_sources == ()


@pytest.mark.parametrize("name", ["plugsurfing_sources", "forwarded_by"])
@pytest.mark.parametrize(
    "value",
    [
        " ",
        ",",
        "plugsurfing.com",
        "192.0.2.7/24",
        "192.0.2.0/33",
        "192.0.2.7,nonsense",
        "192.0.2.7:443",
        "7",
    ],
)
def test_a_wrong_list_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=rf"^{name.upper()} (must be addresses and networks|is set, but empty)"):
        load_settings(**{name: value})


def test_a_list_is_shown_as_it_was_understood():
    settings = load_settings(plugsurfing_sources="192.0.2.7 ,2001:DB8::/32")
    shown = {one.name: one.effective for one in settings.describe_all()}
    assert shown["PLUGSURFING_SOURCES"] == "192.0.2.7/32,2001:db8::/32"
