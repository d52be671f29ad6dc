"""Find the rows of every list and its filters by an index: some read all of a table."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, drop_index

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Create the indexes, and drop those that they replace."""
    create_index("authorizations_decision", "authorizations", ["decision", "at"])
    create_index("authorizations_policy", "authorizations", ["policy", "at"])
    create_index("cdrs_amounts", "cdrs", ["received_at", "currency", "amount"])
    create_index("cdrs_without_request_id", "cdrs", ["received_at"], where="request_id IS NULL")
    create_index("deliveries_other_records", "deliveries", ["recorded_by"], where="recorded_by <> 'session_record'")
    create_index("devices_person", "devices", [sa.text("lower(user_id)")])
    create_index("devices_updated_at", "devices", ["updated_at"])
    create_index("pushes_channel", "pushes", ["channel", "created_at"])
    create_index("pushes_state", "pushes", ["state", "created_at"])
    create_index("runs_of_handler", "runs", ["handler", "finished_at"])
    drop_index("cdrs_received_at", "cdrs")
    drop_index("pushes_dead", "pushes")
