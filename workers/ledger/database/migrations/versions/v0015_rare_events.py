"""Find the deliveries of an event that is not part of every session: lists of one read all deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

IS_RARE = sa.text("event NOT IN ('SESSION_COMPLETE', 'SESSION_STARTED', 'SESSION_STOPPED')")


def upgrade() -> None:
    """Replace the index of fee notices by one of all events but the common ones."""
    op.create_index(
        *("deliveries_rare_events", "deliveries", ["event", "received_at"]),
        sqlite_where=IS_RARE,
        postgresql_where=IS_RARE,
    )
    op.drop_index("deliveries_fee_notices", "deliveries")
