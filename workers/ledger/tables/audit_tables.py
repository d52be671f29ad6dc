"""The table of the audit log: who did what, and when."""

from sqlalchemy import Column, Index, Integer, String, Table

from handlers.kit.column_types import BinaryCollatedText, UntrustedText, UtcDateTime
from workers.ledger.tables.core_tables import metadata

# No row names a driver; one may name a session until that is erased. `act` is no enum: a newer version may record more.
audit = Table(
    "audit",
    metadata,
    Column("id", BinaryCollatedText, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", UntrustedText, nullable=False),
    Column("origin", UntrustedText, nullable=False),
    Column("act", String, nullable=False),
    Column("subject", UntrustedText),
    Column("count", Integer, nullable=False),
    Index("audit_at", "at", "id"),
)
