"""Let a CDR that says the same as an earlier one be its repeat, and a delivery be an array of CDRs.

Of the CDRs that are there already, as before, other bytes with the same request id are in conflict:
`webhooks replay --handler cdr_record` reads them again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
COPIED = (
    "delivery_id, request_id, session_id, user_id, charging_key, amount, currency, energy_kwh, started_at, ended_at,"
    " location, operator, notes, document, received_at, recorded_at"
)


def upgrade() -> None:
    """Copy the table: SQLite cannot change a primary key."""
    op.create_table(
        "cdrs_copy",
        sa.Column("delivery_id", NAME, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("request_id", NAME),
        sa.Column("identity", NAME, nullable=False),
        sa.Column("content", NAME, nullable=False),
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
    op.execute(
        f"INSERT INTO cdrs_copy (position, identity, content, {COPIED})"  # noqa: S608 - constants
        f" SELECT 0, coalesce(request_id, delivery_id), delivery_id, {COPIED} FROM cdrs"
    )
    op.drop_table("cdrs")
    op.rename_table("cdrs_copy", "cdrs")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX cdrs_copy_pkey RENAME TO cdrs_pkey")
    op.create_index("cdrs_identity", "cdrs", ["identity", "received_at"])
    op.create_index("cdrs_session", "cdrs", ["session_id"])
    op.create_index("cdrs_user", "cdrs", ["user_id", "received_at"])
    op.create_index("cdrs_charging_key", "cdrs", ["charging_key"])
    op.create_index("cdrs_received_at", "cdrs", ["received_at"])
    op.create_index("cdrs_recorded_at", "cdrs", ["recorded_at"])
