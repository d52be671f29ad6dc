"""The tables of what is read again at the Drive API: single sessions, and windows of time."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Column, Index, Integer, PrimaryKeyConstraint, String, Table, text

from handlers.kit.column_types import BinaryCollatedText, EnumText, UntrustedText, UtcDateTime
from workers.ledger.tables.core import metadata

ROUTINE = "*"
"""Stands where an inbox would in windows that are covered although no door was closed: Plugsurfing skips events."""


class PollOutcome(StrEnum):
    """What the last look at a session in the Drive API came to."""

    WAITING = "waiting"
    """Not looked at yet."""

    OPEN = "open"
    """It is not over there: it will be looked at again."""

    COMPLETE = "complete"
    """It is complete there, and nothing more will change."""

    MISSING = "missing"
    """The Drive API does not know it (404)."""

    FAILED = "failed"
    """No answer, or none that is understood."""

    NOT_NEEDED = "not_needed"
    """Its events have told everything after all."""

    GIVEN_UP = "given_up"
    """It was looked at for RECONCILE_FOR, and is not over yet."""


# `next_at` is when a session is to be read next, or when who is reading it now must have ended; it is empty once
# nothing more is to come. `status` is what the Drive API said last, and `status_at` when it was first seen to say so:
# it must not change with later reads, as it is the time of a fact where the Drive API gives none.
session_polls = Table(
    "rereads",
    metadata,
    Column("session_id", BinaryCollatedText, primary_key=True),
    Column("outcome", EnumText(PollOutcome), nullable=False),
    Column("enrolled_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("read_at", UtcDateTime),
    Column("status", String),
    Column("status_at", UtcDateTime),
    Column("reason", UntrustedText),
    CheckConstraint("next_at IS NOT NULL OR outcome NOT IN ('waiting', 'open')", name="rereads_due_while_open"),
)
DUE = text("next_at IS NOT NULL")
Index("rereads_next", session_polls.c.next_at, sqlite_where=DUE, postgresql_where=DUE)

# A window of time in which events may be missing: our own door was closed, or it is looked at as a matter of routine.
# It is covered user by user, in the order of their ids; `after_user` is the last one that is done.
downtimes = Table(
    "gaps",
    metadata,
    Column("inbox", BinaryCollatedText),
    Column("closed_at", UtcDateTime),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("noticed_at", UtcDateTime, nullable=False),
    Column("covered_at", UtcDateTime),
    Column("sessions_read", Integer, nullable=False),
    Column("after_user", BinaryCollatedText),
    Column("users_failed", Integer, nullable=False),
    Column("claimed_until", UtcDateTime),
    PrimaryKeyConstraint("inbox", "closed_at"),
)
OPEN = text("covered_at IS NULL")
Index("gaps_open", downtimes.c.opened_at, sqlite_where=OPEN, postgresql_where=OPEN)
