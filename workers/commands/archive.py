"""`webhooks archive`: write deliveries to a file before retention deletes their bodies."""

from datetime import datetime
from pathlib import Path

import click

from workers.commands import options
from workers.commands.audit import audit_entry, record_aside
from workers.commands.output import json_line
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.lists.formatting import iso
from workers.privacy.archive import write_archive

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--before", type=options.WHEN, metavar="WHEN", required=True, help="Received before then.")
@click.option("--to", "path", type=FILE, required=True, metavar="FILE", help="A new file, as 2026.jsonl.gz.")
@options.as_json
def archive(*, before: datetime, path: Path, as_json: bool) -> None:
    """Write the settled deliveries that were received before then, with their bodies, to a compressed file.

    It is one JSON object a line; the last one has a digest of all before. `webhooks replay --from FILE` reads it. The
    ledger is not changed. An erasure reaches the file only if `webhooks erase --archive` names it: delete it when its
    time is over.
    """
    settings = settings_with_dev_defaults()
    with open_ledger(settings) as engine:
        count = write_archive(engine, path, before)
    record_aside(settings, audit_entry(AuditAct.ARCHIVED, f"before {iso(before)}", count))
    if as_json:
        json_line({"file": str(path), "deliveries": count, "bytes": path.stat().st_size})
    else:
        click.echo(f"Deliveries: {count}, in {path} ({path.stat().st_size} bytes).")
