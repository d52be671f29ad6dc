"""Lists of refused requests, and of what became of those that were verified again."""

import base64

from ingest.events import peek
from ingest.inbox.quarantine import Reverified
from ingest.inbox.quarantined_request import QuarantinedRequest
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
