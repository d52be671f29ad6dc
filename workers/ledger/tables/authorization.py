"""Tables of the question at the charger: what was decided, and what the Drive API said that policies need."""

from sqlalchemy import Boolean, Column, Index, Integer, String, Table

from handlers.kit.column_types import BinaryCollatedText, ExactNumeric, UntrustedText, UtcDateTime
from workers.ledger.tables.core import metadata

# `decision` is no enum here: the answers are an open set, and a policy may know one more than we do.
authorizations = Table(
    "authorizations",
    metadata,
    Column("id", BinaryCollatedText, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("form", String, nullable=False),
    Column("decision", String, nullable=False),
    Column("policy", String),
    Column("reason", UntrustedText),
    Column("latency_us", Integer, nullable=False),
    Column("session_id", BinaryCollatedText),
    Column("reference_id", String),
    Column("location_id", String),
    Column("country_code", String),
    Column("key", BinaryCollatedText),
    Column("repeated", Boolean, nullable=False),
    Column("failure", UntrustedText),
    Index("authorizations_at", "at"),
    Index("authorizations_key", "key", "at"),
    Index("authorizations_session", "session_id"),
)

# One row for each thing that is read as a whole. A generation is one reading of it that was complete: whoever holds a
# copy asks for the rows of later generations only.
drive_readings = Table(
    "drive_readings",
    metadata,
    Column("subject", BinaryCollatedText, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("read_at", UtcDateTime),
    Column("due_at", UtcDateTime, nullable=False),
    Column("rows_read", Integer, nullable=False),
    Column("failed_at", UtcDateTime),
    Column("reason", UntrustedText),
)

charging_keys = Table(
    "charging_keys",
    metadata,
    Column("identifier", BinaryCollatedText, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("valid_to", UtcDateTime),
    Column("contract_id", BinaryCollatedText),
    Column("visual_number", String),
    Column("fleet_id", BinaryCollatedText),
    Column("generation", Integer, nullable=False),
    Column("gone_at", UtcDateTime),
    Index("charging_keys_generation", "generation"),
    Index("charging_keys_contract", "contract_id"),
)

# A row stands for a user whose balance somebody may ask for; `amount` is empty until it has been read.
balances = Table(
    "balances",
    metadata,
    Column("user_id", BinaryCollatedText, primary_key=True),
    Column("amount", ExactNumeric),
    Column("read_at", UtcDateTime),
    Column("asked_at", UtcDateTime),
    Column("due_at", UtcDateTime, nullable=False),
    Column("failed_at", UtcDateTime),
    Column("reason", UntrustedText),
    Index("balances_due", "due_at"),
    Index("balances_read", "read_at"),
)

# Which key a session was started with, as the Drive API says it: the session's events do not.
session_keys = Table(
    "session_keys",
    metadata,
    Column("session_id", BinaryCollatedText, primary_key=True),
    Column("key", BinaryCollatedText, nullable=False),
    Column("noted_at", UtcDateTime, nullable=False),
    Index("session_keys_noted_at", "noted_at"),
)
