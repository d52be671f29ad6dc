"""Alerts in the ledger: raised once for as long as their cause exists, listed and resolved."""

import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, exists, select, update

from ingest.events import sanitize_text
from workers.ledger.database.conditions import Position, in_list, older_than, within
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.alert_tables import OPEN, alerts


class AlertKind(StrEnum):
    """The kinds of alerts."""

    SESSION_OPEN = "session_open"
    """A session has started, and for WATCH_SESSION_OPEN no event has ended it."""

    CDR_MISSING = "cdr_missing"
    """A session is complete, and for WATCH_CDR_MISSING no CDR has come for it."""

    CDR_CONFLICT = "cdr_conflict"
    """A CDR has come with the request id of another one, and they do not say the same; both are kept."""

    CDR_IMPLAUSIBLE = "cdr_implausible"
    """A CDR says what cannot be true, or its session has another one; it is counted as it came."""

    UNREADABLE = "unreadable"
    """A signed request has come that cannot be parsed; its bytes are kept."""

    DEAD_LETTERS = "dead_letters"
    """A handler has given up runs, which are not retried by themselves."""

    SILENCE = "silence"
    """No event has come for WATCH_SILENCE, at a time when some always do."""

    GAP = "gap"
    """Nothing could be received for longer than WATCH_GAP; what Plugsurfing sent meanwhile was missed."""

    HANDLER_FAILING = "handler_failing"
    """Runs of a handler fail, again and again, and are still retried."""

    PUSHES_LATE = "pushes_late"
    """Pushes of a channel wait although they should have been sent: the provider refuses them, or is unavailable."""

    PUSHES_DEAD = "pushes_dead"
    """Pushes of a channel were given up; drivers were not told."""

    SIGNATURES_FAILING = "signatures_failing"
    """Many requests in a few minutes could not be verified: probably a key is wrong."""

    WRONG_PATH = "wrong_path"
    """A well-signed request came to a path that nothing answers."""

    STALLED = "stalled"
    """Deliveries or runs wait for longer than a minute, urgent ones for ten seconds, an erasure for an hour."""

    REDIS_FULL = "redis_full"
    """Redis has used most of its `maxmemory`: without any left no job can be taken."""

    REDIS_EVICTS = "redis_evicts"
    """Redis has a `maxmemory` and a policy that deletes keys there: jobs would vanish."""

    OLD_TRANSACTION = "old_transaction"
    """A transaction stays open in the ledger: what is deleted gives no disk back, and SQLite's log grows."""

    WORKER_GONE = "worker_gone"
    """No worker runs, or none serves a queue, or one has ended without saying so."""

    CLOCK_GONE = "clock_gone"
    """No clock runs, or one has ended without saying so."""

    SERVE_GONE = "serve_gone"
    """A `serve` has ended without saying so, or does not reach Redis."""

    HANDLERS_OUTDATED = "handlers_outdated"
    """The files of plugins are newer than what a worker has loaded, or it has not loaded a handler at all."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that needs a person. The sentence names no driver."""

    kind: AlertKind
    subject: str
    """Identifies the cause: at most one alert of a kind and subject is open."""
    sentence: str
    session_id: str | None = None
    delivery_id: str | None = None


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert as it is in the ledger."""

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
    """Insert an alert, which the clock will send, and return whether it is new.

    It is not new while one of its kind and subject is open; nor if one was resolved after `since`, when the cause
    arose, because somebody has seen it.
    """
    subject = sanitize_text(alert.subject)
    about = (alerts.c.kind == str(alert.kind), alerts.c.subject == subject)
    if since is not None and ledger.scalar(select(exists().where(*about, alerts.c.resolved_at >= since))):
        return False
    values = {
        **asdict(alert),
        "id": secrets.token_hex(6),
        "kind": str(alert.kind),
        "subject": subject,
        "raised_at": now,
        "due_at": now,
    }
    statement = insert_into(ledger, alerts).values(values)
    only_one = statement.on_conflict_do_nothing(index_elements=["kind", "subject"], index_where=OPEN)
    return ledger.scalar(only_one.returning(alerts.c.id)) is not None


def resolve_alerts(ledger: Connection, kind: AlertKind, subjects: Collection[str], now: datetime) -> int:
    """Resolve the alerts whose causes are gone, and return their number."""
    if not subjects:
        return 0
    gone = alerts.c.resolved_at.is_(None) & (alerts.c.kind == str(kind)) & in_list(alerts.c.subject, subjects)
    return ledger.execute(update(alerts).where(gone).values(resolved_at=now)).rowcount


def resolve_by_id(ledger: Connection, ids: Collection[str], now: datetime) -> int:
    """Resolve alerts that a person has seen, and return how many of them were open."""
    seen = in_list(alerts.c.id, ids) & alerts.c.resolved_at.is_(None)
    return ledger.execute(update(alerts).where(seen).values(resolved_at=now)).rowcount


def find_alerts(  # noqa: PLR0913 - filters, by name
    ledger: Connection,
    *,
    kind: AlertKind | None = None,
    only_open: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    before: Position | None = None,
    limit: int | None = None,
) -> list[AlertRow]:
    """List alerts, newest first; those behind a position are the next page."""
    conditions = within(alerts.c.raised_at, since, until) + older_than(alerts.c.raised_at, alerts.c.id, before)
    query = select(*COLUMNS).where(*conditions)
    query = query.order_by(alerts.c.raised_at.desc(), alerts.c.id).limit(limit)
    if kind is not None:
        query = query.where(alerts.c.kind == str(kind))
    if only_open:
        query = query.where(alerts.c.resolved_at.is_(None))
    rows = [AlertRow(*row) for row in ledger.execute(query)]
    return [replace(row, kind=AlertKind(row.kind)) for row in rows]


def escape_name(name: str) -> str:
    """Format a foreign name for a sentence: shortened, on one line, without characters that a program would obey."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return "".join(each if each.isalnum() or each in SAFE_CHARACTERS else f"\\u{ord(each):04x}" for each in shown)
