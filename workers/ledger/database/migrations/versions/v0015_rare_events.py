"""Find the deliveries of an event that is not part of every session: lists of one read all deliveries."""

from workers.ledger.database.online_ddl import create_index, drop_index

revision = "0015"
down_revision = "0014"

IS_RARE = "event NOT IN ('SESSION_COMPLETE', 'SESSION_STARTED', 'SESSION_STOPPED')"


def upgrade() -> None:
    """Replace the index of fee notices by one of all events but the common ones."""
    create_index("deliveries_rare_events", "deliveries", ["event", "received_at"], where=IS_RARE)
    drop_index("deliveries_fee_notices", "deliveries")
