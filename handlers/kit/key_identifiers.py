"""How the identifier of a charging key is spelt, so that two spellings of one key are found to be the same.

The Drive API writes it in hexadecimal digits, little-endian. What a question at the charger holds is not documented:
the same, or the bytes the other way round as many readers do, in capitals, with separators.
"""

import re

from ingest.config.sections.authorization import ByteOrder

SEPARATORS = re.compile(r"[\s:.\-_]")
BYTES = re.compile(r"(?:[0-9a-f]{2})+")


def normalize(text: str) -> str:
    """Spell an identifier as we keep it: small digits without separators; one that is not hexadecimal as it came."""
    digits = SEPARATORS.sub("", text).lower().removeprefix("0x")
    return digits if BYTES.fullmatch(digits) else text.strip()


def candidate_spellings(text: str, order: ByteOrder) -> tuple[str, ...]:
    """Spell the identifier in a question as the Drive API may, the likelier first."""
    as_it_came = normalize(text)
    turned = reversed_bytes(as_it_came)
    match order:
        case ByteOrder.LITTLE:
            return (as_it_came,)
        case ByteOrder.BIG:
            return (turned,)
        case ByteOrder.EITHER:
            return tuple(dict.fromkeys((as_it_came, turned)))


def search_spellings(text: str, order: ByteOrder) -> tuple[str, ...]:
    """Spell the identifier that a person looks for in every way in which we may have kept it."""
    return tuple(dict.fromkeys((normalize(text), *candidate_spellings(text, order))))


def reversed_bytes(identifier: str) -> str:
    """Turn the bytes of a canonical identifier round; one that is not hexadecimal has none."""
    return bytes.fromhex(identifier)[::-1].hex() if BYTES.fullmatch(identifier) else identifier
