"""Find due runs by queue and handler, so that one handler's many delay no other's."""

from workers.ledger.database.online_ddl import create_index

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the index."""
    create_index("runs_ready", "runs", ["queue", "handler", "due_at"], where="due_at IS NOT NULL AND job_id IS NULL")
