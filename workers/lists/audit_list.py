"""The list of who did what."""

from workers.ledger.audit_log import AuditRow
from workers.lists.listing import Listing, attributes

AUDIT = Listing[AuditRow](
    fields=attributes("id", "at", "actor", "origin", "act", "subject", "count"),
    columns={"when": "at", "who": "actor", "from": "origin", "did": "act", "count": "count", "what": "subject"},
)
