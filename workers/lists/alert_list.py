"""The list of alerts."""

from workers.alerts.alerts import AlertRow
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
