"""Format objects of the Drive API, and its part in `webhooks session`: facts without an event, and polls."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from handlers.kit.session import EVENT, Session
from handlers.kit.statuses import STATUSES
from workers.drive.models import ChargingKey, DriveSession
from workers.drive.session_facts import UNKNOWN_TIME
from workers.ledger.session_polls import PollState
from workers.ledger.tables.reconciliation_tables import PollOutcome
from workers.lists.formatting import Cell, Json, local
from workers.lists.listing import Listing, attributes

OUTCOME_TEXT = {
    PollOutcome.WAITING: "not polled yet",
    PollOutcome.OPEN: "not over there",
    PollOutcome.COMPLETE: "complete there",
    PollOutcome.MISSING: "not known there",
    PollOutcome.FAILED: "no valid response",
    PollOutcome.NOT_NEEDED: "polling is not needed any more",
    PollOutcome.GIVEN_UP: "polling has ended",
}


def jsonable(document: Any) -> Json:
    """Return a document with its decimals as strings: as numbers, programs would round them."""
    match document:
        case dict():
            return {str(name): jsonable(value) for name, value in document.items()}
        case list():
            return [jsonable(value) for value in document]
        case str() | int() | None:
            return document
        case _:
            return str(document)


def session_rows(found: DriveSession) -> list[tuple[str, Cell]]:
    """Return the fields of a session with their labels."""
    return [
        ("session", found.session_id),
        ("driver", found.user_id),
        ("status", found.status),
        ("started", found.started_at),
        ("ended", found.ended_at),
        ("complete", found.completed_at),
        ("location", found.location_id),
        ("operator", found.operator_display_name),
        ("key", found.charging_key_id),
        ("balance", found.balance_status),
    ]


def reconciled_rows(record: Session) -> Iterator[tuple[datetime | None, Cell, Cell, Cell]]:
    """Yield a row of the timeline for each fact without an event."""
    for status, at in reconciled(record).items():
        events = STATUSES[status].events if status in STATUSES else ()
        yield at, None, f"Drive API: {status}", f"no {events[0]} came" if events else "no event says this"
    if record.user_id is not None and record.users[record.user_id].source != EVENT:
        at = record.users[record.user_id].at
        yield None if at == UNKNOWN_TIME else at, None, "Drive API: driver", f"{record.user_id}, whom no event named"


def reconciled(record: Session) -> dict[str, datetime | None]:
    """Return the statuses without an event, each with its time in the Drive API, if it has one."""
    return {
        status: None if times.last_at == UNKNOWN_TIME else times.last_at
        for status, times in record.statuses.items()
        if EVENT not in times.sources
    }


def poll_text(poll: PollState | None) -> str | None:
    """Return the result of the last poll and the time of the next one."""
    if poll is None:
        return None
    parts = [OUTCOME_TEXT[poll.outcome]]
    if poll.read_at is not None:
        parts.append(f"read at {local(poll.read_at)}")
    if poll.next_at is not None:
        parts.append(f"next at {local(poll.next_at)}")
    return ", ".join(parts)


DRIVE_SESSIONS = Listing[DriveSession](
    fields={**attributes(*DriveSession.model_fields), "document": lambda found: jsonable(found.document)},
    columns={
        "started": "started_at",
        "ended": "ended_at",
        "status": "status",
        "session": "session_id",
        "location": "location_id",
        "operator": "operator_display_name",
    },
    order="first",
)
CHARGING_KEYS = Listing[ChargingKey](
    fields={**attributes(*ChargingKey.model_fields), "document": lambda found: jsonable(found.document)},
    columns={
        "key": "identifier",
        "enabled": "enabled",
        "valid to": "valid_to",
        "contract": "contract_id",
        "visual number": "visual_number",
        "fleet": "fleet_id",
    },
    order="first",
)
POLLS = Listing[PollState](fields=attributes("outcome", "status", "attempts", "read_at", "next_at", "reason"))
