"""The list of who did what."""

from workers.ledger import audit_log
from workers.ledger.audit_log import AuditAct, AuditRow
from workers.lists.list_query import SINCE, UNTIL, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes

AUDIT = Listing[AuditRow](
    fields=attributes("id", "at", "actor", "origin", "act", "subject", "count"),
    columns={"when": "at", "who": "actor", "from": "origin", "did": "act", "count": "count", "what": "subject"},
)


def _find_acts(stores: Stores, wanted: Selection) -> list[AuditRow]:
    return audit_log.find(
        stores.ledger,
        actor=wanted.get("actor"),
        act=wanted.get("act"),
        since=wanted.get("since"),
        until=wanted.get("until"),
        before=wanted.before,
        limit=wanted.limit,
    )


AUDIT_QUERY = ListQuery[AuditRow](
    name="audit",
    title="Audit",
    hint="Who did what, and when.",
    listing=AUDIT,
    find=_find_acts,
    position=lambda row: (row.at, row.id),
    filters=(Filter("actor", "the person"), Filter("act", "", AuditAct, tuple(AuditAct)), SINCE, UNTIL),
)
