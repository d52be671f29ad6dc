"""Create the tables of authorization decisions, and of what policies need from the Drive API."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, create_table

revision = "0004"
down_revision = "0003"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")


def upgrade() -> None:
    """Create them."""
    create_table(
        "authorizations",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("form", sa.String, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("policy", sa.String),
        sa.Column("reason", sa.Text),
        sa.Column("latency_us", sa.Integer, nullable=False),
        sa.Column("session_id", NAME),
        sa.Column("reference_id", sa.String),
        sa.Column("location_id", sa.String),
        sa.Column("country_code", sa.String),
        sa.Column("key", NAME),
        sa.Column("repeated", sa.Boolean, nullable=False),
        sa.Column("failure", sa.Text),
    )
    create_index("authorizations_at", "authorizations", ["at"])
    create_index("authorizations_key", "authorizations", ["key", "at"])
    create_index("authorizations_session", "authorizations", ["session_id"])
    create_table(
        "drive_readings",
        sa.Column("subject", NAME, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("read_at", MOMENT),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("rows_read", sa.Integer, nullable=False),
        sa.Column("failed_at", MOMENT),
        sa.Column("reason", sa.Text),
    )
    create_table(
        "charging_keys",
        sa.Column("identifier", NAME, primary_key=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("valid_to", MOMENT),
        sa.Column("contract_id", NAME),
        sa.Column("visual_number", sa.String),
        sa.Column("fleet_id", NAME),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("gone_at", MOMENT),
    )
    create_index("charging_keys_generation", "charging_keys", ["generation"])
    create_index("charging_keys_contract", "charging_keys", ["contract_id"])
    create_table(
        "balances",
        sa.Column("user_id", NAME, primary_key=True),
        sa.Column("amount", EXACT),
        sa.Column("read_at", MOMENT),
        sa.Column("asked_at", MOMENT),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("failed_at", MOMENT),
        sa.Column("reason", sa.Text),
    )
    create_index("balances_due", "balances", ["due_at"])
    create_index("balances_read", "balances", ["read_at"])
    create_table(
        "session_keys",
        sa.Column("session_id", NAME, primary_key=True),
        sa.Column("key", NAME, nullable=False),
        sa.Column("noted_at", MOMENT, nullable=False),
    )
    create_index("session_keys_noted_at", "session_keys", ["noted_at"])
