"""Index the runs that fail and are tried again, and the pushes that were given up: alerts are raised for them."""

from workers.ledger.database.online_ddl import create_index

revision = "0007"
down_revision = "0006"

INDEXES = (
    ("runs_failing", "runs", "handler", "outcome IN ('again', 'running') AND error IS NOT NULL"),
    ("pushes_dead", "pushes", "created_at", "state = 'dead'"),
)


def upgrade() -> None:
    """Create the indexes."""
    for name, table, column, condition in INDEXES:
        create_index(name, table, [column], where=condition)
