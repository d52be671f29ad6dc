"""Where in a request something is, as settings spell it: a JSON pointer into its body, or the name of a header."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.wire.json_pointers import Pointer
from ingest.wire.signature import SIGNATURE_HEADER

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", SIGNATURE_HEADER})


@dataclass(frozen=True)
class HeaderPath:
    """A header by its name, in any case. Raises ValueError for what names none, or one that may hold a secret."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what no request can have, and what must not be written down."""
        if not TOKEN.fullmatch(self.text):
            raise ValueError("must be JSON pointers, as in /requestId, and names of headers, by comma")
        if self.name in CREDENTIAL_HEADERS:
            raise ValueError("must not name a header that proves who is asking: it would be kept")

    def __str__(self) -> str:
        """Write it as settings do."""
        return self.text

    @property
    def name(self) -> str:
        """Name it as ASGI does."""
        return self.text.lower()


FieldPath = Pointer | HeaderPath


def find(place: FieldPath, document: Any, headers: Mapping[str, str]) -> Any:
    """Return what is at the place; None if there is nothing."""
    return headers.get(place.name) if isinstance(place, HeaderPath) else place.find(document)


def header_names(places: Iterable[FieldPath]) -> frozenset[str]:
    """Name the headers among places."""
    return frozenset(place.name for place in places if isinstance(place, HeaderPath))


def field_paths(*texts: str) -> tuple[FieldPath, ...]:
    """Make several, such as a setting's default."""
    return tuple(map(parse_field_path, texts))


def parse_field_path(text: str) -> FieldPath:
    """Parse a JSON pointer, which begins with a slash, or the name of a header. Raise ValueError."""
    return Pointer(text) if text.startswith("/") else HeaderPath(text)
