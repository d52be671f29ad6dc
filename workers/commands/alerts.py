"""`webhooks alerts`: the alerts, open or resolved, and a test of where they are sent."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click
from sqlalchemy import Connection

from workers.alerts.alerts import AlertKind, find_alerts, resolve_by_id
from workers.commands import options
from workers.commands.audit import audit_entry, record_act, subject_of
from workers.commands.errors import Failure, UsageFailure
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import open_ledger, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.transaction import run_in_transaction
from workers.lists.alert_list import ALERTS
from workers.lists.formatting import printable

TEST = ("A test of Plugsurfing's webhooks", "This is a test, sent by `webhooks alerts test`. Nothing needs to be done.")


@click.group(invoke_without_command=True)
@click.option("--kind", type=click.Choice([kind.value for kind in AlertKind]), help="Only those of this kind.")
@click.option("--open", "only_open", is_flag=True, help="Only those whose cause persists and that are not resolved.")
@options.since_option(help="Raised then or later: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
@options.until
@paged
@click.pass_context
def alerts(  # noqa: PLR0913  the options are the interface
    context: click.Context,
    *,
    kind: str | None,
    only_open: bool,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List what needs, or needed, a person, newest first; or resolve it, or test where alerts are sent."""
    if context.invoked_subcommand is not None:
        return
    wanted = AlertKind(kind) if kind else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        found = find_alerts(conn, kind=wanted, only_open=only_open, since=since, until=until, limit=page.limit)
        print_rows(ALERTS, found, page)


@alerts.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def resolve(ids: Sequence[str]) -> None:
    """Resolve alerts: they are raised again only for a new cause."""
    entry = audit_entry(AuditAct.RESOLVED, subject_of(ids, {}))

    def resolve_and_record(ledger: Connection) -> int:
        count = resolve_by_id(ledger, ids, datetime.now(UTC))
        if count:
            record_act(ledger, entry.counting(count))
        return count

    with open_ledger(settings_with_dev_defaults()) as engine:
        count = run_in_transaction(engine, resolve_and_record)
    if count < len(set(ids)):
        raise Failure(f"Only {count} of these were open, and are resolved; see `webhooks alerts --open`.")
    click.echo("It is resolved." if count == 1 else f"All {count} are resolved.")


@alerts.command()
def test() -> None:
    """Send a test to every destination of ALERT_URLS, and print the result."""
    from workers.alerts.destinations import open_destinations  # noqa: PLC0415  it imports RQ
    from workers.resilience.guarded_call import deadline_in  # noqa: PLC0415  so does it

    settings = settings_with_dev_defaults()
    destinations = open_destinations(settings)
    if not destinations:
        raise UsageFailure("ALERT_URLS is not set: alerts go to the log and to `webhooks alerts` only.")
    calls = [(destination, destination.start(*TEST)) for destination in destinations]
    deadline = deadline_in(settings.alert_timeout)
    failed = 0
    for destination, call in calls:
        result = call.result(deadline)
        failed += not result.is_accepted
        click.echo(f"{destination.service} ({destination.name}): {printable(str(result))}")
    if failed:
        raise Failure(f"{failed} of {len(destinations)} did not take it.")
