import base64
import hashlib
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import NotAuthentic
from ingest.wire import signature
from ingest.wire.signature import KeyEncoding, Match, SigningKeys, decode_key, sign, verify

CURRENT, NEXT = b"the-current-key", b"the-next-key"
KEYS = SigningKeys(CURRENT, NEXT)
BODY = b'{"event": "SESSION_STARTED", "payload": {"userId": "user1"}}'
GOOD = sign(BODY, CURRENT)

# RFC 4231, section 4 (test case 5 is about truncation, which Plugsurfing does not do).
VECTORS = [
    (
        b"\x0b" * 20,
        b"Hi There",
        (
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
            "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"
        ),
    ),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        (
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
        ),
    ),
    (
        b"\xaa" * 20,
        b"\xdd" * 50,
        (
            "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39"
            "bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb"
        ),
    ),
    (
        bytes(range(1, 26)),
        b"\xcd" * 50,
        (
            "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3db"
            "a91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd"
        ),
    ),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        (
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
            "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598"
        ),
    ),
    (
        b"\xaa" * 131,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ),
        (
            "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944"
            "b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58"
        ),
    ),
]


@pytest.mark.parametrize(("key", "body", "digest"), VECTORS)
def test_the_published_vectors_are_verified(key, body, digest):
    expected = base64.b64encode(bytes.fromhex(digest)).decode()
    assert sign(body, key) == expected
    assert verify(body, expected, SigningKeys(key, None)) is Match.CURRENT


def test_the_next_key_verifies_during_rotation():
    assert verify(BODY, sign(BODY, CURRENT), KEYS) is Match.CURRENT
    assert verify(BODY, sign(BODY, NEXT), KEYS) is Match.NEXT
    assert verify(BODY, sign(BODY, NEXT), SigningKeys(None, NEXT)) is Match.NEXT


def test_a_signature_may_be_text_or_bytes():
    assert verify(BODY, GOOD, KEYS) is verify(BODY, GOOD.encode(), KEYS)


@given(st.binary(max_size=2000), st.binary(min_size=1, max_size=300))
def test_a_digest_of_plain_hmac_is_verified(body, key):
    plain = base64.b64encode(hmac.new(key, body, hashlib.sha512).digest())
    assert verify(body, plain, SigningKeys(key, None)) is Match.CURRENT


def refused(body, given, keys=KEYS):
    with pytest.raises(NotAuthentic) as caught:
        verify(body, given, keys)
    assert GOOD not in str(caught.value)
    return True


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_truncated_signature_is_refused(length):
    assert refused(BODY, GOOD[:length])


