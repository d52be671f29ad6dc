"""Create the table with the ledger's id, by which its inboxes and workers know it."""

import uuid

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_table, execute

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create it, and the id."""
    create_table(
        "ledger_identity",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String, nullable=False),
        sa.CheckConstraint("number = 1", name="ledger_identity_one_row"),
    )
    execute("INSERT INTO ledger_identity VALUES (1, :id) ON CONFLICT DO NOTHING", id=uuid.uuid4().hex[:12])
