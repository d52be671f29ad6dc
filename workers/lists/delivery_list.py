"""Lists of deliveries and their runs, of dead letters, and of downtimes."""

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from ingest.inbox.downtime import Downtime
from ingest.wire.envelope import WITH_AUTHORIZATION
from ingest.wire.signature import Match
from workers.ledger import downtimes as ledger_downtimes
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.downtimes import DowntimeRow
from workers.ledger.runs import RunRecord
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.lists.delivery_sources import from_ledger_and_inbox
from workers.lists.formatting import Json, human_duration, short_id
from workers.lists.list_query import SESSION, SINCE, UNTIL, USER, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes

ENDED_WELL = {Outcome.DONE, Outcome.MOOT, Outcome.IGNORED}


class DeadLetter(NamedTuple):
    """A run that failed for good, and its delivery."""

    delivery: DeliveryRow
    run: RunRecord


class KnownDowntime(NamedTuple):
    """A downtime, and what the ledger has recorded of it."""

    downtime: Downtime
    row: DowntimeRow | None


def run_json(run: RunRecord) -> dict[str, Json]:
    """Return a run as `deliveries --json` prints it."""
    return {"handler": run.handler, "outcome": run.outcome, "attempts": run.attempts, "error": run.error}


def known_downtimes(
    here: Iterable[Downtime], rows: Iterable[DowntimeRow], since: datetime | None, until: datetime | None
) -> Iterator[KnownDowntime]:
    """Yield the downtimes of this node's inbox and those of the ledger, newest first."""
    known = {Downtime(row.closed_at, row.opened_at, row.inbox): row for row in rows}
    for each in sorted({*known, *here}, reverse=True):
        if (since is None or each.opened_at >= since) and (until is None or each.closed_at < until):
            yield KnownDowntime(each, known.get(each))


def _backfill_text(row: DowntimeRow | None) -> str:
    if row is None:
        return "not known to the ledger yet"
    if row.covered_at is None:
        return "not yet"
    return f"{row.sessions_read} sessions" + (f", {row.users_failed} users failed" if row.users_failed else "")


def _notes(row: DeliveryRow) -> str:
    ended_well = Counter(run.outcome for run in row.runs if run.outcome in ENDED_WELL)
    notes = [f"{count} {outcome}" for outcome, count in ended_well.items()]
    notes += [
        run.outcome if run.handler == WHOLE_DELIVERY else f"{run.handler} {run.outcome}"
        for run in row.runs
        if run.outcome not in ENDED_WELL
    ]
    notes += [f"came {row.duplicates + 1} times"] if row.duplicates else []
    signed = "healed: made from the Drive API" if row.is_healed else f"signed with {row.signed_with}"
    notes += [signed] if row.signed_with != Match.CURRENT else []
    notes += [row.reason] if row.reason else []
    return ", ".join(notes)


def dead_letters(rows: Sequence[DeliveryRow], handler: str | None) -> Iterator[DeadLetter]:
    """Yield the dead runs of deliveries, or those of one handler."""
    for row in rows:
        for run in row.runs:
            if run.outcome is Outcome.DEAD and handler in {None, run.handler}:
                yield DeadLetter(row, run)


def _error_text(run: RunRecord) -> str:
    attempts = "1 try" if run.attempts == 1 else f"{run.attempts} tries"
    return f"{_first_line(run.error) or run.reason} ({attempts})"


def deletion_text(row: DeliveryRow) -> str | None:
    """Return when and why the body was deleted; None if it is there."""
    return None if row.body_deleted_at is None else f"deleted on {row.body_deleted_at:%Y-%m-%d}, {row.body_deletion}"


def _first_line(error: str | None) -> str | None:
    return next(iter((error or "").splitlines()), None)


DELIVERIES = Listing[DeliveryRow](
    fields={
        **attributes("id", "kind", "event", "session_id", "received_at", "state"),
        **attributes(key="signed_with", duplicates="duplicates"),
        "runs": lambda row: [run_json(run) for run in row.runs],
    },
    columns={
        "received": "received_at",
        "id": lambda row: short_id(row.id),
        "event": lambda row: row.event or row.kind,
        "session": "session_id",
        "state": "state",
        "notes": _notes,
    },
)


