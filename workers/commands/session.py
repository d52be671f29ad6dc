"""`webhooks session`: the record of one charging session, and its life as it was told to us."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter

import click
from rich.text import Text
from sqlalchemy import Connection

from handlers.kit.session import DRIVE, EVENT, Session
from handlers.kit.statuses import ORDER_ANOMALIES, Anomaly
from ingest.relay.outbox import Outbox
from workers.commands import options
from workers.commands.cdrs import amount_in_words, cdr_json, notes_of
from workers.commands.delivery_sources import EVERYTHING, in_inbox_only, run_json
from workers.commands.drive_output import poll_text, reconciled_json, reconciled_rows
from workers.commands.errors import Failure
from workers.commands.lists import push_json
from workers.commands.output import (
    Cell,
    Json,
    clock_name,
    console,
    human_duration,
    iso,
    json_line,
    key_values,
    local,
    printable,
    styled_state,
    table,
)
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.diagnostics.session_timeline import TimelineEntry, timeline
from workers.drive.session_facts import UNKNOWN_TIME
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger import session_polls, sessions
from workers.ledger.cdr_queries import CdrFilters, CdrRow
from workers.ledger.deliveries import RunRow
from workers.ledger.session_polls import PollState
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome

RECORD_HANDLERS = {"session_record", "cdr_record"}
"""Handlers whose work the changes tell already."""
SOURCES = {EVENT: "events", DRIVE: "the Drive API"}


@click.command()
@click.argument("session_id", metavar="ID")
@options.as_json
def session(*, session_id: str, as_json: bool) -> None:
    """Show one charging session: its record, and what came when, how late, what it changed and what we did."""
    settings = settings_with_dev_defaults()
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        on_their_way = _count_in(outbox, conn, session_id)
        record = sessions.get(conn, session_id)
        told = timeline(conn, session_id, settings.clock_skew)
        charges = list(ledger_cdrs.find(conn, CdrFilters(session_id=session_id), None))
        look = session_polls.states(conn, [session_id]).get(session_id)
    if record is None and not told and not charges:
        waiting = f"; {on_their_way} of its deliveries lie in the inbox" if on_their_way else ""
        raise Failure(f"The ledger knows no session '{printable(session_id)}'{waiting}.")
    record = record or Session.empty(session_id)
    if as_json:
        json_line(session_json(record, told, charges) | reconciled_json(record, look))
        return
    print_session(record, told, charges, look)
    if on_their_way:
        click.echo(f"Still on its way from the inbox: {on_their_way}.", err=True)


def print_session(
    record: Session, told: Sequence[TimelineEntry], charges: Sequence[CdrRow] = (), look: PollState | None = None
) -> None:
    """Print a session for a person: the record, and under it the timeline."""
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
            ("told by", " and ".join(SOURCES.get(source, source) for source in sorted(record.sources)) or None),
            *([("Drive API", poll_text(look))] if look else []),
            *(("CDR", charge_in_words(charge)) for charge in charges),
            *(("anomaly", anomaly_text(record, anomaly)) for anomaly in record.anomalies),
        ]
    )
    console().print()
    of_delivery = {charge.delivery_id: charge for charge in charges}
    lives: list[tuple[datetime, list[Sequence[Cell]]]] = [
        (moment.at, list(_lines(moment, of_delivery.get(moment.delivery.id)))) for moment in told
    ]
    lives += [(line[0] or UNKNOWN_TIME, [line]) for line in reconciled_rows(record)]
    lives.sort(key=itemgetter(0))
    table(
        (f"time ({clock_name()})", "late", "what came", "what came of it"),
        [line for _, lines in lives for line in lines],
    )


def charge_in_words(charge: CdrRow) -> str:
    """Say what a CDR says, and what is odd about it."""
    said = [amount_in_words(charge) or "no amount", charge.request_id, *notes_of(charge)]
    return ", ".join(filter(None, said))


def anomaly_text(record: Session, anomaly: Anomaly) -> str:
    """Say what cannot be true, with the facts that say so."""
    if anomaly is Anomaly.TWO_USERS:
        return f"{len(record.users)} drivers were named: {', '.join(sorted(record.users))}"
    if anomaly is Anomaly.AHEAD_OF_CLOCK and record.clock_skew is not None:
        return (
            f"{local(record.clock_skew.at)} was told {human_duration(record.clock_skew.span)} before it was that time"
        )
    before, after = ORDER_ANOMALIES[anomaly]
    early, late = record.statuses[before].first_at, record.statuses[after].last_at
    return f"{after} at {local(late)}, after {before} at {local(early)}"


def session_json(record: Session, told: Sequence[TimelineEntry], charges: Sequence[CdrRow]) -> dict[str, Json]:
    """Write a session as `session --json` does."""
    return {
        "session_id": record.session_id,
        "user_id": record.user_id,
        "status": record.status,
        "started_at": iso(record.started_at),
        "stopped_at": iso(record.stopped_at),
        "completed_at": iso(record.completed_at),
        "fee_type": record.fee_type,
        "fee_will_apply_from": iso(record.fee_will_apply_from),
        "anomalies": list(record.anomalies),
        "cdrs": [cdr_json(charge) for charge in charges],
        "timeline": [_moment_json(moment) for moment in told],
    }


def _moment_json(moment: TimelineEntry) -> dict[str, Json]:
    row = moment.delivery
    return {
        "at": iso(moment.at),
        "event": row.event,
        "delivery": row.id,
        "received_at": iso(row.received_at),
        "late_seconds": None if moment.late is None else moment.late.total_seconds(),
        "state": row.state,
        "duplicates": row.duplicates,
        "changed": {
            change.field: {"before": _json(change.before), "after": _json(change.after)} for change in moment.changes
        },
        "runs": [run_json(run) for run in row.runs],
        "pushes": [push_json(push) for push in moment.pushes],
    }


def _lines(moment: TimelineEntry, charge: CdrRow | None) -> Iterator[Sequence[Cell]]:
    row = moment.delivery
    times = f" ×{row.duplicates + 1}" if row.duplicates else ""
    changed: Cell = ", ".join(_changed(moment)) or Text(_no_change_reason(moment), style="dim")
    if charge is not None:
        changed = f"a CDR of {amount_in_words(charge) or 'no amount'}"
    yield moment.at, moment.late, f"{row.event or row.kind}{times}", changed
    for run in row.runs:
        if run.handler != WHOLE_DELIVERY and (run.handler not in RECORD_HANDLERS or run.outcome is not Outcome.DONE):
            yield run.finished_at or "", "", f"  {run.handler}", _outcome_text(run)
    for push in moment.pushes:
        told = Text.assemble(styled_state(push.state), f": {printable(push.error or push.title)}")
        yield push.sent_at or push.created_at, "", f"  push by {push.channel}", told


def _outcome_text(run: RunRow) -> Text:
    """Say what a run came to, and why if that is not plain."""
    said: list[str | Text] = [styled_state(run.outcome)]
    if run.attempts > 1:
        said.append(f" at attempt {run.attempts}")
    why = run.error or run.reason
    if why:
        said.append(f": {printable(why)}")
    return Text.assemble(*said)


def _no_change_reason(moment: TimelineEntry) -> str:
    """Say why a delivery changed nothing in the record."""
    row = moment.delivery
    reasons = [row.reason, *(run.error or run.reason for run in row.runs if run.handler == WHOLE_DELIVERY)]
    if row.state is DeliveryState.UNREADABLE:
        return f"unreadable: {printable(row.reason or '')}"
    why = next(filter(None, reasons), None)
    return "nothing" if why is None else f"nothing: {printable(why)}"


def _changed(moment: TimelineEntry) -> Iterator[str]:
    """Say what changed, but for what goes without saying: a start that happened when the event did."""
    changes = {change.field: change for change in moment.changes}
    if status := changes.get("status"):
        earlier = f"{status.before} → " if status.before else ""
        yield f"status {earlier}{status.after}"
    if driver := changes.get("user_id"):
        yield f"driver {_word(driver.after)}"
    for field, word in (("started_at", "started"), ("stopped_at", "stopped"), ("completed_at", "complete")):
        change = changes.get(field)
        if change and change.after != moment.at:
            yield f"{word} {_word(change.after)}"
        elif change and not status:
            yield word
    if "fee_type" in changes or "fee_will_apply_from" in changes:
        yield f"fee {moment.record.fee_type} from {_word(moment.record.fee_will_apply_from)}"
    if anomalies := changes.get("anomalies"):
        yield f"anomaly {_word(anomalies.after)}"


def _word(value: object) -> str:
    match value:
        case datetime():
            return local(value)
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _json(value: object) -> Json:
    match value:
        case None:
            return None
        case datetime():
            return iso(value)
        case tuple():
            return [str(one) for one in value]
        case _:
            return str(value)


def _count_in(outbox: Outbox | None, conn: Connection, session_id: str) -> int:
    waiting = [] if outbox is None else in_inbox_only(conn, outbox.unsettled(limit=EVERYTHING))
    return sum(row.session_id == session_id for row in waiting)
