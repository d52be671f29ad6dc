"""`webhooks driver`: everything known of a driver, and in plain words why they were warned of a fee, or why not."""

import click

from workers.commands import options
from workers.commands.audit import audit_entry, record_aside
from workers.commands.errors import Failure
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.lists.driver_record import DriverRecord, read_driver
from workers.lists.formatting import cell_text, local, printable


@click.command()
@click.argument("user_id", metavar="USER")
@options.limit
@options.as_json
def driver(*, user_id: str, limit: int | None, as_json: bool) -> None:
    """Show everything that is known of a driver, whose id may be in any case: why there was a warning, or none."""
    page = Page.of(limit, as_json=as_json)
    settings = settings_with_dev_defaults()
    with read_only_ledger(settings) as conn:
        found = read_driver(conn, user_id, page.limit)
    if not found.is_known:
        raise Failure(f"The ledger knows no driver '{printable(user_id)}'.")
    record_aside(settings, audit_entry(AuditAct.USER_VIEWED, "driver"))
    if as_json:
        json_line(found.json())
    else:
        _print_driver(found)


def _print_driver(found: DriverRecord) -> None:
    click.echo(f"Driver {printable(found.user_id)}\n\nSessions, and whether the driver was warned:")
    for each in found.sessions:
        session = each.session
        began = f", from {local(session.started_at)}" if session.started_at else ""
        ended = f" to {local(session.stopped_at)}" if session.stopped_at else ""
        click.echo(f"\n{printable(session.session_id)}: {printable(session.status or '-')}{began}{ended}")
        for sentence in each.sentences:
            click.echo(f"  {cell_text(sentence).plain}")
    if not found.sessions:
        click.echo("None.")
    for title, query, rows in found.lists():
        click.echo(f"\n{title}:")
        print_rows(query.listing, rows, Page())
