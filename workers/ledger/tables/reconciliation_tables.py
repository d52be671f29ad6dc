"""Tables of what is read again from the Drive API: single sessions, and windows of time."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Column, Integer, PrimaryKeyConstraint, String, Table

from handlers.kit.column_types import BinaryCollatedText, EnumText, UntrustedText, UtcDateTime
from workers.ledger.tables.core_tables import metadata, partial_index

ROUTINE = "*"
"""In place of an inbox in routine windows, without a downtime of ours: Plugsurfing skips events."""


class PollOutcome(StrEnum):
    """What the last poll of a session at the Drive API came to."""

    WAITING = "waiting"
    """Not polled yet."""

    OPEN = "open"
    """Not ended there: it will be polled again."""

    COMPLETE = "complete"
    """Complete there: nothing will change any more."""

    MISSING = "missing"
    """The Drive API does not know it (404)."""

    FAILED = "failed"
    """No response, or an invalid one."""

    NOT_NEEDED = "not_needed"
    """Completed by its events meanwhile."""

    GIVEN_UP = "given_up"
    """Polled for RECONCILE_FOR, and not ended yet."""


# `next_at` is when a session is polled next, or when the lease of its poller ends; empty once polling has ended.
# `status` is the last one of the Drive API, and `status_at` when it was first seen: later polls do not change it, for
# it is the time of a fact where the Drive API gives none.
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
partial_index("rereads_next", session_polls.c.next_at, where="next_at IS NOT NULL")

# A window of time in which events may be missing: a downtime of ours, or a routine window. It is backfilled user by
# user, ordered by id; `after_user` is the last one finished.
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
partial_index("gaps_open", downtimes.c.opened_at, where="covered_at IS NULL")
