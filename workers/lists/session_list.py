"""A charging session: its record, and its timeline of deliveries, runs and pushes."""

from handlers.kit.session import Session
from workers.diagnostics.session_timeline import Change, TimelineEntry
from workers.lists.delivery_list import run_json
from workers.lists.listing import Listing, attributes
from workers.lists.push_list import PUSHES

RECORD_HANDLERS = {"session_record", "cdr_record"}
"""Handlers whose work is shown as the changes of the record."""


SESSIONS = Listing[Session](
    fields=attributes(
        *("session_id", "user_id", "status", "started_at", "stopped_at", "completed_at"),
        *("fee_type", "fee_will_apply_from", "anomalies"),
    ),
)


CHANGES = Listing[Change](fields=attributes("before", "after"))


ENTRIES = Listing[TimelineEntry](
    fields={
        **attributes(at="at", event="delivery.event", delivery="delivery.id", received_at="delivery.received_at"),
        "late_seconds": lambda entry: None if entry.late is None else entry.late.total_seconds(),
        **attributes(state="delivery.state", duplicates="delivery.duplicates"),
        "changed": lambda entry: {change.field: CHANGES.json(change) for change in entry.changes},
        "runs": lambda entry: [run_json(run) for run in entry.delivery.runs],
        "pushes": lambda entry: [PUSHES.json(push) for push in entry.pushes],
    },
)
