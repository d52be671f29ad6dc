"""Add the tables of the use of keys, and count what is there."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, create_table, execute

revision = "0020"
down_revision = "0019"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")

# In a slot of its own, and nothing twice: a migration that was killed is run again from its beginning.
COUNT_DELIVERIES = """
INSERT INTO signing_key_uses (signed_with, slot, deliveries, first_at, last_at)
SELECT signed_with, -1, count(*), min(received_at), max(received_at) FROM deliveries WHERE true GROUP BY signed_with
ON CONFLICT DO NOTHING
"""
COUNT_DECISIONS = """
INSERT INTO charging_key_uses (key, decision, asked, first_at, last_at)
SELECT key, decision, count(*), min(at), max(at) FROM authorizations WHERE key IS NOT NULL GROUP BY key, decision
ON CONFLICT DO NOTHING
"""
COUNT_ANY = """
INSERT INTO charging_key_uses (key, decision, asked, first_at, last_at, session_id)
SELECT key, 'any', sum(asked), min(first_at), max(last_at), (
    SELECT session_id FROM authorizations
    WHERE authorizations.key = charging_key_uses.key ORDER BY at DESC LIMIT 1
) FROM charging_key_uses WHERE decision != 'any' GROUP BY key
ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    """Create the tables, and fill them."""
    create_table(
        "signing_key_uses",
        sa.Column("signed_with", sa.String, primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("first_at", MOMENT, nullable=False),
        sa.Column("last_at", MOMENT, nullable=False),
    )
    create_table(
        "charging_key_uses",
        sa.Column("key", NAME, primary_key=True),
        sa.Column("decision", sa.String, primary_key=True),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("first_at", MOMENT, nullable=False),
        sa.Column("last_at", MOMENT, nullable=False),
        sa.Column("session_id", NAME),
    )
    create_index("charging_key_uses_last", "charging_key_uses", ["last_at", "key"], where="decision = 'any'")
    for statement in (COUNT_DELIVERIES, COUNT_DECISIONS, COUNT_ANY):
        execute(statement)
