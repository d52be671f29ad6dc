"""Pairs each request with the way its answer is read, and turns pages: all that both clients share, without I/O."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.drive import requests
from workers.drive.errors import InvalidResponse, TruncatedResponse
from workers.drive.models import ChargingKey, DriveSession, Fleet, Invitation, Location, RoamToken
from workers.drive.parsing import ResponseParser
from workers.drive.requests import Request

T = TypeVar("T")

MOST_PAGES = 100_000
"""Of one list. The largest organization has fewer keys, so one that goes on has no end."""

EMPTY_PAGES = 20
"""In a row, each with a cursor: then the list is taken for one without an end, too."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A request, and how the decoded answer is read."""

    request: Request
    read: Callable[[Any], T]


@dataclass(frozen=True)
class Page(Generic[T]):
    """What one answer of a list holds; no cursor: it is the last."""

    found: Sequence[T]
    cursor: str | None


class Paginator(Generic[T]):
    """A list, page by page: ask for `next`, give what came to `take`, until there is no next.

    A cursor that has been there before would lead round in circles, and is nonsense, as is a list that has no end:
    whoever took its beginning for all of it would miss something.
    """

    def __init__(self, ask: Callable[[str | None, int], Operation[Page[T]]]) -> None:
        """`ask` is told the cursor, and how many entries have come until now."""
        self._ask = ask
        self._cursor: str | None = None
        self._seen: set[str] = set()
        self._came = 0
        self._empty = 0
        self._is_over = False

    def next(self) -> Operation[Page[T]] | None:
        """Say what to ask for now; None if everything has come."""
        return None if self._is_over else self._ask(self._cursor, self._came)

    def accept(self, page: Page[T]) -> Sequence[T]:
        """Note where it goes on, and return what came."""
        self._empty = 0 if page.found else self._empty + 1
        if page.cursor is None:
            self._is_over = True
        elif page.cursor in self._seen or len(self._seen) >= MOST_PAGES or self._empty >= EMPTY_PAGES:
            raise InvalidResponse("The Drive API answered with a list that leads round in circles, or has no end.")
        else:
            self._seen.add(page.cursor)
        self._cursor = page.cursor
        self._came += len(page.found)
        return page.found


class DriveOperations:
    """Makes all calls that there are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reading = ResponseParser(settings)

    def session(self, user_id: str, session_id: str) -> Operation[DriveSession]:
        """Read one session."""
        read = partial(self._reading.session, user_id=user_id, session_id=session_id)
        return Operation(requests.session(user_id, session_id), read)

    def history(
        self,
        user_id: str,
        *,
        statuses: Sequence[str],
        charging_key_id: str | None,
        started_from: datetime | None,
        started_until: datetime | None,
    ) -> Paginator[DriveSession]:
        """Read a user's sessions."""
        ask = partial(
            requests.history,
            user_id,
            statuses=statuses,
            charging_key_id=charging_key_id,
            started_from=started_from,
            started_until=started_until,
        )
        read = partial(_page, where="sessions", one=partial(self._reading.session, user_id=user_id))
        return Paginator(lambda cursor, came: Operation(ask(cursor=cursor), partial(read, came=came)))

    def charging_keys(self, fleet_id: str | None, *, page_size: int) -> Paginator[ChargingKey]:
        """Read charging keys."""
        ask = partial(requests.charging_keys, fleet_id, page_size=page_size)
        read = partial(_page, where="keys", one=partial(self._reading.charging_key, fleet_id=fleet_id))
        return Paginator(lambda cursor, came: Operation(ask(cursor=cursor), partial(read, came=came)))

    def create_fleet(self, fleet_id: str, name: str | None) -> Operation[Fleet]:
        """Create a fleet."""
        return Operation(requests.create_fleet(fleet_id, name), partial(_fleet, fleet_id, name))

    def rename_fleet(self, fleet_id: str, name: str) -> Operation[Fleet]:
        """Rename a fleet."""
        request = requests.rename_fleet(fleet_id, name, self._settings.drive_rename_body)
        return Operation(request, partial(_fleet, fleet_id, name))

    def invitation(self, fleet_id: str) -> Operation[Invitation]:
        """Read the invitation codes of a fleet."""
        return Operation(
            requests.invitation(fleet_id), lambda document: Invitation(fleet_id=fleet_id, document=document)
        )

    def balance(self, user_id: str) -> Operation[Decimal]:
        """Read a user's balance. Raise SettingsError unless a setting says where."""
        if self._settings.drive_balance_path is None:
            raise SettingsError("DRIVE_BALANCE_PATH is not set: where the prepaid balance is, is not public.")
        return Operation(requests.balance(user_id, self._settings.drive_balance_path), self._reading.balance)

    def location(self, location_id: str) -> Operation[Location]:
        """Read a location."""
        request = requests.location(location_id, self._settings.drive_location_path)
        return Operation(request, partial(self._reading.location, location_id=location_id))

    def push_token(self, token: RoamToken) -> Operation[None]:
        """Tell Roam OCPI of a token. Raise SettingsError unless settings say where and who we are."""
        if self._settings.roam_ocpi_url is None or self._settings.roam_ocpi_token is None:
            raise SettingsError("ROAM_OCPI_URL and ROAM_OCPI_TOKEN are needed to push tokens to Roam OCPI.")
        return Operation(requests.push_token(token, datetime.now(UTC)), lambda _: None)


def _page(document: Any, *, where: str, one: Callable[[Any], T], came: int) -> Page[T]:
    """Read a page of a list of which so many entries came before.

    What cannot be read is left out and told: one odd entry must not hide the others.
    """
    entries = document.get(where) if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise InvalidResponse(f"The Drive API answered with a page that has no list of {where}.")
    found, odd = [], []
    for entry in entries:
        try:
            found.append(one(entry))
        except InvalidResponse as unreadable:
            odd.append(str(unreadable))
    if odd and not found:
        raise InvalidResponse(odd[0])  # all of them: it is a setting that is wrong, not an entry
    if odd:
        log.warning("drive.entries_skipped", count=len(odd), reason=odd[0])
    cursor = _cursor(document, where)
    if not entries and _is_unexpectedly_empty(document.get("count"), cursor, came):
        raise TruncatedResponse(f"The Drive API answered with a page that has lost its {where}.")
    return Page(found, cursor)


def _cursor(document: Mapping[str, Any], where: str) -> str | None:
    cursor = document.get("cursor")
    if cursor is not None and not isinstance(cursor, str | int):
        raise InvalidResponse(f"The Drive API answered with a page of {where} whose cursor is no text.")
    return str(cursor) if cursor not in {None, ""} else None


def _is_unexpectedly_empty(count: object, cursor: str | None, came: int) -> bool:
    """Say whether an empty page should not be empty: it goes on, or counts entries.

    Whether `count` is of the page or of the whole list is not documented. At the end it may be either.
    """
    if cursor is not None:
        return count != 0
    return isinstance(count, int) and count not in {0, came}


def _fleet(fleet_id: str, name: str | None, document: Any) -> Fleet:
    return Fleet(fleet_id=fleet_id, name=name, document=document if isinstance(document, dict) else {})
