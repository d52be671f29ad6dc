"""The table of alerts: one open alert a cause."""

from sqlalchemy import JSON, Column, Index, Table, text

from handlers.kit.column_types import BinaryCollatedText, UntrustedText, UtcDateTime
from workers.ledger.tables.core_tables import metadata, partial_index

# `told_at` is when every destination of ALERT_URLS had taken it; `told` lists those that have. `due_at` is when it is
# sent next, or when the lease of its sender ends.
alerts = Table(
    "alerts",
    metadata,
    Column("id", BinaryCollatedText, primary_key=True),
    Column("kind", BinaryCollatedText, nullable=False),
    Column("subject", BinaryCollatedText, nullable=False),
    Column("sentence", UntrustedText, nullable=False),
    Column("session_id", BinaryCollatedText),
    Column("delivery_id", BinaryCollatedText),
    Column("raised_at", UtcDateTime, nullable=False),
    Column("logged_at", UtcDateTime),
    Column("due_at", UtcDateTime),
    Column("told", JSON(none_as_null=True)),
    Column("told_at", UtcDateTime),
    Column("resolved_at", UtcDateTime),
    Index("alerts_kind_subject", "kind", "subject", "resolved_at"),
    Index("alerts_raised_at", "raised_at"),
)
OPEN = text("resolved_at IS NULL")
partial_index("alerts_open", alerts.c.kind, alerts.c.subject, where=OPEN.text, unique=True)
partial_index("alerts_unlogged", alerts.c.raised_at, where="logged_at IS NULL")
partial_index("alerts_due", alerts.c.due_at, where="due_at IS NOT NULL")
