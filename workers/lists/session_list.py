"""The list of charging sessions; and of one its record, and its timeline of deliveries, runs and pushes."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import itemgetter

from rich.text import Text

from handlers.kit.session import DRIVE, EVENT, Session
from handlers.kit.statuses import ORDER_ANOMALIES, STATUSES, Anomaly
from workers.diagnostics.session_timeline import Change, TimelineEntry
from workers.drive.session_facts import UNKNOWN_TIME
from workers.ledger import session_queries
from workers.ledger.cdr_queries import CdrRow
from workers.ledger.runs import RunRecord
from workers.ledger.session_polls import PollState
from workers.ledger.session_queries import OPEN_STATUSES, SessionFilters, SessionRow
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.ledger.tables.reconciliation_tables import PollOutcome
from workers.lists.cdr_list import amount_text, notes_of
from workers.lists.delivery_list import run_json
from workers.lists.formatting import Cell, Sentence, human_duration, printable, styled_state
from workers.lists.list_query import SINCE, UNTIL, USER, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes
from workers.lists.push_list import PUSHES

RECORD_HANDLERS = {"session_record", "cdr_record"}
"""Handlers whose work is shown as the changes of the record."""


RECORD = attributes(
    *("session_id", "user_id", "status", "started_at", "stopped_at", "completed_at"),
    *("fee_type", "fee_will_apply_from", "anomalies"),
)


SESSIONS = Listing[Session](fields=RECORD)


def _notes(row: SessionRow) -> Sentence:
    """Return the fee that began or is near, and what cannot be true."""
    fee = _fee_text(row)
    return _joined([*([] if fee is None else [fee]), *(Sentence.of(each) for each in row.anomalies)])


SESSION_ROWS = Listing[SessionRow](
    fields=RECORD | attributes("updated_at"),
    columns={
        "last news": "updated_at",
        "session": "session_id",
        "driver": "user_id",
        "status": "status",
        "started": "started_at",
        "ended": lambda row: row.completed_at or row.stopped_at,
        "notes": _notes,
    },
)


def _find_sessions(stores: Stores, wanted: Selection) -> Iterator[SessionRow]:
    filters = SessionFilters(
        user_id=wanted.get("user"),
        status=wanted.get("status"),
        since=wanted.get("since"),
        until=wanted.get("until"),
    )
    return session_queries.find(stores.ledger, filters, wanted.limit, wanted.before)


SESSION_QUERY = ListQuery[SessionRow](
    name="sessions",
    title="Sessions",
    hint="Those with the latest news first; since and until are times of that news. By status, sessions are found that "
    "have not ended.",
    listing=SESSION_ROWS,
    find=_find_sessions,
    position=lambda row: (row.updated_at, row.session_id),
    filters=(Filter("status", "", choices=OPEN_STATUSES), USER, SINCE, UNTIL),
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


OUTCOME_TEXT = {
    PollOutcome.WAITING: "not polled yet",
    PollOutcome.OPEN: "not over there",
    PollOutcome.COMPLETE: "complete there",
    PollOutcome.MISSING: "not known there",
    PollOutcome.FAILED: "no valid response",
    PollOutcome.NOT_NEEDED: "polling is not needed any more",
    PollOutcome.GIVEN_UP: "polling has ended",
}


def reconciled_rows(record: Session) -> Iterator[tuple[datetime | None, Cell, Cell, Cell]]:
    """Yield a row of the timeline for each fact without an event."""
    for status, at in reconciled(record).items():
        events = STATUSES[status].events if status in STATUSES else ()
        yield at, None, f"Drive API: {status}", f"no {events[0]} came" if events else "no event says this"
    if record.user_id is not None and record.users[record.user_id].source != EVENT:
        at = record.users[record.user_id].at
        yield None if at == UNKNOWN_TIME else at, None, "Drive API: driver", f"{record.user_id}, whom no event named"


def reconciled(record: Session) -> dict[str, datetime | None]:
    """Return the statuses without an event, each with its time in the Drive API, if it has one."""
    return {
        status: None if times.last_at == UNKNOWN_TIME else times.last_at
        for status, times in record.statuses.items()
        if EVENT not in times.sources
    }


def poll_text(poll: PollState) -> Sentence:
    """Return the result of the last poll and the time of the next one."""
    parts: list[Cell] = [OUTCOME_TEXT[poll.outcome]]
    if poll.read_at is not None:
        parts += [", read at ", poll.read_at]
    if poll.next_at is not None:
        parts += [", next at ", poll.next_at]
    return Sentence.of(*parts)


POLLS = Listing[PollState](fields=attributes("outcome", "status", "attempts", "read_at", "next_at", "reason"))


SOURCES = {EVENT: "events", DRIVE: "the Drive API"}


def _cdr_text(cdr: CdrRow) -> str:
    return ", ".join(filter(None, [amount_text(cdr) or "no amount", cdr.request_id, *notes_of(cdr)]))


def _anomaly_text(record: Session, anomaly: Anomaly) -> Cell:
    """Return what cannot be true, with the facts that contradict each other."""
    if anomaly is Anomaly.TWO_USERS:
        return f"{len(record.users)} drivers were named: {', '.join(sorted(record.users))}"
    if anomaly is Anomaly.AHEAD_OF_CLOCK and record.clock_skew is not None:
        skew = record.clock_skew
        return Sentence.of(skew.at, f" was received {human_duration(skew.span)} before it was that time")
    before, after = ORDER_ANOMALIES[anomaly]
    early, late = record.statuses[before].first_at, record.statuses[after].last_at
    return Sentence.of(f"{after} at ", late, f", after {before} at ", early)


def _lines(entry: TimelineEntry, cdr: CdrRow | None) -> Iterator[Sequence[Cell]]:
    row = entry.delivery
    times = f" ×{row.duplicates + 1}" if row.duplicates else ""
    changed: Cell = _joined(_changed(entry))
    if changed == Sentence(()):
        changed = Text(_no_change_reason(entry), style="dim")
    if cdr is not None:
        changed = f"a CDR of {amount_text(cdr) or 'no amount'}{', a repeat' * cdr.is_repeat}"
    yield entry.at, entry.late, f"{row.event or row.kind}{times}", changed
    for run in row.runs:
        if run.handler != WHOLE_DELIVERY and (run.handler not in RECORD_HANDLERS or run.outcome is not Outcome.DONE):
            yield run.finished_at or "", "", f"  {run.handler}", _outcome_text(run)
    for push in entry.pushes:
        state = Text.assemble(styled_state(push.state), f": {printable(push.error or push.title)}")
        yield push.sent_at or push.created_at, "", f"  push by {push.channel}", state


def _outcome_text(run: RunRecord) -> Text:
    attempt = f" at attempt {run.attempts}" if run.attempts > 1 else ""
    why = run.error or run.reason
    return Text.assemble(styled_state(run.outcome), attempt, f": {printable(why)}" if why else "")


def _no_change_reason(entry: TimelineEntry) -> str:
    row = entry.delivery
    if row.is_healed:
        return "no such event came: made from what the Drive API says"
    reasons = [row.reason, *(run.error or run.reason for run in row.runs if run.handler == WHOLE_DELIVERY)]
    why = next(filter(None, reasons), None)
    result = "unreadable" if row.state is DeliveryState.UNREADABLE else "nothing"
    return result if why is None else f"{result}: {printable(why)}"


def _changed(entry: TimelineEntry) -> Iterator[Sentence]:
    """Yield what changed, except a time that is the time of the event itself."""
    changes = {change.field: change for change in entry.changes}
    if status := changes.get("status"):
        earlier = f"{status.before} → " if status.before else ""
        yield Sentence.of(f"status {earlier}{status.after}")
    if driver := changes.get("user_id"):
        yield Sentence.of("driver ", _value(driver.after))
    for field, word in (("started_at", "started"), ("stopped_at", "stopped"), ("completed_at", "complete")):
        change = changes.get(field)
        if change and change.after != entry.at:
            yield Sentence.of(f"{word} ", _value(change.after))
        elif change and not status:
            yield Sentence.of(word)
    if "fee_type" in changes or "fee_will_apply_from" in changes:
        yield Sentence.of(f"fee {entry.record.fee_type} from ", entry.record.fee_will_apply_from)
    if anomalies := changes.get("anomalies"):
        yield Sentence.of("anomaly ", _value(anomalies.after))


def _value(value: str | datetime | tuple[str, ...] | None) -> Cell:
    return ", ".join(value) if isinstance(value, tuple) else value


def _joined(sentences: Iterable[Sentence]) -> Sentence:
    parts: list[Cell] = []
    for each in sentences:
        parts += [", ", *each.parts] if parts else each.parts
    return Sentence(tuple(parts))


def _fee_text(record: Session | SessionRow) -> Sentence | None:
    if not record.fee_type or record.fee_will_apply_from is None:
        return None
    return Sentence.of(f"{record.fee_type} from ", record.fee_will_apply_from)


def record_pairs(record: Session, cdrs: Sequence[CdrRow] = (), poll: PollState | None = None) -> list[tuple[str, Cell]]:
    """Return what is known of a session, each with its name."""
    return [
        ("session", record.session_id),
        ("status", Text(record.status or "-", style="bold")),
        ("driver", record.user_id),
        ("started", record.started_at),
        ("stopped", record.stopped_at),
        ("complete", record.completed_at),
        ("fee", _fee_text(record)),
        ("source", " and ".join(SOURCES.get(source, source) for source in sorted(record.sources)) or None),
        *([("Drive API", poll_text(poll))] if poll else []),
        *(("CDR", _cdr_text(cdr)) for cdr in cdrs if not cdr.is_repeat),
        *(("anomaly", _anomaly_text(record, anomaly)) for anomaly in record.anomalies),
    ]


def timeline_rows(
    record: Session, entries: Sequence[TimelineEntry], cdrs: Sequence[CdrRow] = ()
) -> list[Sequence[Cell]]:
    """Return the rows of a timeline in the order of their times: when, how late, what came, and the result."""
    of_delivery = {cdr.delivery_id: cdr for cdr in cdrs}  # of an array of them, one stands for all
    groups: list[tuple[datetime, list[Sequence[Cell]]]] = [
        (entry.at, list(_lines(entry, of_delivery.get(entry.delivery.id)))) for entry in entries
    ]
    groups += [(line[0] or UNKNOWN_TIME, [line]) for line in reconciled_rows(record)]
    groups.sort(key=itemgetter(0))
    return [line for _, lines in groups for line in lines]
