"""The table of charging records, written by one plugin; read it by `ctx.read(select(cdrs))`.

A row is one CDR as it came once. Rows of one `identity` are one CDR that came several times: those of equal `content`
are repeats, the others are in conflict. Both follow from the rows and are stored nowhere, so they depend on no order,
and two workers with one of the rows each need not know of the other.
"""

from enum import StrEnum

from sqlalchemy import JSON, Column, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.dialects.postgresql import insert

from handlers.kit.column_types import BinaryCollatedText, ExactNumeric, UtcDateTime

NO_REQUEST_ID = text("request_id IS NULL")

# No foreign key to the sessions: a session's CDR may arrive first.
cdrs = Table(
    "cdrs",
    MetaData(),
    Column("delivery_id", BinaryCollatedText, primary_key=True),
    # In the array that the body is, from 0.
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("request_id", BinaryCollatedText),
    # The request id, or a digest of the document if it has none.
    Column("identity", BinaryCollatedText, nullable=False),
    # A digest of what is read of it.
    Column("content", BinaryCollatedText, nullable=False),
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
    Index("cdrs_identity", "identity", "received_at"),
    Index("cdrs_session", "session_id"),
    Index("cdrs_person", text("lower(user_id)")),
    Index("cdrs_user", "user_id", "received_at"),
    Index("cdrs_charging_key", "charging_key"),
    # Totals of a span are added up from this index alone, those of all CDRs from the next: equal amounts are together.
    Index("cdrs_amounts", "received_at", "currency", "amount"),
    Index("cdrs_totals", "currency", "amount", "received_at"),
    Index("cdrs_without_request_id", "received_at", sqlite_where=NO_REQUEST_ID, postgresql_where=NO_REQUEST_ID),
    Index("cdrs_recorded_at", "recorded_at"),
)


class CdrNote(StrEnum):
    """What is unusual about a CDR, beside fields that cannot be parsed. It is shown, and changes no value."""

    NO_REQUEST_ID = "has no request id: a digest of its content is used instead"
    NO_AMOUNT = "amount is missing"
    NO_CURRENCY = "currency is missing"
    NOT_A_CDR = "is not a CDR: an element that is no object, or a session event"
    NEGATIVE_AMOUNT = "amount is negative"
    NEGATIVE_ENERGY = "energy_kwh is negative"
    ENDS_BEFORE_START = "ended_at is before started_at"


CONTRADICTIONS = frozenset(
    {CdrNote.NOT_A_CDR, CdrNote.NEGATIVE_AMOUNT, CdrNote.NEGATIVE_ENERGY, CdrNote.ENDS_BEFORE_START}
)
"""The notes that need a person."""

ALWAYS_SET = frozenset({"delivery_id", "position", "document", "received_at"})
"""The columns that a replay does not change."""

_NEW = insert(cdrs)  # PostgreSQL's syntax is also SQLite's
UPSERT = _NEW.on_conflict_do_update(
    index_elements=[cdrs.c.delivery_id, cdrs.c.position],
    set_={column.name: _NEW.excluded[column.name] for column in cdrs.c if column.name not in ALWAYS_SET},
)
"""Inserts a record, given all its columns, or updates the columns that are parsed from the document."""
