"""Add which version a process must at least have to work with the ledger."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import add_column

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the column: without a value any version may that has one of the migrations before."""
    add_column("ledger_identity", sa.Column("compatible_from", sa.String))
