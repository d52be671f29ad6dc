"""Find deliveries of another key than CURRENT without reading all, and total all CDRs without sorting them."""

from workers.ledger.database.online_ddl import create_index

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Create the indexes."""
    create_index("cdrs_totals", "cdrs", ["currency", "amount", "received_at"])
    create_index(
        "deliveries_other_keys", "deliveries", ["signed_with", "received_at"], where="signed_with <> 'current'"
    )
