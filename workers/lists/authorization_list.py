"""The list of decisions at the charger."""

from workers.ledger.authorizations import DecisionRow
from workers.lists.listing import Listing, attributes


def _notes(row: DecisionRow) -> str:
    notes = [row.reason] if row.reason else []
    notes += [f"failure: {row.failure}"] if row.failure else []
    notes += ["asked again"] if row.repeated else []
    return ", ".join(notes)


DECISIONS = Listing[DecisionRow](
    fields={
        **attributes("id", "at", "form", "decision", "policy", "reason"),
        "latency_ms": lambda row: row.latency_us / 1000,
        **attributes("session_id", "reference_id", "location_id", "country_code", "key", "repeated", "failure"),
    },
    columns={
        "asked": "at",
        "key": "key",
        "session": "session_id",
        "decision": "decision",
        "policy": "policy",
        "took": lambda row: row.latency,
        "notes": _notes,
    },
)
