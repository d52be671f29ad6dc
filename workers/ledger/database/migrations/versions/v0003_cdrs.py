"""Create the table of charging records."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, create_table

revision = "0003"
down_revision = "0002"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")


def upgrade() -> None:
    """Create the table."""
    create_table(
        "cdrs",
        sa.Column("delivery_id", NAME, primary_key=True),
        sa.Column("request_id", NAME),
        sa.Column("session_id", NAME),
        sa.Column("user_id", NAME),
        sa.Column("charging_key", NAME),
        sa.Column("amount", EXACT),
        sa.Column("currency", NAME),
        sa.Column("energy_kwh", EXACT),
        sa.Column("started_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        sa.Column("location", sa.Text),
        sa.Column("operator", sa.Text),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
    )
    create_index("cdrs_request", "cdrs", ["request_id"])
    create_index("cdrs_session", "cdrs", ["session_id"])
    create_index("cdrs_user", "cdrs", ["user_id", "received_at"])
    create_index("cdrs_charging_key", "cdrs", ["charging_key"])
    create_index("cdrs_received_at", "cdrs", ["received_at"])
    create_index("cdrs_recorded_at", "cdrs", ["recorded_at"])
