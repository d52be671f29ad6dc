"""The life of one charging session as it was told to us: what happened when, what it changed, and what we did."""

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
from workers.ledger.deliveries import DeliveryRow, Filters
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
    """A field of the session's record that a delivery changed, when it came."""

    field: str
    before: object
    after: object


@dataclass(frozen=True)
class TimelineEntry:
    """One delivery in the life of a session."""

    at: datetime
    """When it happened, as the event says; when we received it, if the event says nothing."""
    late: timedelta | None
    """How much later we received it, by our clock and Plugsurfing's."""
    delivery: DeliveryRow
    record: Session
    """The session's record once it had come."""
    changes: tuple[Change, ...]
    pushes: tuple[PushRow, ...]


def timeline(conn: Connection, session_id: str, clock_skew: timedelta) -> list[TimelineEntry]:
    """Tell the life of a session in the order in which it happened; empty if the ledger knows nothing of it."""
    rows = deliveries.find(conn, Filters(session_id=session_id), None)
    bodies = {each.id: each.body or b"" for each in deliveries.fetch(conn, [row.id for row in rows])}
    return build_entries(session_id, reversed(rows), bodies, pushes.find(conn, session_id=session_id), clock_skew)


def build_entries(
    session_id: str,
    arrived: Iterable[DeliveryRow],
    bodies: Mapping[str, bytes],
    sent: Iterable[PushRow],
    clock_skew: timedelta,
) -> list[TimelineEntry]:
    """Find out what each delivery changed when it came, `arrived` being in that order; pure."""
    by_delivery: dict[str, list[PushRow]] = {}
    for push in sent:
        by_delivery.setdefault(push.delivery_id, []).insert(0, push)  # they are listed newest first
    record = Session.empty(session_id)
    told: list[TimelineEntry] = []
    for row in arrived:
        event = _session_event(row, bodies.get(row.id, b""))
        after = record if event is None else _folded(record, event, row.received_at, clock_skew)
        told.append(
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
    return sorted(told, key=lambda moment: moment.at)


def _folded(record: Session, event: SessionEvent, received_at: datetime, clock_skew: timedelta) -> Session:
    return with_clock_skew(session_record(record, event), event.at, received_at, clock_skew)


def _session_event(row: DeliveryRow, body: bytes) -> SessionEvent | None:
    try:
        event = decode(Kind(row.kind), body)
    except (Unreadable, ValueError):  # a kind that this version does not know is as good as unreadable
        return None
    return event if isinstance(event, SessionEvent) else None


def _changes(before: Session, after: Session) -> tuple[Change, ...]:
    pairs = ((field, getattr(before, field), getattr(after, field)) for field in FIELDS)
    return tuple(Change(field, old, new) for field, old, new in pairs if old != new)
