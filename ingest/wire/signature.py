"""Plugsurfing's signature: base64 of HMAC-SHA-512 over the raw bytes of the body, with one of two keys.

request -> [envelope] -> inbox -> relay -> jobs -> handler -> ledger
"""

import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha512

from ingest.errors import NotAuthentic

SIGNATURE_HEADER = "x-hmac-sha512-signature"
SIGNED_AT_HEADER = "x-hmac-sha512-signedat"

# RFC 2104 and, of SHA-512, RFC 4868. In bytes.
BLOCK_SIZE = 128
INNER_PAD, OUTER_PAD = 0x36, 0x5C


class KeyEncoding(StrEnum):
    """The encoding of a key's bytes as text. Plugsurfing does not document it."""

    UTF8 = "utf8"
    """The characters themselves."""
    BASE64 = "base64"
    """RFC 4648 section 4, with padding."""
    HEX = "hex"
    """Two digits a byte, in either case."""


class Match(StrEnum):
    """The key that a signature was made with."""

    CURRENT = "current"
    """The key in use."""
    NEXT = "next"
    """The key that a rotation moves to."""


@dataclass(frozen=True)
class SigningKeys:
    """The secrets that authenticate a request, at one moment: two keys, and the accepted authorization headers."""

    current: bytes | None = field(default=None, repr=False)  # no secret in a traceback
    next: bytes | None = field(default=None, repr=False)
    authorizations: tuple[bytes, ...] = field(default=(), repr=False)


def decode_key(text: str, encoding: KeyEncoding | str) -> bytes:
    """Decode the text of a key. Raise ValueError, which does not quote the text, if it is not in that encoding."""
    encoding = KeyEncoding(encoding)
    try:
        match encoding:
            case KeyEncoding.UTF8:
                return text.encode()
            case KeyEncoding.BASE64:
                key = b64decode(text, validate=True)
                if b64encode(key) == text.encode("ascii"):  # else it has spare bits, which may hide a typo
                    return key
            case KeyEncoding.HEX if "".join(text.split()) == text:  # fromhex skips white space
                return bytes.fromhex(text)
    except ValueError:
        pass  # its message quotes the key
    raise ValueError(f"is not {encoding}") from None


def sign(body: bytes, key: bytes) -> str:
    """Sign the bytes of a body as Plugsurfing does."""
    return b64encode(hmac_sha512(key, body)).decode("ascii")


def verify(body: bytes, signature: bytes | str, keys: SigningKeys) -> Match:
    """Return the key that the body was signed with, CURRENT first. Raise NotAuthentic if it was neither.

    Only the canonical base64 form of a digest is a signature. A failure takes the same time whichever keys exist.
    """
    given = signature if isinstance(signature, bytes) else signature.encode("utf-8", "surrogatepass")
    for match, key in ((Match.CURRENT, keys.current), (Match.NEXT, keys.next)):
        expected = b64encode(hmac_sha512(key or b"", body))
        if hmac.compare_digest(expected, given) and key:  # without a key the digest only equalizes the time
            return match
    raise NotAuthentic("The signature was made with neither key.")


def hmac_sha512(key: bytes, body: bytes) -> bytes:
    """Return HMAC-SHA-512 (RFC 2104). `hmac.digest` takes four times as long: OpenSSL 3 looks for it at each call."""
    return _prepared(key).digest(body)


class _PreparedKey:
    """The states of the two hashes of an HMAC after their first block, which is made of the key."""

    def __init__(self, key: bytes) -> None:
        block = (sha512(key).digest() if len(key) > BLOCK_SIZE else key).ljust(BLOCK_SIZE, b"\0")
        self._inner = sha512(bytes(each ^ INNER_PAD for each in block))
        self._outer = sha512(bytes(each ^ OUTER_PAD for each in block))

    def digest(self, body: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.digest()


_prepared = lru_cache(maxsize=8)(_PreparedKey)  # the current key, the next one and the empty one
