"""Make the tables of decisions at the charger, and of what the Drive API said that they need."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make them."""
