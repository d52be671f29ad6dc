"""Where a field is, as settings spell it: a JSON pointer (RFC 6901) into the body, or the name of a header.

Where Plugsurfing does not document the fields of a document, a setting lists pointers, and the first that leads to a
value counts.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonpointer

from ingest.wire.signature import SIGNATURE_HEADER

# Otherwise each miss formats the whole document, which may be a megabyte of personal data, into an unused error.
jsonpointer.VERBOSE_EXCEPTIONS = False

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", SIGNATURE_HEADER})


@dataclass(frozen=True)
class Pointer:
    """A pointer: `/session/id`, `/keys/0`, or an empty text for the whole document. Raises ValueError."""

    text: str

    def __post_init__(self) -> None:
        """Check the text, and refuse `-`, which points beyond the end of a list."""
        try:
            parts = self._parsed.parts
        except jsonpointer.JsonPointerException:
            raise ValueError("must be JSON pointers by comma, as in /session/id,/sessionId") from None
        if "-" in parts:
            raise ValueError("must not point beyond the end of a list, as - does")

    def __str__(self) -> str:
        """Return the text of the setting."""
        return self.text

    def find(self, document: Any) -> Any:
        """Return the value in decoded JSON; None if there is none, or null."""
        return self._parsed.resolve(document, None)

    @cached_property
    def _parsed(self) -> jsonpointer.JsonPointer:
        return jsonpointer.JsonPointer(self.text)


@dataclass(frozen=True)
class HeaderPath:
    """The name of a header, in any case. Raises ValueError unless it is one, or if that header may hold a secret."""

    text: str

    def __post_init__(self) -> None:
        """Check the name."""
        if not TOKEN.fullmatch(self.text):
            raise ValueError("must be JSON pointers, as in /requestId, and names of headers, by comma")
        if self.name in CREDENTIAL_HEADERS:
            raise ValueError("must not name a header of credentials, which would be kept")

    def __str__(self) -> str:
        """Return the text of the setting."""
        return self.text

    @property
    def name(self) -> str:
        """Return its ASGI name."""
        return self.text.lower()


FieldPath = Pointer | HeaderPath


def first(document: Any, pointers: Iterable[Pointer]) -> Any:
    """Return the first value that a pointer leads to; None if no pointer does."""
    return next((found for pointer in pointers if (found := pointer.find(document)) is not None), None)


def pointers(*texts: str) -> tuple[Pointer, ...]:
    """Parse several pointers, such as a setting's default."""
    return tuple(map(Pointer, texts))


def find(path: FieldPath, document: Any, headers: Mapping[str, str]) -> Any:
    """Return the value at a path; None if there is none."""
    return headers.get(path.name) if isinstance(path, HeaderPath) else path.find(document)


def header_names(paths: Iterable[FieldPath]) -> frozenset[str]:
    """Return the ASGI names of the headers among the paths."""
    return frozenset(path.name for path in paths if isinstance(path, HeaderPath))


def parse_field_path(text: str) -> FieldPath:
    """Parse a JSON pointer, which begins with a slash, or the name of a header. Raise ValueError."""
    return Pointer(text) if text.startswith("/") else HeaderPath(text)
