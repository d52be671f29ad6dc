"""Create the table of devices, and add the finished devices to pushes."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import add_column, create_index, create_table

revision = "0002"
down_revision = "0001"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Create the table and the column."""
    create_table(
        "devices",
        sa.Column("token", NAME, primary_key=True),
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("platform", sa.String),
        sa.Column("locale", sa.String),
        sa.Column("time_zone", sa.String),
        sa.Column("updated_at", MOMENT, nullable=False),
    )
    create_index("devices_user", "devices", ["user_id", "updated_at"])
    add_column("pushes", sa.Column("told", sa.JSON))
