"""`webhooks session`: the record of one charging session, and its timeline of deliveries, runs and pushes."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter

import click
from rich.text import Text

from handlers.kit.session import DRIVE, EVENT, Session
from handlers.kit.statuses import ORDER_ANOMALIES, Anomaly
from ingest.config.settings import Settings
from workers.commands import options
from workers.commands.drive_output import POLLS, poll_text, reconciled, reconciled_rows
from workers.commands.errors import Failure
from workers.commands.output import console, json_line, key_values, table
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.diagnostics.session_timeline import TimelineEntry, timeline
from workers.drive.session_facts import UNKNOWN_TIME
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger import session_polls, sessions
from workers.ledger.cdr_queries import CdrFilters, CdrRow
from workers.ledger.runs import RunRecord
from workers.ledger.session_polls import PollState
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.lists.cdr_list import CDRS, amount_text, notes_of
from workers.lists.delivery_sources import in_inbox_only
from workers.lists.formatting import Cell, Json, clock_name, human_duration, iso, local, printable, styled_state
from workers.lists.session_list import ENTRIES, RECORD_HANDLERS, SESSIONS

SOURCES = {EVENT: "events", DRIVE: "the Drive API"}


@click.command()
@click.argument("session_id", metavar="ID")
@options.as_json
def session(*, session_id: str, as_json: bool) -> None:
    """Show one charging session: its record; and what came when, how late, what it changed and what we did."""
    settings = settings_with_dev_defaults()
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        waiting = sum(row.session_id == session_id for row in in_inbox_only(outbox, conn))
        record = sessions.get(conn, session_id)
        entries = timeline(conn, session_id, settings.clock_skew)
        cdrs = list(ledger_cdrs.find(conn, CdrFilters(session_id=session_id, with_repeats=True), None))
        poll = session_polls.states(conn, [session_id]).get(session_id)
    if record is None and not entries and not cdrs:
        inbox = f"; {waiting} of its deliveries are in the inbox" if waiting else ""
        raise Failure(f"The ledger has no session '{printable(session_id)}'{inbox}.")
    record = record or Session.empty(session_id)
    if as_json:
        json_line(_session_json(record, entries, cdrs, poll))
        return
    _print_session(record, entries, cdrs, poll)
    if waiting:
        click.echo(f"Still on its way from the inbox: {waiting}.", err=True)


def show_session(settings: Settings, session_id: str) -> None:
    """Print the record and the timeline of a session, as the demo of `dev` does."""
    with read_only_ledger(settings) as conn:
        record, entries = sessions.get(conn, session_id), timeline(conn, session_id, settings.clock_skew)
    click.echo()
    _print_session(record or Session.empty(session_id), entries)
    click.echo()


def _print_session(
    record: Session, entries: Sequence[TimelineEntry], cdrs: Sequence[CdrRow] = (), poll: PollState | None = None
) -> None:
    """Print a session for a person: the record, and below it the timeline."""
    fee = None
    if record.fee_type and record.fee_will_apply_from:
        fee = f"{record.fee_type} from {local(record.fee_will_apply_from)}"
    key_values(
        [
            ("session", record.session_id),
            ("status", Text(record.status or "-", style="bold")),
            ("driver", record.user_id),
            ("started", record.started_at),
            ("stopped", record.stopped_at),
            ("complete", record.completed_at),
            ("fee", fee),
            ("source", " and ".join(SOURCES.get(source, source) for source in sorted(record.sources)) or None),
            *([("Drive API", poll_text(poll))] if poll else []),
            *(("CDR", _cdr_text(cdr)) for cdr in cdrs if not cdr.is_repeat),
            *(("anomaly", _anomaly_text(record, anomaly)) for anomaly in record.anomalies),
        ]
    )
    console().print()
    of_delivery = {cdr.delivery_id: cdr for cdr in cdrs}  # of an array of them, one stands for all
    groups: list[tuple[datetime, list[Sequence[Cell]]]] = [
        (entry.at, list(_lines(entry, of_delivery.get(entry.delivery.id)))) for entry in entries
    ]
    groups += [(line[0] or UNKNOWN_TIME, [line]) for line in reconciled_rows(record)]
    groups.sort(key=itemgetter(0))
    table(
        (f"time ({clock_name()})", "late", "what came", "result"),
        [line for _, lines in groups for line in lines],
    )


def _cdr_text(cdr: CdrRow) -> str:
    return ", ".join(filter(None, [amount_text(cdr) or "no amount", cdr.request_id, *notes_of(cdr)]))


def _anomaly_text(record: Session, anomaly: Anomaly) -> str:
    """Return what cannot be true, with the facts that contradict each other."""
    if anomaly is Anomaly.TWO_USERS:
        return f"{len(record.users)} drivers were named: {', '.join(sorted(record.users))}"
    if anomaly is Anomaly.AHEAD_OF_CLOCK and record.clock_skew is not None:
        skew = record.clock_skew
        return f"{local(skew.at)} was received {human_duration(skew.span)} before it was that time"
    before, after = ORDER_ANOMALIES[anomaly]
    early, late = record.statuses[before].first_at, record.statuses[after].last_at
    return f"{after} at {local(late)}, after {before} at {local(early)}"


def _session_json(
    record: Session, entries: Sequence[TimelineEntry], cdrs: Sequence[CdrRow], poll: PollState | None
) -> dict[str, Json]:
    return {
        **SESSIONS.json(record),
        "cdrs": [CDRS.json(cdr) for cdr in cdrs if not cdr.is_repeat],
        "timeline": [ENTRIES.json(entry) for entry in entries],
        "healed": {status: iso(at) for status, at in reconciled(record).items()},
        "drive": POLLS.json(poll) if poll else None,
    }


def _lines(entry: TimelineEntry, cdr: CdrRow | None) -> Iterator[Sequence[Cell]]:
    row = entry.delivery
    times = f" ×{row.duplicates + 1}" if row.duplicates else ""
    changed: Cell = ", ".join(_changed(entry)) or Text(_no_change_reason(entry), style="dim")
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
    reasons = [row.reason, *(run.error or run.reason for run in row.runs if run.handler == WHOLE_DELIVERY)]
    why = next(filter(None, reasons), None)
    result = "unreadable" if row.state is DeliveryState.UNREADABLE else "nothing"
    return result if why is None else f"{result}: {printable(why)}"


def _changed(entry: TimelineEntry) -> Iterator[str]:
    """Yield what changed, except a time that is the time of the event itself."""
    changes = {change.field: change for change in entry.changes}
    if status := changes.get("status"):
        earlier = f"{status.before} → " if status.before else ""
        yield f"status {earlier}{status.after}"
    if driver := changes.get("user_id"):
        yield f"driver {_text(driver.after)}"
    for field, word in (("started_at", "started"), ("stopped_at", "stopped"), ("completed_at", "complete")):
        change = changes.get(field)
        if change and change.after != entry.at:
            yield f"{word} {_text(change.after)}"
        elif change and not status:
            yield word
    if "fee_type" in changes or "fee_will_apply_from" in changes:
        yield f"fee {entry.record.fee_type} from {_text(entry.record.fee_will_apply_from)}"
    if anomalies := changes.get("anomalies"):
        yield f"anomaly {_text(anomalies.after)}"


def _text(value: object) -> str:
    match value:
        case datetime():
            return local(value)
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)
