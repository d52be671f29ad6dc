"""Make the tables of what is read again: gaps in our own uptime, re-reads of sessions, alerts."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make them."""
