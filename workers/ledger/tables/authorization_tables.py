"""Tables of authorization: decisions, and what policies need from the Drive API."""

from sqlalchemy import Boolean, Column, Index, Integer, String, Table

from handlers.kit.column_types import BinaryCollatedText, ExactNumeric, UntrustedText, UtcDateTime
from workers.ledger.tables.core_tables import metadata

# `decision` is no enum: responses are an open set, and a policy may return one that we do not know.
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
    Index("authorizations_decision", "decision", "at"),
    Index("authorizations_policy", "policy", "at"),
    Index("authorizations_key", "key", "at"),
    Index("authorizations_session", "session_id"),
)

# One row for each list that is synced as a whole. A generation is one complete sync: copies of the list read the rows
# of later generations only.
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

# A row for each user whose balance may be needed; `amount` is empty until it was read.
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

# The key of a session according to the Drive API: the session's events do not have it.
session_keys = Table(
    "session_keys",
    metadata,
    Column("session_id", BinaryCollatedText, primary_key=True),
    Column("key", BinaryCollatedText, nullable=False),
    Column("noted_at", UtcDateTime, nullable=False),
    Index("session_keys_noted_at", "noted_at"),
)
