"""The commands that list: deliveries, pushes, dead, handlers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import click

from handlers.kit.policies import Policy
from handlers.kit.subscriptions import Subscription
from ingest.wire.signature import Match
from workers.commands import options
from workers.commands.delivery_sources import delivery_json, from_ledger_and_inbox, run_summary
from workers.commands.downtime import list_gaps
from workers.commands.output import Cell, Json, iso, json_line, short_id, styled_state, table
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import deliveries as ledger_deliveries
from workers.ledger import pushes as ledger_pushes
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow, RunRow
from workers.ledger.pushes import PushRow
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.plugins import load_plugins

ENDED_WELL = {Outcome.DONE, Outcome.MOOT, Outcome.IGNORED}


@click.command()
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="How far it has come.")
@click.option("--event", metavar="NAME", help="The event's name as it was sent, e.g. SESSION_STARTED.")
@click.option("--session", "session_id", metavar="ID", help="The charging session it tells of.")
@click.option("--gaps", is_flag=True, help="List the times in which nothing could come in, instead.")
@options.since
@options.until
@options.limit
@options.as_json
def deliveries(  # noqa: PLR0913  the options are the interface
    *,
    state: str | None,
    event: str | None,
    session_id: str | None,
    gaps: bool,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List deliveries and what became of them, newest first: the ledger's, and what waits in this node's inbox."""
    settings = settings_with_dev_defaults()
    if gaps:
        list_gaps(settings, since, until, limit=options.limit_for(limit, as_json=as_json), as_json=as_json)
        return
    wanted = DeliveryState(state) if state else None
    filters = DeliveryFilters(state=wanted, event=event, session_id=session_id, since=since, until=until)
    limit = options.limit_for(limit, as_json=as_json)
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        found = from_ledger_and_inbox(outbox, conn, filters, limit)
        if as_json:
            for row in found:
                json_line(delivery_json(row))
            return
        rows = list(found)
    table(("received", "id", "event", "session", "state", "notes"), [_delivery_cells(row) for row in rows])
    options.warn_if_truncated(len(rows), limit)


@click.command()
@click.option("--state", type=click.Choice([state.value for state in PushState]), help="How it stands.")
@click.option("--session", "session_id", metavar="ID", help="The charging session it is about.")
@options.since
@options.until
@options.limit
@options.as_json
def pushes(  # noqa: PLR0913  the options are the interface
    *,
    state: str | None,
    session_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List what was sent, or is to be sent, to drivers; newest first."""
    limit = options.limit_for(limit, as_json=as_json)
    wanted = PushState(state) if state else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        found = ledger_pushes.find(conn, session_id=session_id, state=wanted, since=since, until=until, limit=limit)
    if as_json:
        for push in found:
            json_line(push_json(push))
        return
    table(("made", "session", "user", "channel", "state", "text"), [_push_cells(push) for push in found])
    options.warn_if_truncated(len(found), limit)


@click.command()
@click.option("--handler", metavar="NAME", help="Whose dead letters.")
@options.since
@options.until
@options.limit
@options.as_json
def dead(
    *, handler: str | None, since: datetime | None, until: datetime | None, limit: int | None, as_json: bool
) -> None:
    """List dead letters: runs that failed for good, and why. `webhooks replay` gives them another attempt."""
    limit = options.limit_for(limit, as_json=as_json)
    filters = DeliveryFilters(handler=handler, outcome=Outcome.DEAD, since=since, until=until)
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        rows = ledger_deliveries.find(conn, filters, limit)
    letters = list(_dead_runs(rows, handler))
    if as_json:
        for row, run in letters:
            json_line(
                {
                    "delivery": row.id,
                    "event": row.event,
                    "session_id": row.session_id,
                    "received_at": iso(row.received_at),
                    "handler": run.handler,
                    "attempts": run.attempts,
                    "error": _first_line(run.error),
                    "finished_at": iso(run.finished_at),
                }
            )
        return
    table(("died", "delivery", "event", "handler", "error"), [_letter_cells(row, run) for row, run in letters])
    options.warn_if_truncated(len(rows), limit)


@click.command()
@options.as_json
def handlers(*, as_json: bool) -> None:
    """List what handles what, on which queue, and from which file; and who decides at the charger, first to last."""
    plugins = load_plugins(settings_with_dev_defaults())
    if as_json:
        for row in map(_handler_json, plugins.subscriptions):
            json_line(row)
        for row in map(_policy_json, plugins.policies):
            json_line(row)
        return
    table(("handler", "events", "queue", "file"), map(_handler_cells, plugins.subscriptions))
    if plugins.policies:
        click.echo()
        found = [(each.name, each.order, _relative(each.file)) for each in plugins.policies]
        table(("policy at the charger", "order", "file"), found)


def push_json(push: PushRow) -> dict[str, Json]:
    """Write a push as `pushes --json` does."""
    return {
        "id": push.id,
        "session_id": push.session_id,
        "user_id": push.user_id,
        "channel": push.channel,
        "state": push.state,
        "title": push.title,
        "body": push.body,
        "expires_at": iso(push.expires_at),
        "sent_at": iso(push.sent_at),
        "attempts": push.attempts,
    }


def _handler_json(each: Subscription) -> dict[str, Json]:
    return {
        "handler": each.name,
        "events": [*_events(each)],
        "queue": each.queue,
        "records": each.records,
        "plugin": each.plugin,
        "file": each.file,
    }


def _policy_json(each: Policy) -> dict[str, Json]:
    return {"policy": each.name, "order": each.order, "plugin": each.plugin, "file": each.file}


def _handler_cells(each: Subscription) -> Sequence[Cell]:
    runs_in = "before all handlers" if each.records else each.queue or "with its batch"
    return each.name, " ".join(_events(each)), runs_in, _relative(each.file)


def _events(each: Subscription) -> Iterator[str]:
    return (event.wire_name or event.__name__ for event in each.events)


def _delivery_cells(row: DeliveryRow) -> Sequence[Cell]:
    ended_well = Counter(run.outcome for run in row.runs if run.outcome in ENDED_WELL)
    notes = [f"{count} {outcome}" for outcome, count in ended_well.items()]
    notes += [run_summary(run) for run in row.runs if run.outcome not in ENDED_WELL]
    notes += [f"came {row.duplicates + 1} times"] if row.duplicates else []
    notes += [f"signed with {row.signed_with}"] if row.signed_with != Match.CURRENT else []
    notes += [row.reason] if row.reason else []
    name = row.event or row.kind
    return row.received_at, short_id(row.id), name, row.session_id, styled_state(row.state), ", ".join(notes)


def _push_cells(push: PushRow) -> Sequence[Cell]:
    text = f"{push.title}: {push.body}" + (f" ({push.error})" if push.error else "")
    return push.created_at, push.session_id, push.user_id, push.channel, styled_state(push.state), text


def _letter_cells(row: DeliveryRow, run: RunRow) -> Sequence[Cell]:
    tries = "1 try" if run.attempts == 1 else f"{run.attempts} tries"
    error = f"{_first_line(run.error) or run.reason} ({tries})"
    return run.finished_at, short_id(row.id), row.event or row.kind, run.handler, error


def _dead_runs(rows: Sequence[DeliveryRow], handler: str | None) -> Iterator[tuple[DeliveryRow, RunRow]]:
    for row in rows:
        for run in row.runs:
            if run.outcome is Outcome.DEAD and handler in {None, run.handler}:
                yield row, run


def _first_line(error: str | None) -> str | None:
    return next(iter((error or "").splitlines()), None)


def _relative(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
