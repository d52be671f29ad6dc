"""Alerts: what somebody should look at, raised once for as long as its cause stands, not once an hour."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, exists, select, update

from ingest.events import sanitize_text
from workers.ledger.database.engine import insert_into
from workers.ledger.database.in_list import in_list
from workers.ledger.tables.alerts import OPEN, alerts


class AlertKind(StrEnum):
    """What an alert is about."""

    SESSION_OPEN = "session_open"
    """A session has started, and nothing has said for WATCH_SESSION_OPEN that it is over."""

    CDR_MISSING = "cdr_missing"
    """A session is complete, and for WATCH_CDR_MISSING no CDR has come for it."""

    CDR_CONFLICT = "cdr_conflict"
    """A CDR has come with the request id of another one, and says something else; both are kept."""

    UNREADABLE = "unreadable"
    """Something signed has come that is not understood; its bytes are kept."""

    DEAD_LETTERS = "dead_letters"
    """A handler has given up runs, and will not try them again by itself."""

    SILENCE = "silence"
    """No event has come for WATCH_SILENCE, at a time when some always do."""

    GAP = "gap"
    """The door was closed for longer than WATCH_GAP; what Plugsurfing said meanwhile has not been heard."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to be looked at. The sentence is for a person, and names no driver."""

    kind: AlertKind
    subject: str
    """What it is about: of all alerts of a kind about one subject, no more than one is open."""
    sentence: str
    session_id: str | None = None
    delivery_id: str | None = None


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert as the ledger knows it."""

    id: str
    kind: AlertKind
    subject: str
    sentence: str
    session_id: str | None
    delivery_id: str | None
    raised_at: datetime
    logged_at: datetime | None
    told_at: datetime | None
    resolved_at: datetime | None


LONGEST_NAME = 80
SAFE_CHARACTERS = " -_.:/+=*…"

COLUMNS = [alerts.c[name] for name in AlertRow.__dataclass_fields__]


def raise_alert(ledger: Connection, alert: Alert, now: datetime, *, since: datetime | None = None) -> bool:
    """Raise an alert, in the transaction of the caller, and say whether it is new; the clock tells it.

    It is not new while one of its kind about its subject is open. `since` is when the cause arose: then it is not new
    either if one was resolved after that, because somebody has seen it.
    """
    subject = sanitize_text(alert.subject)
    about = (alerts.c.kind == str(alert.kind), alerts.c.subject == subject)
    if since is not None and ledger.scalar(select(exists().where(*about, alerts.c.resolved_at >= since))):
        return False
    values = {
        "id": secrets.token_hex(6),
        "kind": str(alert.kind),
        "subject": subject,
        "sentence": alert.sentence,
        "session_id": alert.session_id,
        "delivery_id": alert.delivery_id,
        "raised_at": now,
        "due_at": now,
    }
    statement = insert_into(ledger, alerts).values(values)
    only_one = statement.on_conflict_do_nothing(index_elements=["kind", "subject"], index_where=OPEN)
    return ledger.scalar(only_one.returning(alerts.c.id)) is not None


def resolve_alerts(ledger: Connection, kind: AlertKind, subjects: Collection[str], now: datetime) -> int:
    """Note that the causes are gone, in the transaction of the caller, and return how many alerts that resolves."""
    if not subjects:
        return 0
    gone = alerts.c.resolved_at.is_(None) & (alerts.c.kind == str(kind)) & in_list(alerts.c.subject, subjects)
    return ledger.execute(update(alerts).where(gone).values(resolved_at=now)).rowcount


def resolve_by_id(ledger: Connection, ids: Collection[str], now: datetime) -> int:
    """Note that a person has seen them, and return how many of them were open."""
    seen = in_list(alerts.c.id, ids) & alerts.c.resolved_at.is_(None)
    return ledger.execute(update(alerts).where(seen).values(resolved_at=now)).rowcount


def find_alerts(
    ledger: Connection,
    *,
    kind: AlertKind | None = None,
    only_open: bool = False,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[AlertRow]:
    """List alerts, newest first."""
    query = select(*COLUMNS).order_by(alerts.c.raised_at.desc(), alerts.c.id).limit(limit)
    if kind is not None:
        query = query.where(alerts.c.kind == str(kind))
    if only_open:
        query = query.where(alerts.c.resolved_at.is_(None))
    if since is not None:
        query = query.where(alerts.c.raised_at >= since)
    return [alert_row(AlertRow(*row)) for row in ledger.execute(query)]


def escape_name(name: str) -> str:
    """Write somebody else's name in a sentence: on one line, with nothing in it that a reader's program would obey."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return "".join(sign if sign.isalnum() or sign in SAFE_CHARACTERS else f"\\u{ord(sign):04x}" for sign in shown)


def alert_row(row: AlertRow) -> AlertRow:
    """Put the member in the place of its word."""
    return replace(row, kind=AlertKind(row.kind))
