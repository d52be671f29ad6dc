"""Fields picked out of a document whose schema is not ours to know: what cannot be read is None, and why is said."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from handlers.kit.key_identifiers import normalize
from ingest.events import LONGEST_TEXT, LONGEST_USER_ID, sanitize_text

T = TypeVar("T")

ISO_4217 = 3


def first_valid(found: Iterable[Any], read: Callable[[Any], T]) -> tuple[T | None, str | None]:
    """Read the first of several findings that can be read; if none can, say what is wrong with the first of them.

    None and an empty text are no findings. `read` raises ValueError, with words that go on from the field's name.
    """
    problem = None
    for one in found:
        if one is None or one == "":
            continue
        try:
            return read(one), None
        except ValueError as error:
            problem = problem or str(error)
    return None, problem


def read_text(value: Any) -> str:
    """Read a text that names something, or a whole number that does. Raise ValueError."""
    return _text(value, LONGEST_TEXT)


def read_user_id(value: Any) -> str:
    """Read a user's id. Raise ValueError."""
    return _text(value, LONGEST_USER_ID)


def read_key(value: Any) -> str:
    """Read the identifier of a charging key, spelt as we keep it. Raise ValueError."""
    return normalize(read_text(value))


def read_currency(value: Any) -> str:
    """Read a currency; one that is written as ISO 4217 does is put in capitals. Raise ValueError."""
    name = read_text(value)
    return name.upper() if len(name) == ISO_4217 and name.isascii() and name.isalpha() else name


def _text(value: Any, longest: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("is not text")  # noqa: TRY004 - what was read is wrong, not how it was asked for
    if len(value) > longest:
        raise ValueError("is too long")
    return sanitize_text(value)
