"""All tables of the ledger, for those who make or compare them: each module of tables is named here once."""

from workers.ledger import authorization_tables
from workers.ledger.tables import metadata

__all__ = ["authorization_tables", "metadata"]
