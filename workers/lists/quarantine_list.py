"""Lists of refused requests, and of what became of those that were verified again."""

import base64

from ingest.events import peek
from ingest.inbox.quarantine import Quarantine, Reverified, Verification
from ingest.inbox.quarantined_request import QuarantinedRequest
from ingest.inbox.schema import FILE_NAME
from workers.lists.list_query import SINCE, UNTIL, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes

QUARANTINED = Listing[QuarantinedRequest](
    fields={
        **attributes("kind", "received_at", "reason"),
        "event": lambda request: peek(request.kind, request.body).name,
        "session_id": lambda request: peek(request.kind, request.body).session_id,
        **attributes("sender", "path", "headers"),
        "body_base64": lambda request: base64.b64encode(request.body).decode("ascii"),
    },
    columns={
        "received": "received_at",
        "kind": "kind",
        "event": "event",
        "session": "session_id",
        "bytes": lambda request: len(request.body),
        "sender": "sender",
        "path": "path",
        "reason": "reason",
    },
)


REVERIFIED = Listing[Reverified](
    fields={
        **attributes(kind="request.kind", received_at="request.received_at", reason="reason"),
        "event": lambda each: peek(each.request.kind, each.request.body).name,
        "session_id": lambda each: peek(each.request.kind, each.request.body).session_id,
        "id": lambda each: each.kept and each.kept.id,
        "duplicate": lambda each: each.kept and each.kept.duplicate,
    },
)


VERIFIED = Listing[Verification](
    fields={
        **attributes(kind="request.kind", received_at="request.received_at", reason="reason"),
        "event": lambda each: peek(each.request.kind, each.request.body).name,
        "session_id": lambda each: peek(each.request.kind, each.request.body).session_id,
        "key": lambda each: each.envelope and each.envelope.signed_with,
    },
)


def _find_refused(stores: Stores, wanted: Selection) -> list[QuarantinedRequest]:
    if stores.outbox is None:
        return []
    until = wanted.get("until")
    found = Quarantine(stores.settings.data_dir / FILE_NAME, stores.settings).list(wanted.get("since"))[::-1]
    return [request for request in found if until is None or request.received_at < until]


QUARANTINE_QUERY = ListQuery[QuarantinedRequest](
    name="quarantine",
    title="Quarantine",
    hint="What failed verification on this node, or came to a wrong path, and why.",
    listing=QUARANTINED,
    find=_find_refused,
    filters=(SINCE, UNTIL),
    reads_ledger=False,
)
