"""Add when and why the body of a delivery was deleted, and the table of erasures."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import add_column, create_index, create_table

revision = "0016"
down_revision = "0015"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Add the columns, and create the table."""
    add_column("deliveries", sa.Column("body_deleted_at", MOMENT))
    add_column("deliveries", sa.Column("body_deletion", sa.String))
    create_table(
        "erasures",
        sa.Column("digest", NAME, primary_key=True),
        sa.Column("erasure_id", NAME, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
    )
    create_index("erasures_at", "erasures", ["at"])
