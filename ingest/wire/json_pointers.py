"""JSON pointers (RFC 6901), as settings spell them.

Where Plugsurfing does not document the fields of a document, a setting lists pointers, and the first that leads to a
value counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonpointer

# Otherwise each miss formats the whole document, which may be a megabyte of personal data, into an unused error.
jsonpointer.VERBOSE_EXCEPTIONS = False


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


def first(document: Any, pointers: Iterable[Pointer]) -> Any:
    """Return the first value that a pointer leads to; None if no pointer does."""
    return next((found for pointer in pointers if (found := pointer.find(document)) is not None), None)


def pointers(*texts: str) -> tuple[Pointer, ...]:
    """Parse several pointers, such as a setting's default."""
    return tuple(map(Pointer, texts))
