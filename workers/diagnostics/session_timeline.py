"""The timeline of a charging session: what happened when, what it changed in the record, and which pushes followed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from handlers.kit.merge import with_clock_skew
from handlers.kit.session import Session
from handlers.session_records import session_record
from ingest.errors import Unreadable
from ingest.events import SessionEvent, decode
from ingest.wire.envelope import Kind
from workers.ledger import deliveries, pushes
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.pushes import PushRow

FIELDS = (
    "status",
    "user_id",
    "started_at",
    "stopped_at",
    "completed_at",
    "fee_type",
    "fee_will_apply_from",
    "anomalies",
)


@dataclass(frozen=True)
class Change:
    """A field of the session's record that a delivery changed."""

    field: str
    before: str | datetime | tuple[str, ...] | None
    after: str | datetime | tuple[str, ...] | None


@dataclass(frozen=True)
class TimelineEntry:
    """One delivery of a session."""

    at: datetime
    """When it happened by the event, or when it was received if it cannot be parsed."""
    late: timedelta | None
    """How much later it was received; this compares Plugsurfing's clock with ours."""
    delivery: DeliveryRow
    record: Session
    """The session's record after it."""
    changes: tuple[Change, ...]
    pushes: tuple[PushRow, ...]


def timeline(conn: Connection, session_id: str, clock_skew: timedelta) -> list[TimelineEntry]:
    """Return the entries of a session in the order of their times; empty if the ledger does not have it."""
    rows = deliveries.find(conn, DeliveryFilters(session_id=session_id), None)
    bodies = {each.id: each.body or b"" for each in deliveries.fetch(conn, [row.id for row in rows])}
    return build_entries(session_id, reversed(rows), bodies, pushes.find(conn, session_id=session_id), clock_skew)


def build_entries(
    session_id: str,
    arrived: Iterable[DeliveryRow],
    bodies: Mapping[str, bytes],
    sent: Iterable[PushRow],
    clock_skew: timedelta,
) -> list[TimelineEntry]:
    """Compute what each delivery changed, in the order of `arrived`; return them in the order of their times. Pure."""
    by_delivery: dict[str, list[PushRow]] = {}
    for push in sent:
        by_delivery.setdefault(push.delivery_id, []).insert(0, push)  # they are listed newest first
    record = Session.empty(session_id)
    entries: list[TimelineEntry] = []
    for row in arrived:
        event = _session_event(row, bodies.get(row.id, b""))
        after = record
        if event is not None and not row.is_healed:
            after = with_clock_skew(session_record(record, event), event.at, row.received_at, clock_skew)
        entries.append(
            TimelineEntry(
                at=row.received_at if event is None else event.at,
                late=None if event is None else row.received_at - event.at,
                delivery=row,
                record=after,
                changes=_changes(record, after),
                pushes=tuple(by_delivery.get(row.id, ())),
            )
        )
        record = after
    return sorted(entries, key=lambda entry: entry.at)


def _session_event(row: DeliveryRow, body: bytes) -> SessionEvent | None:
    try:
        event = decode(Kind(row.kind), body)
    except (Unreadable, ValueError):  # a kind that this version does not know
        return None
    return event if isinstance(event, SessionEvent) else None


def _changes(before: Session, after: Session) -> tuple[Change, ...]:
    pairs = ((field, getattr(before, field), getattr(after, field)) for field in FIELDS)
    return tuple(Change(field, old, new) for field, old, new in pairs if old != new)