DEAD_LETTERS = Listing[DeadLetter](
    fields={
        **attributes(delivery="delivery.id", event="delivery.event", session_id="delivery.session_id"),
        **attributes(received_at="delivery.received_at", handler="run.handler", attempts="run.attempts"),
        "error": lambda letter: _first_line(letter.run.error),
        **attributes(finished_at="run.finished_at"),
    },
    columns={
        "died": "finished_at",
        "delivery": lambda letter: short_id(letter.delivery.id),
        "event": lambda letter: letter.delivery.event or letter.delivery.kind,
        "handler": "handler",
        "error": lambda letter: _error_text(letter.run),
    },
)


DOWNTIMES = Listing[KnownDowntime](
    fields={
        **attributes(inbox="downtime.inbox", closed_at="downtime.closed_at", opened_at="downtime.opened_at"),
        "seconds": lambda known: known.downtime.length.total_seconds(),
        "covered_at": lambda known: known.row.covered_at if known.row else None,
        "sessions_read": lambda known: known.row.sessions_read if known.row else 0,
    },
    columns={
        "closed": "closed_at",
        "opened": "opened_at",
        "for": lambda known: human_duration(known.downtime.length),
        "inbox": "inbox",
        "read again": lambda known: _backfill_text(known.row),
    },
)


RUNS = Listing[RunRecord](
    fields=attributes(
        *("handler", "outcome", "attempts", "error", "reason"),
        *("queue", "due_at", "started_at", "finished_at", "traceback"),
    ),
    columns={
        "handler": "handler",
        "outcome": "outcome",
        "tries": "attempts",
        "due": "due_at",
        "ended": "finished_at",
        "why": lambda run: run.error or run.reason,
    },
)


DETAILS = Listing[DeliveryRow](
    fields={
        **DELIVERIES.fields,
        **attributes("reason", "signed_at", "settled_at", "inbox", "body_deleted_at", "body_deletion"),
        "headers": lambda row: dict(row.headers),
        "runs": lambda row: [RUNS.json(run) for run in row.runs],
        "body": lambda row: _utf8_text(row.body or b""),
        "body_base64": lambda row: base64.b64encode(row.body or b"").decode("ascii"),
    }
)


def _utf8_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _find_deliveries(stores: Stores, wanted: Selection) -> Iterator[DeliveryRow]:
    filters = DeliveryFilters(
        state=wanted.get("state"),
        event=wanted.get("event"),
        session_id=wanted.get("session"),
        person=wanted.get("user"),
        handler=wanted.get("handler"),
        signed_with=wanted.get("key"),
        since=wanted.get("since"),
        until=wanted.get("until"),
    )
    return from_ledger_and_inbox(stores.outbox, stores.ledger, filters, wanted.limit, wanted.before)


DELIVERY_QUERY = ListQuery[DeliveryRow](
    name="deliveries",
    title="Deliveries",
    listing=DELIVERIES,
    has_pages_of_rows=True,
    find=_find_deliveries,
    position=lambda row: (row.received_at, row.id),
    filters=(
        Filter("state", "", DeliveryState, tuple(DeliveryState)),
        Filter("event", "SESSION_STARTED"),
        SESSION,
        USER,
        Filter("handler", "that has a run of it"),
        Filter("key", "that it was signed with", choices=(Match.CURRENT, Match.NEXT, WITH_AUTHORIZATION)),
        SINCE,
        UNTIL,
    ),
)


def _find_downtimes(stores: Stores, wanted: Selection) -> Iterator[KnownDowntime]:
    here = [] if stores.outbox is None else stores.outbox.downtimes()
    rows = ledger_downtimes.find(stores.ledger)
    return islice(known_downtimes(here, rows, wanted.get("since"), wanted.get("until")), wanted.limit)


DOWNTIME_QUERY = ListQuery[KnownDowntime](
    name="downtimes",
    title="Downtimes",
    hint="When nothing could be received, and what was read again from the Drive API since.",
    listing=DOWNTIMES,
    find=_find_downtimes,
    filters=(SINCE, UNTIL),
)
