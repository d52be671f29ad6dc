import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import NotAuthentic
from ingest.wire.envelope import HEADERS_KEPT, LONGEST_HEADER, Envelope, Kind, headers_to_keep, verify_request
from ingest.wire.signature import SigningKeys, sign

CURRENT, NEXT = b"the-current-key", b"the-next-key"
KEYS = SigningKeys(CURRENT, NEXT)
BODY = b'{"event": "SESSION_STARTED"}'
NOW = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)
SIGNED = (b"x-hmac-sha512-signature", sign(BODY, CURRENT).encode())
AUTHORIZED = (b"authorization", b"Bearer sesam")


def opened(*headers, keys=KEYS, signature_required=True, kind=Kind.EVENTS, body=BODY):
    return verify_request(kind, list(headers), body, keys, signature_required=signature_required, received_at=NOW)


def refused(*headers, **options):
    with pytest.raises(NotAuthentic) as caught:
        opened(*headers, **options)
    assert caught.value.status == 403
    return str(caught.value)


def test_a_signed_request_is_verified():
    envelope = opened(SIGNED)
    assert (envelope.kind, envelope.body, envelope.received_at) == (Kind.EVENTS, BODY, NOW)
    assert (envelope.signed_with, envelope.signed_at, envelope.headers) == ("current", None, {})
    assert opened((SIGNED[0], sign(BODY, NEXT).encode())).signed_with == "next"


def test_header_names_are_read_in_any_case():
    assert opened((b"X-HMAC-SHA512-Signature", SIGNED[1])).signed_with == "current"


@pytest.mark.parametrize("around", [b" %b", b"%b ", b"%b\t", b"\t %b \t "])
def test_white_space_around_a_header_is_ignored(around):
    keys = SigningKeys(CURRENT, None, (b"Bearer sesam",))
    signed_at = (b"x-hmac-sha512-signedat", around % b"2025-06-12T12:00:00Z")
    envelope = opened(*[(name, around % value) for name, value in (SIGNED, AUTHORIZED)], signed_at, keys=keys)
    assert (envelope.signed_with, envelope.signed_at) == ("current", NOW)


@pytest.mark.parametrize("wrong", [b"%b\n", b"%b\r", b"%b\x0b", b"%b\xa0", b"%b\0", b"%b=", b'"%b"'])
def test_other_characters_around_a_header_are_refused(wrong):
    keys = SigningKeys(CURRENT, None, (b"Bearer sesam",))
    assert refused((SIGNED[0], wrong % SIGNED[1]), AUTHORIZED, keys=keys)
    assert refused(SIGNED, (AUTHORIZED[0], wrong % AUTHORIZED[1]), keys=keys)


def test_a_request_without_a_signature_or_with_a_wrong_one_is_refused():
    assert refused() == "There is no signature."
    assert refused((SIGNED[0], b"")) == refused((SIGNED[0], b"x")) == refused(SIGNED, body=BODY + b" ")


def test_a_doubled_signature_is_refused_even_if_both_are_valid():
    assert "2" in refused(SIGNED, SIGNED)
    assert refused(
        SIGNED, SIGNED, AUTHORIZED, keys=SigningKeys(None, None, (b"Bearer sesam",)), signature_required=False
    )


def test_the_authorization_header_is_required_beside_the_signature():
    keys = SigningKeys(CURRENT, None, (b"Bearer other", b"Bearer sesam"))
    assert opened(SIGNED, AUTHORIZED, keys=keys).signed_with == "current"
    assert refused(SIGNED, keys=keys) == "There is no authorization header."
    assert refused(SIGNED, (b"authorization", b"Bearer Sesam"), keys=keys) == "The authorization header is wrong."
    assert refused(SIGNED, AUTHORIZED, AUTHORIZED, keys=keys)
    assert refused(AUTHORIZED, keys=keys) == "There is no signature."


def test_the_authorization_header_is_enough_where_no_signature_is_required():
    keys = SigningKeys(None, None, (b"Bearer sesam",))
    assert opened(AUTHORIZED, keys=keys, signature_required=False).signed_with == "authorization"
    assert opened(AUTHORIZED, (SIGNED[0], b"?"), keys=keys, signature_required=False).signed_with == "authorization"
    assert refused((b"authorization", b""), keys=keys, signature_required=False)
    assert refused((b"authorization", b"\xff"), keys=keys, signature_required=False)


def test_a_signature_that_is_not_required_must_be_valid_if_there_is_a_key():
    keys = SigningKeys(CURRENT, None, (b"Bearer sesam",))
    assert opened(AUTHORIZED, SIGNED, keys=keys, signature_required=False).signed_with == "current"
    assert opened(AUTHORIZED, keys=keys, signature_required=False).signed_with == "authorization"
    assert refused(AUTHORIZED, (SIGNED[0], b"?"), keys=keys, signature_required=False)


@pytest.mark.parametrize("headers", [(), (AUTHORIZED,), (SIGNED,)])
@pytest.mark.parametrize("signature_required", [True, False])
def test_without_keys_every_request_is_refused(headers, signature_required):
    assert refused(*headers, keys=SigningKeys(), signature_required=signature_required)


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
        keys=SigningKeys(CURRENT, None, (b"Bearer sesam",)),
    )
    assert envelope.headers.keys() == HEADERS_KEPT
    assert envelope.headers["content-type"] == "application/json"
    assert envelope.headers["x-request-id"] == "r1"
    assert envelope.headers["requestid"] == "ab[31mé"
    assert len(envelope.headers["x-hmac-sha512-signedat"]) == 500
    assert not any("sesam" in value or SIGNED[1].decode() in value for value in envelope.headers.values())


