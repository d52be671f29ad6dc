"""Where in a JSON document something is: pointers of RFC 6901, as settings spell them.

Which fields the documents of the other side have is not always documented. So it is a setting: pointers by comma,
and the first that leads to something counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonpointer

# Else each miss writes the whole document, which may be a megabyte and personal, into an error that nobody reads.
jsonpointer.VERBOSE_EXCEPTIONS = False


@dataclass(frozen=True)
class Pointer:
    """One pointer: `/session/id`, `/keys/0`, or nothing for the whole document. Raises ValueError for what is none."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what is no pointer, and `-`, which names what comes after the end of a list."""
        try:
            parts = self._parsed.parts
        except jsonpointer.JsonPointerException:
            raise ValueError("must be JSON pointers by comma, as in /session/id,/sessionId") from None
        if "-" in parts:
            raise ValueError("must not point beyond the end of a list, as - does")

    def __str__(self) -> str:
        """Write it as settings do."""
        return self.text

    def find(self, document: Any) -> Any:
        """Return what is there in decoded JSON; None if there is nothing, or null."""
        return self._parsed.resolve(document, None)

    @cached_property
    def _parsed(self) -> jsonpointer.JsonPointer:
        return jsonpointer.JsonPointer(self.text)


def first(document: Any, pointers: Iterable[Pointer]) -> Any:
    """Return what the first pointer finds that finds anything; None if none does."""
    return next((found for pointer in pointers if (found := pointer.find(document)) is not None), None)


def pointers(*texts: str) -> tuple[Pointer, ...]:
    """Make several, such as a setting's default."""
    return tuple(map(Pointer, texts))
