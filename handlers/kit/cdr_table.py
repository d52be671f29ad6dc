"""The table of charging records, written by one plugin; read it by `ctx.read(select(cdrs))`.

Two rows with one `request_id` conflict: one request reported two different records. The conflict follows from the rows
and is stored nowhere, so it depends on no order, and two workers with one of them each need not know of the other.
"""

from sqlalchemy import JSON, Column, Index, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import insert

from handlers.kit.column_types import BinaryCollatedText, ExactNumeric, UtcDateTime

# No foreign key to the sessions: a session's CDR may arrive first.
cdrs = Table(
    "cdrs",
    MetaData(),
    Column("delivery_id", BinaryCollatedText, primary_key=True),
    Column("request_id", BinaryCollatedText),
    Column("session_id", BinaryCollatedText),
    Column("user_id", BinaryCollatedText),
    Column("charging_key", BinaryCollatedText),
    Column("amount", ExactNumeric),
    Column("currency", BinaryCollatedText),
    Column("energy_kwh", ExactNumeric),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("location", Text),
    Column("operator", Text),
    Column("notes", JSON, nullable=False),
    Column("document", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Index("cdrs_request", "request_id"),
    Index("cdrs_session", "session_id"),
    Index("cdrs_user", "user_id", "received_at"),
    Index("cdrs_charging_key", "charging_key"),
    Index("cdrs_received_at", "received_at"),
    Index("cdrs_recorded_at", "recorded_at"),
)

ALWAYS_SET = frozenset({"delivery_id", "document", "received_at"})
"""The columns that a replay does not change."""

_NEW = insert(cdrs)  # PostgreSQL's syntax is also SQLite's
UPSERT = _NEW.on_conflict_do_update(
    index_elements=[cdrs.c.delivery_id],
    set_={column.name: _NEW.excluded[column.name] for column in cdrs.c if column.name not in ALWAYS_SET},
)
"""Inserts the record of a delivery, given all its columns, or updates the columns that are parsed from it."""