def test_a_header_that_a_setting_names_is_kept_beside_them():
    headers = [SIGNED, (b"Delivery-Number", b"r1"), (b"user-agent", b"Plugsurfing"), (b"other", b"x")]
    envelope = verify_request(
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
def test_the_time_of_signing_is_parsed_if_possible(written, signed_at):
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


def test_reprs_show_neither_a_body_nor_a_key():
    envelope = Envelope(Kind.EVENTS, b"user1", NOW, "current", None, {})
    assert "user1" not in repr(envelope)
    assert "key" not in repr(SigningKeys(CURRENT, NEXT, (b"the-authorization-key",)))


def test_headers_do_not_change_the_id_of_a_delivery():
    same = ((b"x-request-id", b"1"), (b"requestid", b"1"), (b"x-hmac-sha512-signedat", b"2025-06-12T10:56:51Z"))
    bodies = (b"one", b"two")
    ids = {opened((SIGNED[0], sign(body, CURRENT).encode()), *same, body=body).id for body in bodies}
    assert len(ids) == 2


def mutated(value):
    """What is nearly that value: shorter, longer, doubled, with one bit turned, in another case, or spelt otherwise."""
    return st.one_of(
        st.just(value),
        st.integers(0, len(value)).map(lambda end: value[:end]),
        st.integers(0, 8 * len(value) - 1).map(lambda bit: turned(value, bit)),
        st.sampled_from(
            [value + b"=", value + b"\n", b"\v" + value, value + value, value.swapcase(), value.replace(b"+", b"-")]
        ),
        st.binary(max_size=100),
    )


def turned(value, bit):
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


KEPT_HEADERS = st.tuples(st.sampled_from(sorted(name.encode() for name in HEADERS_KEPT)), st.binary(max_size=600))
OTHER_HEADERS = st.tuples(st.binary(max_size=20), st.binary(max_size=20))
SPELLINGS = st.sampled_from([bytes.lower, bytes.upper, bytes.title])
AROUND = st.sampled_from([b"%b", b"%b", b" %b", b"%b\t", b"\t %b \t", b"%b\n"])  # the last is no white space here


@st.composite
def requests(draw):
    """A request as it ought to be, and what can be wrong with it: parts that are missing, doubled, or nearly right."""
    body = draw(st.binary(max_size=50))
    keys = SigningKeys(
        draw(st.sampled_from([CURRENT, CURRENT, None])),
        draw(st.sampled_from([NEXT, None])),
        draw(st.sampled_from([(), (b"Bearer sesam",), (b"Bearer other", b"Bearer sesam")])),
    )
    signature = sign(body, draw(st.sampled_from([CURRENT, CURRENT, CURRENT, NEXT, b"", b"another"]))).encode()
    signatures, authorizations = (
        draw(st.just([right]) | st.lists(mutated(right), max_size=1) | st.just([right, right]))
        for right in (signature, b"Bearer sesam")
    )
    headers = [(b"x-hmac-sha512-signature", value) for value in signatures]
    headers += [(b"authorization", value) for value in authorizations]
    headers += draw(st.lists(KEPT_HEADERS | OTHER_HEADERS, max_size=4))
    spelt = [(draw(SPELLINGS)(name), draw(AROUND).replace(b"%b", value)) for name, value in headers]
    return draw(st.permutations(spelt)), body, keys, draw(st.booleans())


def is_all_right(headers, body, keys, signature_required):
    """State the promise again, independently of the code."""
    given_by = {
        name: [value.strip(b" \t") for found, value in headers if found.lower() == name]
        for name in (b"x-hmac-sha512-signature", b"authorization")
    }
    signatures, authorizations = given_by.values()
    right = {sign(body, key).encode() for key in (keys.current, keys.next) if key}
    if len(signatures) > 1 or (keys.authorizations and len(authorizations) != 1):
        return False
    if keys.authorizations and authorizations[0] not in keys.authorizations:
        return False
    if signature_required or (signatures and right):
        return bool(signatures) and signatures[0] in right
    return bool(keys.authorizations)


@given(requests(), st.sampled_from(Kind))
def test_a_request_is_verified_if_and_only_if_every_required_proof_is_valid(request, kind):
    headers, body, keys, signature_required = request
    try:
        envelope = opened(*headers, keys=keys, signature_required=signature_required, kind=kind, body=body)
    except NotAuthentic:
        assert not is_all_right(*request)
        return
    assert is_all_right(*request)
    assert (envelope.body, envelope.kind) == (body, kind)
    assert envelope.signed_with in {"current", "next", "authorization"}
    assert envelope.signed_at is None or envelope.signed_at.tzinfo is UTC
    assert envelope.headers.keys() <= HEADERS_KEPT
    assert all(value.isprintable() and len(value) <= LONGEST_HEADER for value in envelope.headers.values())


@given(st.binary(max_size=30), st.binary(max_size=30), st.sampled_from(Kind), st.sampled_from(Kind), st.data())
def test_only_the_kind_and_the_bytes_determine_the_id(one, other, kind, other_kind, data):
    def id_of(body, kind):
        key = data.draw(st.sampled_from([CURRENT, NEXT]))
        headers = data.draw(st.lists(KEPT_HEADERS | OTHER_HEADERS, max_size=3))
        return opened((SIGNED[0], sign(body, key).encode()), *headers, kind=kind, body=body).id

    assert (id_of(one, kind) == id_of(other, other_kind)) is ((one, kind) == (other, other_kind))
    assert id_of(one, kind) == id_of(one, kind)
