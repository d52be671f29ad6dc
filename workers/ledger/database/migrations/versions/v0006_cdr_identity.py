"""Let a CDR that says the same as an earlier one be its repeat, and a delivery be an array of CDRs.

Of the CDRs that are there already, as before, other bytes with the same request id are in conflict:
`webhooks replay --handler cdr_record` reads them again.
"""

import sqlalchemy as sa
from alembic import op

from workers.ledger.database.online_ddl import (
    add_column,
    alter_table,
    backfill,
    create_index,
    drop_index,
    is_on,
    validate,
)

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
    """Add the columns, and a primary key with the position."""
    if is_on("sqlite"):
        _copy_table()  # SQLite cannot change a primary key
    else:
        _alter_table()
    create_index("cdrs_identity", "cdrs", ["identity", "received_at"])


def _alter_table() -> None:
    add_column("cdrs", sa.Column("position", sa.Integer, nullable=False, server_default="0"))
    add_column("cdrs", sa.Column("identity", NAME))
    add_column("cdrs", sa.Column("content", NAME))
    identified = "identity IS NOT NULL AND content IS NOT NULL"
    alter_table(
        "cdrs",
        "DROP CONSTRAINT IF EXISTS cdrs_identified",
        f"ADD CONSTRAINT cdrs_identified CHECK ({identified}) NOT VALID",
    )
    values = "identity = coalesce(request_id, delivery_id), content = delivery_id"
    backfill("cdrs", "delivery_id", values, "identity IS NULL")
    validate("cdrs", "cdrs_identified")
    create_index("cdrs_key", "cdrs", ["delivery_id", "position"], unique=True)
    alter_table("cdrs", "ALTER COLUMN identity SET NOT NULL", "ALTER COLUMN content SET NOT NULL")
    alter_table(
        "cdrs",
        "ALTER COLUMN position DROP DEFAULT",
        "DROP CONSTRAINT cdrs_identified",
        "DROP CONSTRAINT cdrs_pkey",
        "ADD CONSTRAINT cdrs_pkey PRIMARY KEY USING INDEX cdrs_key",
    )
    drop_index("cdrs_request", "cdrs")


def _copy_table() -> None:
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
    create_index("cdrs_session", "cdrs", ["session_id"])
    create_index("cdrs_user", "cdrs", ["user_id", "received_at"])
    create_index("cdrs_charging_key", "cdrs", ["charging_key"])
    create_index("cdrs_received_at", "cdrs", ["received_at"])
    create_index("cdrs_recorded_at", "cdrs", ["recorded_at"])
