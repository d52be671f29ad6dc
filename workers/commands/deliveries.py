"""`webhooks deliveries` and `webhooks dead`: what arrived, when nothing could arrive, and what failed for good."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

import click

from ingest.config.settings import Settings
from ingest.inbox.downtime import Downtime
from ingest.wire.signature import Match
from workers.commands import options
from workers.commands.delivery_sources import from_ledger_and_inbox
from workers.commands.errors import Failure
from workers.commands.listing import Listing, Page, attributes, paged
from workers.commands.output import Json, human_duration, short_id
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import deliveries as ledger_deliveries
from workers.ledger import downtimes as ledger_downtimes
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.downtimes import DowntimeRow
from workers.ledger.runs import RunRecord
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome

ENDED_WELL = {Outcome.DONE, Outcome.MOOT, Outcome.IGNORED}


class DeadLetter(NamedTuple):
    """A run that failed for good, and its delivery."""

    delivery: DeliveryRow
    run: RunRecord


class KnownDowntime(NamedTuple):
    """A downtime, and what the ledger has recorded of it."""

    downtime: Downtime
    row: DowntimeRow | None


@click.command()
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only those in this state.")
@click.option("--event", metavar="NAME", help="The event's name as it was sent, e.g. SESSION_STARTED.")
@click.option("--session", "session_id", metavar="ID", help="The charging session that it is about.")
@options.user
@click.option("--gaps", is_flag=True, help="List the downtimes, in which nothing could arrive, instead.")
@options.since
@options.until
@paged
def deliveries(  # noqa: PLR0913  the options are the interface
    *,
    state: str | None,
    event: str | None,
    session_id: str | None,
    user_id: str | None,
    gaps: bool,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List deliveries and their runs, newest first: the ledger's, and those that wait in this node's inbox."""
    settings = settings_with_dev_defaults()
    if gaps:
        DOWNTIMES.print(islice(_downtimes(settings, since, until), page.limit), page)
        return
    wanted = DeliveryState(state) if state else None
    filters = DeliveryFilters(
        state=wanted, event=event, session_id=session_id, person=user_id, since=since, until=until
    )
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        DELIVERIES.print(from_ledger_and_inbox(outbox, conn, filters, page.limit), page)


@click.command()
@click.option("--handler", metavar="NAME", help="Only those of this handler.")
@options.user
@options.since
@options.until
@paged
def dead(
    *, handler: str | None, user_id: str | None, since: datetime | None, until: datetime | None, page: Page
) -> None:
    """List dead letters: runs that failed for good, and why. `webhooks replay` gives them another attempt."""
    filters = DeliveryFilters(handler=handler, outcome=Outcome.DEAD, person=user_id, since=since, until=until)
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        rows = ledger_deliveries.find(conn, filters, page.limit)
    DEAD_LETTERS.print(islice(_dead_runs(rows, handler), page.limit), page)


def run_json(run: RunRecord) -> dict[str, Json]:
    """Return a run as `deliveries --json` prints it."""
    return {"handler": run.handler, "outcome": run.outcome, "attempts": run.attempts, "error": run.error}


def _downtimes(settings: Settings, since: datetime | None, until: datetime | None) -> Iterator[KnownDowntime]:
    """Yield the downtimes of this node's inbox and, if there is a ledger, of all others, newest first."""
    with open_inbox(settings) as outbox:
        here = [] if outbox is None else outbox.downtimes()
    try:
        with read_only_ledger(settings) as conn:
            known = {Downtime(row.closed_at, row.opened_at, row.inbox): row for row in ledger_downtimes.find(conn)}
    except Failure:
        known = {}
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
    notes += [f"signed with {row.signed_with}"] if row.signed_with != Match.CURRENT else []
    notes += [row.reason] if row.reason else []
    return ", ".join(notes)


def _dead_runs(rows: Sequence[DeliveryRow], handler: str | None) -> Iterator[DeadLetter]:
    for row in rows:
        for run in row.runs:
            if run.outcome is Outcome.DEAD and handler in {None, run.handler}:
                yield DeadLetter(row, run)


def _error_text(run: RunRecord) -> str:
    attempts = "1 try" if run.attempts == 1 else f"{run.attempts} tries"
    return f"{_first_line(run.error) or run.reason} ({attempts})"


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
