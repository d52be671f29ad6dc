"""The metadata of all tables of the ledger, for those who create or compare them."""

from handlers.kit.cdr_table import cdrs
from workers.ledger.tables import (  # noqa: F401 - each adds its tables to `metadata`
    alert_tables,
    audit_tables,
    authorization_tables,
    erasure_tables,
    key_tables,
    reconciliation_tables,
)
from workers.ledger.tables.core_tables import metadata

__all__ = ["metadata"]

# Defined in the kit, where plugins can read it, and created with the others.
cdrs.to_metadata(metadata)
