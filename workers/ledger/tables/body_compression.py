"""Bodies of deliveries, compressed with Zstandard and a dictionary of what Plugsurfing sends: 40 % of their length.

A value is MARK and a frame, or the bytes as they are where that is shorter; so are the values of older ledgers. The
dictionaries stay for good: each is named by its number in MARK, and no body can be read without the one that it was
written with. `webhooks show` prints a body; in SQL it cannot be read, and what searches bodies reads them here.
"""

import threading
from functools import cache
from importlib.resources import files

import zstandard
from sqlalchemy import LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

MARK = b"\x01"
"""The first byte of a compressed value; also the number of its dictionary. No JSON begins with it."""
LEVEL = 1
"""Higher ones take two to twenty times as long, and save nothing."""


class CompressedBytes(TypeDecorator[bytes]):
    """Bytes that are compressed in the database, and only there."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Compress."""
        return None if value is None else compress(value)

    def process_result_value(self, value: bytes | memoryview | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - as above
        """Decompress."""
        return None if value is None else decompress(bytes(value))


def compress(value: bytes) -> bytes:
    """Return what is stored for some bytes."""
    compressed = MARK + _codec.compressor.compress(value)
    return compressed if len(compressed) < len(value) or value.startswith(MARK) else value


def decompress(stored: bytes) -> bytes:
    """Return the bytes that were stored. What begins with MARK and is no frame was written before there was one."""
    if not stored.startswith(MARK):
        return stored
    try:
        return _codec.decompressor.decompress(memoryview(stored)[len(MARK) :])
    except zstandard.ZstdError:
        return stored


class _Codec(threading.local):
    """A thread's contexts, which are dear to make and cannot be shared."""

    def __init__(self) -> None:
        dictionary = _dictionary()
        plain = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=1, write_dict_id=0
        )
        self.compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=plain)
        self.decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS)


@cache
def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(files(__package__).joinpath("bodies_1.zstd_dictionary").read_bytes())


_codec = _Codec()
