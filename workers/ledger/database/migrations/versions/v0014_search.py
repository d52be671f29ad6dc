"""Find drivers by the beginning of their ids, and their CDRs in any case of letters."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, is_on, replace_index

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the indexes. On SQLite `sessions_user` finds the beginning of an id as it is."""
    create_index("cdrs_person", "cdrs", [sa.text("lower(user_id)")])
    if is_on("postgresql"):
        replace_index("sessions_user", "sessions", [sa.text("lower(user_id) text_pattern_ops")])
