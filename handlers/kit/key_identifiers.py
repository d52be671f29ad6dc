"""Spellings of the identifier of a charging key, so that two spellings of one key are recognized.

The Drive API writes it in hexadecimal digits, little-endian. The spelling in an authorization request is not
documented: the same, or with the bytes reversed as many readers do, in capitals, with separators.
"""

import re

from ingest.config.sections.authorization import ByteOrder

SEPARATORS = re.compile(r"[\s:.\-_]")
BYTES = re.compile(r"(?:[0-9a-f]{2})+")


def normalize(text: str) -> str:
    """Return an identifier as the ledger has it: in lower case, and hexadecimal digits without separators.

    One that is not hexadecimal has no case either, as OCPI's `uid` (a CiString: OCPI 2.2.1, 12.3.2) has none.
    """
    digits = SEPARATORS.sub("", text).lower().removeprefix("0x")
    return digits if BYTES.fullmatch(digits) else text.strip().lower()


def is_hexadecimal(identifier: str) -> bool:
    """Return whether a normalized identifier is the digits of whole bytes."""
    return BYTES.fullmatch(identifier) is not None


def candidate_spellings(text: str, order: ByteOrder) -> tuple[str, ...]:
    """Return how the Drive API may spell the identifier of a request, the likelier spelling first."""
    as_received = normalize(text)
    reversed_ = reversed_bytes(as_received)
    match order:
        case ByteOrder.LITTLE:
            return (as_received,)
        case ByteOrder.BIG:
            return (reversed_,)
        case ByteOrder.EITHER:
            return tuple(dict.fromkeys((as_received, reversed_)))


def search_spellings(text: str, order: ByteOrder) -> tuple[str, ...]:
    """Return every spelling in which the ledger may have the identifier that a person searches for."""
    return tuple(dict.fromkeys((normalize(text), *candidate_spellings(text, order))))


def reversed_bytes(identifier: str) -> str:
    """Reverse the bytes of a normalized identifier; return one that is not hexadecimal unchanged."""
    return bytes.fromhex(identifier)[::-1].hex() if is_hexadecimal(identifier) else identifier
