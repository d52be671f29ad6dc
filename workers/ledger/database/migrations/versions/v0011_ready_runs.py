"""Find due runs by queue and handler, so that one handler's many delay no other's."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the index."""
    where = sa.text("due_at IS NOT NULL AND job_id IS NULL")
    op.create_index("runs_ready", "runs", ["queue", "handler", "due_at"], sqlite_where=where, postgresql_where=where)
