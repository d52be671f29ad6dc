"""Index fee notices, and drivers in any case: people list warnings, and look for drivers."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the indexes."""
    create_index("deliveries_fee_notices", "deliveries", ["received_at"], where="event = 'SESSION_FEE_INCURRING'")
    create_index("sessions_user", "sessions", [sa.text("lower(user_id)")])
    create_index("pushes_user", "pushes", [sa.text("lower(user_id)")])
