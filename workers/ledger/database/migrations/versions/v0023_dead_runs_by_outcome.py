"""Find the dead runs of a handler by their own index on SQLite, which took that of all runs of the handler instead."""

from workers.ledger.database.online_ddl import create_index, drop_index

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Create the index, and drop the one that it replaces."""
    create_index("runs_dead_of_handler", "runs", ["outcome", "handler", "finished_at"], where="outcome = 'dead'")
    drop_index("runs_dead_of", "runs")
