"""Tables of the use of keys: signing keys by deliveries, charging keys by decisions."""

from typing import Final

from sqlalchemy import Column, Integer, PrimaryKeyConstraint, String, Table

from handlers.kit.column_types import BinaryCollatedText, UtcDateTime
from workers.ledger.tables.core_tables import metadata, partial_index

ANY_DECISION: Final = "any"
"""The row of a charging key that counts all decisions about it."""

# Counts since a key was first used: they outlive the deliveries that they count.
signing_key_uses = Table(
    "signing_key_uses",
    metadata,
    Column("signed_with", String),
    Column("slot", Integer),
    Column("deliveries", Integer, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("signed_with", "slot"),
)

charging_key_uses = Table(
    "charging_key_uses",
    metadata,
    Column("key", BinaryCollatedText),
    Column("decision", String),
    Column("asked", Integer, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("session_id", BinaryCollatedText),
    PrimaryKeyConstraint("key", "decision"),
)
partial_index(
    "charging_key_uses_last",
    *(charging_key_uses.c.last_at, charging_key_uses.c.key),
    where=f"decision = '{ANY_DECISION}'",
)
