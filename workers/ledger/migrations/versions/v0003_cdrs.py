"""Make the table of charging records."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make them."""
