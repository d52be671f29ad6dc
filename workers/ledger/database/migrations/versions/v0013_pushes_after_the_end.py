"""Send pushes that belong to a session even if it is over."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import add_column

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column: of a push that is there already, the end of its session cancels it."""
    add_column("pushes", sa.Column("even_if_over", sa.Boolean, nullable=False, server_default=sa.false()))
