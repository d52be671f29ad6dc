"""How a list is found: its filters, which are options of a command and parameters of a page, and its pages by key."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from ingest.config.settings import Settings
from ingest.events import sanitize_text
from ingest.relay.outbox import Outbox
from workers.ledger.database.conditions import Position
from workers.lists.listing import Listing
from workers.lists.time_parsing import parse_since, parse_time

Row = TypeVar("Row")

SEPARATOR = "~"


class InvalidFilter(ValueError):
    """Raised for a filter that cannot be parsed: one sentence with its name."""


@dataclass(frozen=True)
class Stores:
    """What a list is found in: the ledger, and the inbox of this node if there is one."""

    settings: Settings
    ledger: Connection
    outbox: Outbox | None


@dataclass(frozen=True)
class Filter:
    """One filter of a list. Raise ValueError from `parse` for what it does not understand."""

    name: str
    hint: str
    parse: Callable[[str], Any] = str
    choices: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows of a list are wanted: the values of the filters that are set, how many, and behind which row."""

    filters: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    before: Position | None = None

    def get(self, name: str) -> Any:
        """Return the value of a filter; None if it is not set."""
        return self.filters.get(name)


@dataclass(frozen=True, kw_only=True)
class ListQuery(Generic[Row]):
    """A list that is found by filters, newest first."""

    name: str
    title: str
    listing: Listing[Row]
    find: Callable[[Stores, Selection], Iterable[Row]]
    position: Callable[[Row], Position] | None = None
    """The position of a row; without it the list is one page."""
    filters: Sequence[Filter] = ()
    has_pages_of_rows: bool = False
    """Whether each row has a page of its own, named by its field `id`."""
    hint: str = ""
    """One sentence below the title."""
    reads_ledger: bool = True
    """Whether its rows are in the ledger; other lists are shown while that is away."""

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Parse the filters that are set; others are left out. Raise InvalidFilter."""
        parsed: dict[str, Any] = {}
        for each in self.filters:
            text = sanitize_text(texts.get(each.name, "").strip())
            if not text:
                continue
            if each.choices and text not in each.choices:
                raise InvalidFilter(f"{each.name} is one of: {', '.join(each.choices)}.")
            try:
                parsed[each.name] = each.parse(text)
            except ValueError as error:
                raise InvalidFilter(f"{each.name} is {str(error).rstrip('.')}.") from None
        return parsed


def format_position(position: Position) -> str:
    """Format a position for a URL."""
    return f"{position[0].isoformat()}{SEPARATOR}{position[1]}"


def parse_position(text: str) -> Position:
    """Parse what `format_position` returned; raise InvalidFilter."""
    at, separator, key = text.partition(SEPARATOR)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not separator:
        raise InvalidFilter("before is not the position of a row.")
    return moment, sanitize_text(key)


SINCE = Filter("since", "10m, 2h, 3d, today, 18:00, 2026-11-28", parse_since)
UNTIL = Filter("until", "as since", parse_time)
USER = Filter("user", "the driver, in any case")
SESSION = Filter("session", "the charging session")