DIGEST = base64.b64decode(GOOD)
WRONG = {
    "hex": DIGEST.hex(),
    "hex in capitals": DIGEST.hex().upper(),
    "the digest itself": DIGEST,
    "url-safe": base64.urlsafe_b64encode(DIGEST).decode(),
    "unpadded": GOOD.rstrip("="),
    "padded too much": GOOD + "==",
    "base64 twice": base64.b64encode(GOOD.encode()),
    "with a newline": GOOD + "\n",
    "with a space behind": GOOD + " ",
    "with a space before": " " + GOOD,
    "in two lines": GOOD[:76] + "\r\n" + GOOD[76:],
    "in quotes": f'"{GOOD}"',
    "with a scheme": f"sha512={GOOD}",
    "in other case": GOOD.swapcase(),
    "twice": f"{GOOD}, {GOOD}",
    "with NUL": GOOD + "\0",
    "not ASCII": "é" * 88,
    "not ASCII, bytes": b"\xff" * 88,
    "a lone surrogate": "\ud800" * 88,
    "64 KiB": "A" * 65536,
    "64 KiB that start well": GOOD * 745,
    "of other bytes": sign(b"", CURRENT),
    "with another key": sign(BODY, b"the-current-kez"),
    "with a key and a newline": sign(BODY, CURRENT + b"\n"),
    "with no key": sign(BODY, b""),
    "SHA-256": base64.b64encode(hmac.digest(CURRENT, BODY, "sha256")),
    "SHA-512 without a key": base64.b64encode(hashlib.sha512(BODY).digest()),
    "key and body simply joined": base64.b64encode(hashlib.sha512(CURRENT + BODY).digest()),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_signature_that_is_wrong_in_any_way_is_refused(how):
    assert refused(BODY, WRONG[how])


def test_the_sample_differs_in_url_safe_base64():
    assert WRONG["url-safe"] != GOOD


def test_other_spellings_of_the_same_digest_are_refused():
    """64 bytes leave four spare bits in the last character: 16 spellings decode to the same digest."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    spellings = [GOOD[:85] + last + "==" for last in alphabet]
    same = [spelling for spelling in spellings if base64.b64decode(spelling) == DIGEST]
    assert len(same) == 16
    assert [spelling for spelling in same if not (spelling == GOOD or refused(BODY, spelling))] == []


@given(st.integers(min_value=0, max_value=len(BODY) * 8 - 1))
def test_one_other_bit_in_the_body_is_refused(bit):
    body = bytearray(BODY)
    body[bit // 8] ^= 1 << bit % 8
    assert refused(bytes(body), GOOD)


@given(st.integers(min_value=0, max_value=len(GOOD) * 8 - 1))
def test_one_other_bit_in_the_signature_is_refused(bit):
    given = bytearray(GOOD.encode())
    given[bit // 8] ^= 1 << bit % 8
    assert refused(BODY, bytes(given))


@given(st.binary(max_size=200))
def test_no_bytes_ever_raise_anything_else(given):
    assert given == GOOD.encode() or refused(BODY, given)


def test_without_a_key_nothing_is_authentic():
    for key in (b"", CURRENT):
        assert refused(BODY, sign(BODY, key), SigningKeys(None, None))
        assert refused(BODY, sign(BODY, b""), SigningKeys(b"", b""))


@pytest.mark.parametrize(
    "keys", [SigningKeys(CURRENT, NEXT), SigningKeys(CURRENT, None), SigningKeys(None, NEXT), SigningKeys(None, None)]
)
def test_a_failure_computes_the_same_digests_whichever_keys_exist(keys, monkeypatch):
    digests, compared = [], []
    wrong = sign(BODY, b"another")

    def counted(key, body):
        digests.append(body)
        return hmac.digest(key, body, hashlib.sha512)

    def compare(one, other):
        compared.append((type(one), type(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(signature, "hmac_sha512", counted)
    monkeypatch.setattr(signature, "hmac", type("", (), {"compare_digest": compare}))
    assert refused(BODY, wrong, keys)
    assert digests == [BODY, BODY]
    assert compared == [(bytes, bytes)] * 2


@pytest.mark.parametrize(
    ("text", "encoding", "key"),
    [
        ("schlüssel ", KeyEncoding.UTF8, "schlüssel ".encode()),
        ("c2VjcmV0", KeyEncoding.BASE64, b"secret"),
        ("c2VjcmV0MQ==", "base64", b"secret1"),
        ("736563726574", KeyEncoding.HEX, b"secret"),
        ("0aFF", "hex", b"\x0a\xff"),
    ],
)
def test_a_key_is_decoded(text, encoding, key):
    assert decode_key(text, encoding) == key


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("c2VjcmV0MQ", "base64"),
        ("c2VjcmV0MR==", "base64"),
        ("c2Vj cmV0", "base64"),
        ("c2VjcmV0\n", "base64"),
        ("c2-_cmV0", "base64"),
        ("schlüssel", "base64"),
        ("73656", "hex"),
        ("73 65", "hex"),
        ("0x7365", "hex"),
        ("7365\n", "hex"),
        ("zz", "hex"),
        ("\ud800", "utf8"),
    ],
)
def test_a_key_that_is_not_in_its_encoding_is_refused_and_not_quoted(text, encoding):
    with pytest.raises(ValueError, match=rf"\Ais not {encoding}\Z") as caught:
        decode_key(text, encoding)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_encoding_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="rot13"):
        decode_key("key", "rot13")
