"""Tables of the question at the charger: what was decided, and what the Drive API said that policies need."""

from sqlalchemy import Boolean, Column, Index, Integer, String, Table

from handlers.kit.columns import NAME, Exact, Moment, Told
from workers.ledger.tables import metadata

# `decision` is no enum here: the answers are an open set, and a policy may know one more than we do.
authorizations = Table(
    "authorizations",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("form", String, nullable=False),
    Column("decision", String, nullable=False),
    Column("policy", String),
    Column("reason", Told),
    Column("latency_us", Integer, nullable=False),
    Column("session_id", NAME),
    Column("reference_id", String),
    Column("location_id", String),
    Column("country_code", String),
    Column("key", NAME),
    Column("repeated", Boolean, nullable=False),
    Column("failure", Told),
    Index("authorizations_at", "at"),
    Index("authorizations_key", "key", "at"),
    Index("authorizations_session", "session_id"),
)

# One row for each thing that is read as a whole. A generation is one reading of it that was complete: whoever holds a
# copy asks for the rows of later generations only.
drive_readings = Table(
    "drive_readings",
    metadata,
    Column("subject", NAME, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("read_at", Moment),
    Column("due_at", Moment, nullable=False),
    Column("rows_read", Integer, nullable=False),
    Column("failed_at", Moment),
    Column("reason", Told),
)

charging_keys = Table(
    "charging_keys",
    metadata,
    Column("identifier", NAME, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("valid_to", Moment),
    Column("contract_id", NAME),
    Column("visual_number", String),
    Column("fleet_id", NAME),
    Column("generation", Integer, nullable=False),
    Column("gone_at", Moment),
    Index("charging_keys_generation", "generation"),
    Index("charging_keys_contract", "contract_id"),
)

# A row stands for a user whose balance somebody may ask for; `amount` is empty until it has been read.
balances = Table(
    "balances",
    metadata,
    Column("user_id", NAME, primary_key=True),
    Column("amount", Exact),
    Column("read_at", Moment),
    Column("asked_at", Moment),
    Column("due_at", Moment, nullable=False),
    Column("failed_at", Moment),
    Column("reason", Told),
    Index("balances_due", "due_at"),
    Index("balances_read", "read_at"),
)

# Which key a session was started with, as the Drive API says it: the session's events do not.
session_keys = Table(
    "session_keys",
    metadata,
    Column("session_id", NAME, primary_key=True),
    Column("key", NAME, nullable=False),
    Column("noted_at", Moment, nullable=False),
    Index("session_keys_noted_at", "noted_at"),
)
