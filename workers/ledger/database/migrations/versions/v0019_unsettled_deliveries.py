"""Find deliveries by their state only where they are not settled: nearly all are, and each took room in the index."""

from workers.ledger.database.online_ddl import create_index, drop_index

revision = "0019"
down_revision = "0018"

#: Older versions do not know runs without a row, nor bodies that are compressed. None of them was released.
COMPATIBLE_FROM = "0019"


def upgrade() -> None:
    """Replace the index of all states."""
    create_index("deliveries_not_settled", "deliveries", ["state", "received_at"], where="state <> 'settled'")
    drop_index("deliveries_state", "deliveries")
