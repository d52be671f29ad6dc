"""Find drivers by the beginning of their ids, and their CDRs in any case of letters."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the indexes. On SQLite `sessions_user` finds the beginning of an id as it is."""
    op.create_index("cdrs_person", "cdrs", [sa.text("lower(user_id)")])
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("sessions_user", "sessions")
        op.create_index("sessions_user", "sessions", [sa.text("lower(user_id) text_pattern_ops")])
