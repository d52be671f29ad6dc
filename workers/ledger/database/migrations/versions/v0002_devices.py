"""Create the table of devices, and add the finished devices to pushes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Create the table and the column."""
    op.create_table(
        "devices",
        sa.Column("token", NAME, primary_key=True),
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("platform", sa.String),
        sa.Column("locale", sa.String),
        sa.Column("time_zone", sa.String),
        sa.Column("updated_at", MOMENT, nullable=False),
    )
    op.create_index("devices_user", "devices", ["user_id", "updated_at"])
    op.add_column("pushes", sa.Column("told", sa.JSON))
