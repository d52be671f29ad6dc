"""The list of alerts."""

from workers.alerts.alerts import AlertKind, AlertRow, find_alerts
from workers.lists.list_query import SINCE, UNTIL, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes


def _state(row: AlertRow) -> str:
    state = "resolved" if row.resolved_at else "open"
    return state if row.told_at else f"{state}, not sent"


ALERTS = Listing[AlertRow](
    fields=attributes(
        *("id", "kind", "subject", "sentence", "session_id", "delivery_id", "raised_at", "told_at", "resolved_at")
    ),
    columns={"raised": "raised_at", "id": "id", "kind": "kind", "state": _state, "what": "sentence"},
)


def _find_alerts(stores: Stores, wanted: Selection) -> list[AlertRow]:
    return find_alerts(
        stores.ledger,
        kind=wanted.get("kind"),
        only_open=bool(wanted.get("open")),
        since=wanted.get("since"),
        until=wanted.get("until"),
        before=wanted.before,
        limit=wanted.limit,
    )


ALERT_QUERY = ListQuery[AlertRow](
    name="alerts",
    title="Alerts",
    listing=ALERTS,
    find=_find_alerts,
    position=lambda row: (row.raised_at, row.id),
    filters=(
        Filter("kind", "", AlertKind, tuple(AlertKind)),
        Filter("open", "", choices=("only",)),
        SINCE,
        UNTIL,
    ),
)
