"""The list of decisions at the charger."""

from handlers.kit.key_identifiers import search_spellings
from ingest.wire.authorization.request import Allowed
from workers.ledger import authorizations as ledger_authorizations
from workers.ledger.authorizations import DecisionFilter, DecisionRow
from workers.lists.list_query import SESSION, SINCE, UNTIL, Filter, ListQuery, Selection, Stores
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


def _find_decisions(stores: Stores, wanted: Selection) -> list[DecisionRow]:
    key = wanted.get("key")
    keys = None if key is None else search_spellings(key, stores.settings.authorize_key_bytes)
    filters = DecisionFilter(
        since=wanted.get("since"),
        until=wanted.get("until"),
        decision=wanted.get("decision"),
        policy=wanted.get("policy"),
        keys=keys,
        session_id=wanted.get("session"),
    )
    return ledger_authorizations.find(stores.ledger, filters, wanted.limit, wanted.before)


AUTHORIZATION_QUERY = ListQuery[DecisionRow](
    name="authorizations",
    title="Authorizations",
    hint="What was decided at the charger, and why.",
    listing=DECISIONS,
    find=_find_decisions,
    position=lambda row: (row.at, row.id),
    filters=(
        Filter("decision", "", choices=tuple(Allowed)),
        Filter("policy", "that decided, or failed to"),
        Filter("key", "charging key, in any spelling"),
        SESSION,
        SINCE,
        UNTIL,
    ),
)
