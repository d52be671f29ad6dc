"""`webhooks show`: one delivery with its runs, its headers and its raw body."""

import base64

import click

from workers.commands import options
from workers.commands.audit import audit_entry, record_aside
from workers.commands.deliveries import DELIVERIES
from workers.commands.delivery_sources import find_one
from workers.commands.errors import Failure
from workers.commands.listing import Listing, Page, attributes
from workers.commands.output import Cell, console, json_line, key_values, printable, printable_body, short_id
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.runs import RunRecord

RUNS = Listing[RunRecord](
    fields=attributes(
        *("handler", "outcome", "attempts", "error", "reason"),
        *("queue", "due_at", "started_at", "finished_at", "traceback"),
    ),
    columns={
        "handler": "handler",
        "outcome": "outcome",
        "tries": "attempts",
        "due": "due_at",
        "ended": "finished_at",
        "why": lambda run: run.error or run.reason,
    },
)
DETAILS = Listing[DeliveryRow](
    fields={
        **DELIVERIES.fields,
        **attributes("reason", "signed_at", "settled_at", "inbox"),
        "headers": lambda row: dict(row.headers),
        "runs": lambda row: [RUNS.json(run) for run in row.runs],
        "body": lambda row: _utf8_text(row.body or b""),
        "body_base64": lambda row: base64.b64encode(row.body or b"").decode("ascii"),
    }
)


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
    if raw:
        click.echo(row.body or b"", nl=False)
    elif as_json:
        json_line(DETAILS.json(row))
    else:
        _print_delivery(row)


def _utf8_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


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
    ]
    key_values([(name, value) for name, value in facts if value is not None])
    if row.runs:
        console().print()
        RUNS.print(row.runs, Page())
    for run in row.runs:
        if run.traceback:
            click.echo(f"\n{run.handler}:\n{printable_body(run.traceback.encode())}")
    click.echo()
    for name, value in row.headers.items():
        click.echo(f"{printable(name)}: {printable(value)}")
    click.echo(f"\n{printable_body(body)}")
