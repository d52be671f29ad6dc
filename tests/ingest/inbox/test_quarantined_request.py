import dataclasses

import pytest

from ingest.config.types import read_networks
from ingest.errors import NotAuthentic
from ingest.inbox.quarantined_request import Authorization, from_request, from_row
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys, sign

BODY = b'{"event": "SESSION_STARTED"}'
KEY, TOKEN = b"the-key", b"Bearer the-token"
SOURCES = read_networks("192.0.2.0/24")
SIGNED = (SIGNATURE_HEADER.encode(), sign(BODY, KEY).encode())
AUTHORIZED = (b"authorization", TOKEN)


def refused(headers, keys):
    return from_request(Kind.EVENTS, headers, BODY, NotAuthentic("for a reason"), keys)


def test_a_request_is_stored_with_all_that_reverification_needs():
    request = refused([(b"host", b"x"), SIGNED, SIGNED, (b"user-agent", b"u" * 900)], SigningKeys())

    assert request.reason == "for a reason"
    assert request.body == BODY
    assert [name for name, _ in request.headers] == [SIGNATURE_HEADER, SIGNATURE_HEADER, "user-agent"]
    assert len(request.headers[-1][1]) == 500


def test_two_values_of_a_repeated_header_are_stored():
    request = refused([(b"requestid", b"%d" % number) for number in range(5000)] + [SIGNED] * 5000, SigningKeys())

    assert request.headers == (
        ("requestid", "0"),
        ("requestid", "1"),
        *((name.decode(), value.decode()) for name, value in (SIGNED, SIGNED)),
    )
    assert opened(request, SigningKeys(current=KEY)) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([AUTHORIZED], Authorization.RIGHT),
        ([(b"authorization", b"Bearer another")], Authorization.FAILED),
        ([AUTHORIZED, AUTHORIZED], Authorization.FAILED),
        ([], Authorization.FAILED),
    ],
)
def test_only_the_result_of_the_authorization_check_is_stored(headers, expected):
    request = refused([SIGNED, *headers], SigningKeys(authorizations=(TOKEN,)))

    assert request.authorization is expected
    assert "Bearer" not in request.headers_text
    assert "Bearer" not in repr(request)


def test_any_bytes_in_a_header_survive_the_row():
    request = refused([(SIGNATURE_HEADER.encode(), bytes(range(128, 256)))], SigningKeys())
    row = (0, "events", request.received_at.timestamp(), request.reason, request.headers_text, BODY)

    assert dataclasses.replace(from_row(row), received_at=request.received_at) == request


@pytest.mark.parametrize(
    ("then", "today", "signature_required", "signed_with"),
    [
        # The right key passes what a wrong one refused.
        ([SIGNED], SigningKeys(current=KEY), True, "current"),
        ([SIGNED], SigningKeys(next=KEY), True, "next"),
        ([SIGNED], SigningKeys(current=b"still wrong"), True, None),
        ([], SigningKeys(current=KEY), True, None),
        ([SIGNED, SIGNED], SigningKeys(current=KEY), True, None),
        # An authorization that was right on arrival counts, whatever the value is today.
        ([SIGNED, AUTHORIZED], SigningKeys(current=KEY, authorizations=(b"a new one",)), True, "current"),
        ([SIGNED, AUTHORIZED], SigningKeys(current=KEY), True, "current"),
        ([AUTHORIZED], SigningKeys(authorizations=(TOKEN,)), False, "authorization"),
        # One that failed on arrival fails while one is expected.
        ([SIGNED, (b"authorization", b"wrong")], SigningKeys(current=KEY, authorizations=(TOKEN,)), True, None),
        ([SIGNED, (b"authorization", b"wrong")], SigningKeys(current=KEY), True, "current"),
    ],
)
def test_a_request_refused_while_an_authorization_was_expected(then, today, signature_required, signed_with):
    request = refused(then, SigningKeys(current=b"wrong", authorizations=(TOKEN,)))

    assert opened(request, today, signature_required=signature_required) == signed_with


def test_a_request_without_an_expected_authorization_has_to_be_signed():
    """Otherwise anything that arrived before the setting changed would pass."""
    unsigned, signed = (
        refused([AUTHORIZED], SigningKeys(current=b"wrong")),
        refused([SIGNED], SigningKeys(current=b"wrong")),
    )

    assert opened(unsigned, SigningKeys(authorizations=(TOKEN,)), signature_required=False) is None
    assert opened(signed, SigningKeys(current=KEY, authorizations=(TOKEN,)), signature_required=False) == "current"


@pytest.mark.parametrize(
    ("sender", "key", "sources", "is_let_in"),
    [
        ("192.0.2.7", KEY, SOURCES, True),
        ("192.0.2.7", b"wrong", SOURCES, False),
        ("203.0.113.9", KEY, SOURCES, False),
        ("", KEY, SOURCES, False),
        # No sources are configured today, or none were when it arrived.
        ("203.0.113.9", KEY, (), True),
        (None, KEY, SOURCES, True),
    ],
)
def test_a_request_from_an_unlisted_address_passes_once_the_address_is_listed(sender, key, sources, is_let_in):
    request = from_request(
        Kind.EVENTS, [SIGNED], BODY, NotAuthentic("for a reason"), SigningKeys(current=KEY), sender=sender
    )
    row = (0, "events", request.received_at.timestamp(), request.reason, request.headers_text, BODY)

    assert (opened(from_row(row), SigningKeys(current=key), sources=sources) == "current") is is_let_in


def test_a_row_without_a_sender_can_be_parsed():
    row = (0, "events", 0.0, "for a reason", '{"authorization": "not asked", "headers": []}', BODY)

    assert from_row(row).sender is None


def opened(request, keys, *, signature_required=True, sources=()):
    try:
        envelope = request.reverify(keys, signature_required=signature_required, sources=sources)
    except NotAuthentic:
        return None
    assert envelope.received_at == request.received_at
    assert envelope.body == BODY
    return envelope.signed_with
