import hashlib
from datetime import UTC, datetime

import pytest

from ingest.envelope import HEADERS_KEPT, Envelope, Kind, headers_to_keep, open_envelope
from ingest.errors import NotAuthentic
from ingest.keyring import Keys
from ingest.signature import sign

CURRENT, NEXT = b"the-current-key", b"the-next-key"
KEYS = Keys(CURRENT, NEXT)
BODY = b'{"event": "SESSION_STARTED"}'
NOW = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)
SIGNED = (b"x-hmac-sha512-signature", sign(BODY, CURRENT).encode())
AUTHORIZED = (b"authorization", b"Bearer sesam")


def opened(*headers, keys=KEYS, signature_required=True, kind=Kind.EVENTS, body=BODY):
    return open_envelope(kind, list(headers), body, keys, signature_required=signature_required, received_at=NOW)


def refused(*headers, **options):
    with pytest.raises(NotAuthentic) as caught:
        opened(*headers, **options)
    assert caught.value.status == 403
    return str(caught.value)


def test_a_signed_request_is_opened():
    envelope = opened(SIGNED)
    assert (envelope.kind, envelope.body, envelope.received_at) == (Kind.EVENTS, BODY, NOW)
    assert (envelope.signed_with, envelope.signed_at, envelope.headers) == ("current", None, {})
    assert opened((SIGNED[0], sign(BODY, NEXT).encode())).signed_with == "next"


def test_header_names_are_read_in_any_case():
    assert opened((b"X-HMAC-SHA512-Signature", SIGNED[1])).signed_with == "current"


@pytest.mark.parametrize("around", [b" %b", b"%b ", b"%b\t", b"\t %b \t "])
def test_white_space_around_a_header_is_no_part_of_it(around):
    keys = Keys(CURRENT, None, (b"Bearer sesam",))
    signed_at = (b"x-hmac-sha512-signedat", around % b"2025-06-12T12:00:00Z")
    envelope = opened(*[(name, around % value) for name, value in (SIGNED, AUTHORIZED)], signed_at, keys=keys)
    assert (envelope.signed_with, envelope.signed_at) == ("current", NOW)


@pytest.mark.parametrize("wrong", [b"%b\n", b"%b\r", b"%b\x0b", b"%b\xa0", b"%b\0", b"%b=", b'"%b"'])
def test_nothing_else_around_a_header_is_forgiven(wrong):
    keys = Keys(CURRENT, None, (b"Bearer sesam",))
    assert refused((SIGNED[0], wrong % SIGNED[1]), AUTHORIZED, keys=keys)
    assert refused(SIGNED, (AUTHORIZED[0], wrong % AUTHORIZED[1]), keys=keys)


def test_a_request_without_a_signature_or_with_a_wrong_one_is_refused():
    assert refused() == "There is no signature."
    assert refused((SIGNED[0], b"")) == refused((SIGNED[0], b"x")) == refused(SIGNED, body=BODY + b" ")


def test_a_doubled_signature_is_refused_even_if_both_are_right():
    assert "2" in refused(SIGNED, SIGNED)
    assert refused(SIGNED, SIGNED, AUTHORIZED, keys=Keys(None, None, (b"Bearer sesam",)), signature_required=False)


def test_the_authorization_header_is_asked_for_beside_the_signature():
    keys = Keys(CURRENT, None, (b"Bearer other", b"Bearer sesam"))
    assert opened(SIGNED, AUTHORIZED, keys=keys).signed_with == "current"
    assert refused(SIGNED, keys=keys) == "There is no authorization header."
    assert refused(SIGNED, (b"authorization", b"Bearer Sesam"), keys=keys) == "The authorization header is wrong."
    assert refused(SIGNED, AUTHORIZED, AUTHORIZED, keys=keys)
    assert refused(AUTHORIZED, keys=keys) == "There is no signature."


def test_the_authorization_header_is_enough_where_no_signature_is_required():
    keys = Keys(None, None, (b"Bearer sesam",))
    assert opened(AUTHORIZED, keys=keys, signature_required=False).signed_with == "authorization"
    assert opened(AUTHORIZED, (SIGNED[0], b"?"), keys=keys, signature_required=False).signed_with == "authorization"
    assert refused((b"authorization", b""), keys=keys, signature_required=False)
    assert refused((b"authorization", b"\xff"), keys=keys, signature_required=False)


