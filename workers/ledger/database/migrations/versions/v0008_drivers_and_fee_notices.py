"""Index fee notices, and drivers in any case: people list warnings, and look for drivers."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

IS_NOTICE = sa.text("event = 'SESSION_FEE_INCURRING'")


def upgrade() -> None:
    """Create the indexes."""
    op.create_index(
        "deliveries_fee_notices", "deliveries", ["received_at"], sqlite_where=IS_NOTICE, postgresql_where=IS_NOTICE
    )
    op.create_index("sessions_user", "sessions", [sa.text("lower(user_id)")])
    op.create_index("pushes_user", "pushes", [sa.text("lower(user_id)")])
