"""Send pushes that belong to a session even if it is over."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column: of a push that is there already, the end of its session cancels it."""
    op.add_column("pushes", sa.Column("even_if_over", sa.Boolean, nullable=False, server_default=sa.false()))
