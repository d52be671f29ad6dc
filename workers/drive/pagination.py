"""Read a list page by page, without losing entries and without following a cursor for ever; pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from workers.drive.drive_errors import InvalidResponse, TruncatedResponse

T = TypeVar("T")

MAX_PAGES = 100_000
"""Pages of one list: more than the largest organization has keys."""

MAX_EMPTY_PAGES = 20
"""Empty pages in a row, each with a cursor."""

log = structlog.get_logger()


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """One response of a list; the last page has no cursor."""

    items: Sequence[T]
    cursor: str | None


def paginate(fetch: Callable[[str | None, int], ListPage[T]]) -> Iterator[T]:
    """Yield the items of all pages; `fetch` gets the cursor of the page and the number of items before it.

    Raise InvalidResponse for a list without an end, such as one whose cursor repeats: to stop silently would lose the
    rest.
    """
    cursor: str | None = None
    seen: set[str] = set()
    received = empty = 0
    while True:
        page = fetch(cursor, received)
        empty = 0 if page.items else empty + 1
        cursor = page.cursor
        if cursor is not None and (cursor in seen or len(seen) >= MAX_PAGES or empty >= MAX_EMPTY_PAGES):
            raise InvalidResponse("The Drive API returned a list whose cursors repeat or have no end.")
        yield from page.items
        if cursor is None:
            return
        seen.add(cursor)
        received += len(page.items)


def parse_page(document: Any, *, name: str, parse_item: Callable[[Any], T], received: int) -> ListPage[T]:
    """Parse a page of a list of which `received` items came before.

    Entries that cannot be parsed are skipped and logged, so that they do not hide the others; a page of nothing else
    raises InvalidResponse, for then a setting is wrong.
    """
    entries = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise InvalidResponse(f"The Drive API returned a page without a list of {name}.")
    items: list[T] = []
    errors: list[InvalidResponse] = []
    for entry in entries:
        try:
            items.append(parse_item(entry))
        except InvalidResponse as error:
            errors.append(error)
    if errors and not items:
        raise errors[0]
    if errors:
        log.warning("drive.entries_skipped", count=len(errors), reason=str(errors[0]))
    cursor = document.get("cursor")
    if cursor is not None and not isinstance(cursor, str | int):
        raise InvalidResponse(f"The Drive API returned a page of {name} whose cursor is not text.")
    cursor = str(cursor) if cursor not in {None, ""} else None
    if not entries and _is_unexpectedly_empty(document.get("count"), cursor, received):
        raise TruncatedResponse(f"The Drive API returned a page that has lost its {name}.")
    return ListPage(items, cursor)


def _is_unexpectedly_empty(count: object, cursor: str | None, received: int) -> bool:
    """Return whether an empty page claims to have entries: it has a cursor, or a count.

    Whether `count` is that of the page or of the whole list is not documented; on the last page it may be either.
    """
    if cursor is not None:
        return count != 0
    return isinstance(count, int) and count not in {0, received}
