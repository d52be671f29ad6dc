"""`webhooks show`: one delivery with its runs, its headers and the bytes as they came."""

import base64

import click

from workers.commands import options
from workers.commands.delivery_sources import delivery_json, find_one
from workers.commands.errors import Failure
from workers.commands.output import (
    Cell,
    Json,
    console,
    iso,
    json_line,
    key_values,
    printable,
    printable_body,
    styled_state,
    table,
)
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.deliveries import DeliveryRow


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
    if raw:
        click.echo(row.body or b"", nl=False)
    elif as_json:
        json_line(delivery_detail_json(row))
    else:
        print_delivery(row)


def delivery_detail_json(row: DeliveryRow) -> dict[str, Json]:
    """Write everything that is known of a delivery; its body as text too where it is UTF-8."""
    body = row.body or b""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = None
    return {
        **delivery_json(row),
        "reason": row.reason,
        "signed_at": iso(row.signed_at),
        "settled_at": iso(row.settled_at),
        "inbox": row.inbox,
        "headers": dict(row.headers),
        "runs": [
            {
                "handler": run.handler,
                "outcome": run.outcome,
                "attempts": run.attempts,
                "error": run.error,
                "reason": run.reason,
                "queue": run.queue,
                "due_at": iso(run.due_at),
                "started_at": iso(run.started_at),
                "finished_at": iso(run.finished_at),
                "traceback": run.traceback,
            }
            for run in row.runs
        ],
        "body": text,
        "body_base64": base64.b64encode(body).decode("ascii"),
    }


def print_delivery(row: DeliveryRow) -> None:
    """Print a delivery for a person, with nothing in it that a terminal would obey."""
    body = row.body or b""
    again = f"and {row.duplicates} more times" if row.duplicates > 1 else "and once more" if row.duplicates else None
    known: list[tuple[str, Cell]] = [
        ("id", row.id),
        ("event", row.event or row.kind),
        ("session", row.session_id),
        ("received", row.received_at),
        ("again", again),
        ("state", styled_state(row.state)),
        ("reason", row.reason),
        ("settled", row.settled_at),
        ("key", row.signed_with),
        ("signed", row.signed_at),
    ]
    key_values([(name, value) for name, value in known if value is not None])
    if row.runs:
        console().print()
        table(
            ("handler", "outcome", "tries", "due", "ended", "why"),
            [
                (
                    run.handler,
                    styled_state(run.outcome),
                    run.attempts,
                    run.due_at,
                    run.finished_at,
                    run.error or run.reason,
                )
                for run in row.runs
            ],
        )
    for run in row.runs:
        if run.traceback:
            click.echo(f"\n{run.handler}:\n{printable_body(run.traceback.encode())}")
    click.echo()
    for name, value in row.headers.items():
        click.echo(f"{printable(name)}: {printable(value)}")
    click.echo(f"\n{printable_body(body)}")
