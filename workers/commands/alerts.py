"""`webhooks alerts`: what somebody should look at, what has been seen, and whether anybody would be told."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from workers.alerts.alerts import AlertKind, AlertRow, find_alerts, resolve_by_id
from workers.alerts.destinations import SendResult, open_destinations
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.output import Cell, Json, iso, json_line, printable, table
from workers.commands.stores import open_ledger, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.database.transaction import run_in_transaction
from workers.resilience.timed_call import deadline_in

TEST = ("A test of Plugsurfing's webhooks", "This is a test, which somebody asked for. There is nothing to be done.")


@click.group(invoke_without_command=True)
@click.option("--kind", type=click.Choice([kind.value for kind in AlertKind]), help="What they are about.")
@click.option("--open", "only_open", is_flag=True, help="Only those whose causes stand and that nobody has resolved.")
@click.option(
    "--since", type=options.TimeParam(), metavar="WHEN", help="Raised then or later: ISO 8601, or 10m, 2h, 3d ago."
)
@options.limit
@options.as_json
@click.pass_context
def alerts(  # noqa: PLR0913  the options are the interface
    context: click.Context,
    *,
    kind: str | None,
    only_open: bool,
    since: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List what somebody should look at, or should have, newest first; or resolve it, or test who would be told."""
    if context.invoked_subcommand is not None:
        return
    limit = options.limit_for(limit, as_json=as_json)
    wanted = AlertKind(kind) if kind else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        found = find_alerts(conn, kind=wanted, only_open=only_open, since=since, limit=limit)
    if as_json:
        for row in found:
            json_line(alert_json(row))
        return
    table(("raised", "id", "kind", "state", "what"), [_cells(row) for row in found])
    options.warn_if_truncated(len(found), limit)


@alerts.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def resolve(ids: Sequence[str]) -> None:
    """Say that somebody has seen them: they are raised again only for a new cause."""
    with open_ledger(settings_with_dev_defaults()) as engine:
        count = run_in_transaction(engine, lambda ledger: resolve_by_id(ledger, ids, datetime.now(UTC)))
    if count < len(set(ids)):
        raise Failure(f"Of these, {count} were open and are resolved; `webhooks alerts --open` lists those that are.")
    click.echo("It is resolved." if count == 1 else f"All {count} are resolved.")


@alerts.command()
def test() -> None:
    """Send a test to every address of ALERT_URLS, and say what came of it."""
    settings = settings_with_dev_defaults()
    addresses = open_destinations(settings)
    if not addresses:
        raise UsageFailure("ALERT_URLS is not set: alerts go to the log, and into the list.")
    calls = [(address, address.start(*TEST)) for address in addresses]
    deadline = deadline_in(settings.alert_timeout)
    failed = 0
    for address, call in calls:
        answer = call.result(deadline)
        failed += not answer.is_accepted
        click.echo(f"{address.service} ({address.name}): {_in_words(answer)}")
    if failed:
        raise Failure(f"{failed} of {len(addresses)} did not take it.")


def alert_json(row: AlertRow) -> dict[str, Json]:
    """Write an alert as `alerts --json` does."""
    return {
        "id": row.id,
        "kind": row.kind,
        "subject": row.subject,
        "sentence": row.sentence,
        "session_id": row.session_id,
        "delivery_id": row.delivery_id,
        "raised_at": iso(row.raised_at),
        "told_at": iso(row.told_at),
        "resolved_at": iso(row.resolved_at),
    }


def _cells(row: AlertRow) -> Sequence[Cell]:
    state = "resolved" if row.resolved_at else "open"
    if row.told_at is None:
        state += ", not told"
    return row.raised_at, row.id, row.kind, state, row.sentence


def _in_words(answer: SendResult) -> str:
    if answer.is_accepted:
        return "accepted"
    return printable(f"{answer.reason}. {answer.details}" if answer.details else f"{answer.reason}.")