def test_a_signature_that_came_unasked_must_be_right_if_there_is_a_key():
    keys = Keys(CURRENT, None, (b"Bearer sesam",))
    assert opened(AUTHORIZED, SIGNED, keys=keys, signature_required=False).signed_with == "current"
    assert opened(AUTHORIZED, keys=keys, signature_required=False).signed_with == "authorization"
    assert refused(AUTHORIZED, (SIGNED[0], b"?"), keys=keys, signature_required=False)


@pytest.mark.parametrize("headers", [(), (AUTHORIZED,), (SIGNED,)])
@pytest.mark.parametrize("signature_required", [True, False])
def test_where_nothing_can_be_proven_nothing_is_let_in(headers, signature_required):
    assert refused(*headers, keys=Keys(), signature_required=signature_required)


def test_only_harmless_headers_are_kept():
    envelope = opened(
        SIGNED,
        AUTHORIZED,
        (b"cookie", b"session=1"),
        (b"x-api-key", b"key"),
        (b"proxy-authorization", b"Basic x"),
        (b"Content-Type", b"application/json"),
        (b"user-agent", b"Plugsurfing"),
        (b"x-request-id", b"r1"),
        (b"x-request-id", b"r2"),
        (b"requestid", b"a\x00b\x1b[31m\xe9"),
        (b"x-hmac-sha512-signedat", b"x" * 9000),
        keys=Keys(CURRENT, None, (b"Bearer sesam",)),
    )
    assert envelope.headers.keys() == HEADERS_KEPT
    assert envelope.headers["content-type"] == "application/json"
    assert envelope.headers["x-request-id"] == "r1"
    assert envelope.headers["requestid"] == "ab[31mé"
    assert len(envelope.headers["x-hmac-sha512-signedat"]) == 500
    assert not any("sesam" in value or SIGNED[1].decode() in value for value in envelope.headers.values())


def test_a_header_that_a_setting_names_is_kept_beside_them():
    headers = [SIGNED, (b"Delivery-Number", b"r1"), (b"user-agent", b"Plugsurfing"), (b"other", b"x")]
    envelope = open_envelope(
        Kind.CDRS,
        headers,
        BODY,
        KEYS,
        signature_required=True,
        received_at=NOW,
        keeping=headers_to_keep(["delivery-number"]),
    )
    assert envelope.headers == {"delivery-number": "r1", "user-agent": "Plugsurfing"}


@pytest.mark.parametrize(
    ("written", "signed_at"),
    [
        (b"2025-06-12T12:00:00Z", NOW),
        (b"2025-06-12 14:00:00.000+0200", NOW),
        (b"1749729600", NOW),
        (b"1749729600000", NOW),
        (b"yesterday", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"9" * 9000, None),
    ],
)
def test_the_time_of_signing_is_read_if_it_can_be(written, signed_at):
    assert opened(SIGNED, (b"x-hmac-sha512-signedat", written)).signed_at == signed_at


def test_the_same_bytes_have_the_same_id_only_for_the_same_kind():
    first, again = opened(SIGNED), opened((SIGNED[0], sign(BODY, NEXT).encode()), (b"user-agent", b"x"))
    assert first.id == again.id == hashlib.sha256(b"events\0" + BODY).hexdigest()[:32]
    assert opened(SIGNED, kind=Kind.CDRS).id != first.id


def test_no_bytes_of_the_other_kind_can_have_the_same_id():
    body = b"x"
    one = Envelope(Kind.EVENTS, body, NOW, "current", None, {})
    other = Envelope(Kind.CDRS, b"events\0" + body, NOW, "current", None, {})
    assert one.id != other.id


def test_neither_a_body_nor_a_key_is_ever_shown():
    envelope = Envelope(Kind.EVENTS, b"user1", NOW, "current", None, {})
    assert "user1" not in repr(envelope)
    assert "key" not in repr(Keys(CURRENT, NEXT, (b"the-authorization-key",)))


def test_what_headers_say_makes_no_two_deliveries_one():
    same = ((b"x-request-id", b"1"), (b"requestid", b"1"), (b"x-hmac-sha512-signedat", b"2025-06-12T10:56:51Z"))
    bodies = (b"one", b"two")
    ids = {opened((SIGNED[0], sign(body, CURRENT).encode()), *same, body=body).id for body in bodies}
    assert len(ids) == 2
