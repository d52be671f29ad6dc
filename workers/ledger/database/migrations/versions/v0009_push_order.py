"""Add the time of a push's event, which orders the pushes of one collapse key."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import add_column

revision = "0009"
down_revision = "0008"

MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Add it."""
    add_column("pushes", sa.Column("event_at", MOMENT))
