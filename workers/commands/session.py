"""`webhooks session`: the record of one charging session, and its life as it was told to us."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import click
from rich.text import Text
from sqlalchemy import Connection

from handlers.kit.session import Session
from ingest.outbox import Outbox
from workers.commands import options
from workers.commands.failures import Failure
from workers.commands.listing import EVERYTHING, in_inbox_only, in_words, run_json
from workers.commands.look import push_json
from workers.commands.output import Cell, Json, colored, console, facts, iso, json_line, local, printable, table
from workers.commands.stores import inbox_of, looking_into_ledger
from workers.devfile import settings_beside_dev
from workers.ledger import sessions
from workers.timeline import Change, Moment, timeline

SHORT_NAMES = {"user_id": "driver", "fee_type": "fee", "fee_will_apply_from": "from"}


@click.command()
@click.argument("session_id", metavar="ID")
@options.as_json
def session(*, session_id: str, as_json: bool) -> None:
    """Show one charging session: its record, and what came when, how late, what it changed and what we did."""
    settings = settings_beside_dev()
    with inbox_of(settings) as outbox, looking_into_ledger(settings) as conn:
        on_their_way = _count_in(outbox, conn, session_id)
        record = sessions.get(conn, session_id)
        told = timeline(conn, session_id, settings.clock_skew)
    if record is None and not told:
        waiting = f"; {on_their_way} of its deliveries lie in the inbox" if on_their_way else ""
        raise Failure(f"The ledger knows no session '{printable(session_id)}'{waiting}.")
    record = record or Session.empty(session_id)
    if as_json:
        json_line(session_json(record, told))
        return
    print_session(record, told)
    if on_their_way:
        click.echo(f"Still on its way from the inbox: {on_their_way}.", err=True)


def print_session(record: Session, told: Sequence[Moment]) -> None:
    """Print a session for a person: the record, and under it the timeline."""
    fee = None
    if record.fee_type and record.fee_will_apply_from:
        fee = f"{record.fee_type} from {local(record.fee_will_apply_from)}"
    facts(
        [
            ("session", record.session_id),
            ("status", Text(record.status or "-", style="bold")),
            ("driver", record.user_id),
            ("started", record.started_at),
            ("stopped", record.stopped_at),
            ("complete", record.completed_at),
            ("fee", fee),
            ("anomalies", ", ".join(record.anomalies) or None),
        ]
    )
    console().print()
    table(("when", "late", "what", "changed", "done"), [line for moment in told for line in _lines(moment)], wrapping=2)


def session_json(record: Session, told: Sequence[Moment]) -> dict[str, Json]:
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
        "timeline": [_moment_json(moment) for moment in told],
    }


def _moment_json(moment: Moment) -> dict[str, Json]:
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


def _lines(moment: Moment) -> Iterator[Sequence[Cell]]:
    row = moment.delivery
    again = f" (and {row.duplicates} again)" if row.duplicates else ""
    done = [in_words(run) for run in row.runs] or [str(row.state)]
    changed: Cell = ", ".join(map(_words, moment.changes)) or Text("nothing", style="dim")
    yield moment.at, moment.late, f"{row.event or row.kind}{again}", changed, ", ".join(done)
    for push in moment.pushes:
        at = push.sent_at or push.created_at
        yield at, "", f"  push by {push.channel}", f"told the driver: {push.title}", colored(push.state)


def _words(change: Change) -> str:
    """Say what changed: `status STARTED`, and from what unless there was nothing before."""
    name = SHORT_NAMES.get(change.field, change.field.removesuffix("_at"))
    earlier = f"{_word(change.before)} → " if change.before else ""
    return f"{name} {earlier}{_word(change.after)}"


def _word(value: object) -> str:
    match value:
        case datetime():
            return local(value)
        case tuple():
            return " + ".join(map(str, value))
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
