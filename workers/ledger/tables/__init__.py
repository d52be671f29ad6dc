"""All tables of the ledger, for those who make or compare them: each module of tables is named here once."""

from handlers.kit.cdr_table import cdrs
from workers.ledger.tables import alerts, authorization, reconciliation
from workers.ledger.tables.core import metadata

__all__ = ["alerts", "authorization", "metadata", "reconciliation"]

# Kept in the kit, where plugins can read it, and made with the others.
cdrs.to_metadata(metadata)
