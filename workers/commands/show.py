"""`webhooks show`: one delivery with its runs, its headers and its raw body."""

import click

from workers.commands import options
from workers.commands.audit import audit_entry, record_aside
from workers.commands.errors import Failure
from workers.commands.listing import Page, print_rows
from workers.commands.output import console, json_line, key_values
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.ledger.deliveries import DeliveryRow
from workers.lists.delivery_list import DETAILS, RUNS, deletion_text
from workers.lists.delivery_sources import find_one
from workers.lists.formatting import Cell, printable, printable_body, short_id


@click.command()
@click.argument("delivery_id", metavar="ID")
@click.option("--raw", is_flag=True, help="Write the exact bytes of the body, and nothing else.")
@options.as_json
def show(*, delivery_id: str, raw: bool, as_json: bool) -> None:
    """Show one delivery with its runs, headers and raw body. The beginning of the id is enough."""
    settings = settings_with_dev_defaults()
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        row = find_one(outbox, conn, delivery_id)
    if row is None:
        raise Failure(f"No delivery, or more than one, has an id that begins with '{printable(delivery_id)}'.")
    record_aside(settings, audit_entry(AuditAct.BODY_VIEWED, short_id(row.id)))
    if raw and row.body_deleted_at is not None:
        raise Failure(f"Its body was {deletion_text(row)}.")
    if raw:
        click.echo(row.body or b"", nl=False)
    elif as_json:
        json_line(DETAILS.json(row))
    else:
        _print_delivery(row)


def _print_delivery(row: DeliveryRow) -> None:
    """Print a delivery for a person, with nothing in it that a terminal would interpret."""
    body = row.body or b""
    again = f"and {row.duplicates} more times" if row.duplicates > 1 else "and once more" if row.duplicates else None
    facts: list[tuple[str, Cell]] = [
        ("id", row.id),
        ("event", row.event or row.kind),
        ("session", row.session_id),
        ("received", row.received_at),
        ("again", again),
        ("state", row.state),
        ("reason", row.reason),
        ("settled", row.settled_at),
        ("key", row.signed_with),
        ("signed", row.signed_at),
        ("body", deletion_text(row)),
    ]
    key_values([(name, value) for name, value in facts if value is not None])
    if row.runs:
        console().print()
        print_rows(RUNS, row.runs, Page())
    for run in row.runs:
        if run.traceback:
            click.echo(f"\n{run.handler}:\n{printable_body(run.traceback.encode())}")
    click.echo()
    for name, value in row.headers.items():
        click.echo(f"{printable(name)}: {printable(value)}")
    if row.body_deleted_at is None:
        click.echo(f"\n{printable_body(body)}")
