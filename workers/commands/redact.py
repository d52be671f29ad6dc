"""`webhooks redact`: try the rules of REDACT on a body."""

from typing import BinaryIO

import click

from ingest.errors import Unreadable
from ingest.events import decode, peek
from ingest.wire.envelope import Kind
from workers.commands import options
from workers.commands.output import json_line
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import printable_body


@click.command()
@click.option("--try", "body", type=click.File("rb"), required=True, metavar="FILE", help="The body; - is stdin.")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), default=Kind.EVENTS.value, help="What it is.")
@options.as_json
def redact(*, body: BinaryIO, kind: str, as_json: bool) -> None:
    """Print a body as it would be kept: with the fields redacted that REDACT names."""
    settings, original = settings_with_dev_defaults(), body.read()
    name, rules = peek(Kind(kind), original).name, settings.redaction
    kept = original if rules is None else rules.apply(Kind(kind), original)
    is_lost = _is_readable(Kind(kind), original) and not _is_readable(Kind(kind), kept)
    if is_lost:
        click.secho("Redacted so, it cannot be read any more: no handler would see it, ever.", err=True, fg="yellow")
    if as_json:
        text = kept.decode("utf-8", "replace")
        json_line({"event": name, "changed": kept != original, "unreadable": is_lost, "body": text})
        return
    click.echo(printable_body(kept))
    if kept == original:
        click.echo("Nothing is redacted: no rule of REDACT leads to a field of it.", err=True)


def _is_readable(kind: Kind, body: bytes) -> bool:
    try:
        decode(kind, body)
    except Unreadable:
        return False
    return True
