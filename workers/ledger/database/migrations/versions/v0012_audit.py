"""Create the table of the audit log: who did what, and when."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, create_table

revision = "0012"
down_revision = "0011"

MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Create the table and its index."""
    create_table(
        "audit",
        sa.Column("id", sa.String().with_variant(sa.String(collation="C"), "postgresql"), primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("act", sa.String, nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("count", sa.Integer, nullable=False),
    )
    create_index("audit_at", "audit", ["at", "id"])
