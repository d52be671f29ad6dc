"""Add the names of the record functions that succeeded when a delivery was stored: their runs have no row any more."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import add_column

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the column. Deliveries of before keep the rows of their runs."""
    add_column("deliveries", sa.Column("recorded_by", sa.String))
