"""The audit log: who looked at a body, ran something again, resolved an alert, or logged in, and when."""

import os
import pwd
import secrets
import socket
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from sqlalchemy import Connection, select, tuple_

from workers.ledger.database.conditions import matching, within
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.audit_tables import audit


class AuditAct(StrEnum):
    """What is recorded in the audit log."""

    LOGGED_IN = "logged_in"
    """Somebody logged in to the dashboard."""

    LOGIN_FAILED = "login_failed"
    """Somebody gave a wrong name or secret to the dashboard."""

    BODY_VIEWED = "body_viewed"
    """The raw bodies of deliveries or of requests in quarantine were shown."""

    USER_VIEWED = "user_viewed"
    """User ids that were masked were shown."""

    REPLAYED = "replayed"
    """Handlers were run again on deliveries."""

    RESENT = "resent"
    """Pushes that were given up were sent again."""

    RESOLVED = "resolved"
    """Alerts were resolved."""

    REVERIFIED = "reverified"
    """Requests in quarantine were verified again, and let in."""

    DELETED = "deleted"
    """What was older than the settings allow was deleted by a command."""

    ERASED = "erased"
    """All that was known of a driver or of a session was erased."""

    ARCHIVED = "archived"
    """Deliveries were written to a file."""

    BACKED_UP = "backed_up"
    """The inbox and the ledger were copied to a folder."""

    RESTORED = "restored"
    """The inbox and the ledger, or one of them, were restored from a backup."""

    DEVICES_CHANGED = "devices_changed"
    """A device of a driver was added or removed by a command."""

    DRIVE_CHANGED = "drive_changed"
    """A fleet was created or renamed, or a token pushed, at the Drive API or Roam OCPI, by a command."""

    QUEUES_CHANGED = "queues_changed"
    """Something was changed in rq-dashboard: a queue was emptied, a job deleted or requeued."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and from where: a network address, or the name of the machine that a command runs on."""

    name: str
    origin: str

    @classmethod
    def of_command(cls) -> Self:
        """Return the operating system's user, with the one behind `sudo`, as the actor of a command."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:  # as in containers that run with any uid
            name = f"uid {uid}"
        behind = os.environ.get("SUDO_USER") if uid == 0 else None  # others could set it to anything
        return cls(f"{behind} (as {name})" if behind else name, socket.gethostname())


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What is recorded of one act. The subject names ids or filters, and never a driver."""

    act: AuditAct
    actor: Actor
    subject: str | None = None
    count: int = 1
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def counting(self, count: int) -> Self:
        """Return the same entry for as many things: recorded again, it replaces the count."""
        return replace(self, count=count)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An act as it is in the ledger."""

    id: str
    at: datetime
    actor: str
    origin: str
    act: str
    subject: str | None
    count: int


COLUMNS = [audit.c[name] for name in AuditRow.__dataclass_fields__]
LONGEST_SUBJECT = 500


def record(ledger: Connection, entry: AuditEntry, now: datetime) -> None:
    """Record an act, in the transaction that performs it. Recorded again, an entry only replaces its count."""
    values = {
        "id": entry.id,
        "at": now,
        "actor": entry.actor.name,
        "origin": entry.actor.origin,
        "act": str(entry.act),
        "subject": entry.subject and entry.subject[:LONGEST_SUBJECT],
        "count": entry.count,
    }
    statement = insert_into(ledger, audit).values(values)
    ledger.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"count": entry.count}))


def find(  # noqa: PLR0913 - filters, by name
    conn: Connection,
    *,
    actor: str | None = None,
    act: AuditAct | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int | None = None,
) -> list[AuditRow]:
    """List acts, the latest first; those before the time and id of a row are its next page."""
    conditions = [*matching(audit, actor=actor, act=act), *within(audit.c.at, since, until)]
    if before is not None:
        conditions.append(tuple_(audit.c.at, audit.c.id) < tuple_(*before))
    query = select(*COLUMNS).where(*conditions).order_by(audit.c.at.desc(), audit.c.id.desc())
    return [AuditRow(*row) for row in conn.execute(query.limit(limit))]
