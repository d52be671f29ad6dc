"""`webhooks backup` and `webhooks restore`: copy the inbox and the ledger while everything runs, and restore them."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy import make_url

from ingest.config.settings import Settings
from workers.backup.manifest import Manifest
from workers.backup.restore_backup import BackupPart, Restored, restore_backup
from workers.backup.write_backup import write_backup
from workers.commands import options
from workers.commands.audit import audit_entry, record_aside
from workers.commands.errors import Failure
from workers.commands.output import json_line, key_values
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.engine import database_file
from workers.ledger.database.schema_state import SENTENCES, SchemaState
from workers.lists.formatting import Json, iso

FOLDER = click.Path(path_type=Path, file_okay=False)
EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.option("--to", "folder", type=FOLDER, required=True, metavar="FOLDER", help="A new folder.")
@options.as_json
def backup(*, folder: Path, as_json: bool) -> None:
    """Copy the inbox of this DATA_DIR, and the ledger if it is on SQLite, to a new folder, and verify the copies.

    Everything may run meanwhile: nothing waits for it. What was accepted before is in it. Redis need not be backed up.
    A ledger on PostgreSQL has its own tools; the command says which, and in which order. Run it on each node.

    The folder holds personal data. An erasure reaches it only if `webhooks erase --backup` names it. See
    workers/BACKUP.md.
    """
    settings = settings_with_dev_defaults()
    manifest = write_backup(settings, database_file(settings.database_url), folder)
    size = sum(file.bytes for file in manifest.files.values())
    record_aside(settings, audit_entry(AuditAct.BACKED_UP, folder.name, len(manifest.files)))
    steps = _backup_steps(settings, manifest, folder)
    if as_json:
        json_line({**_fields(manifest), "folder": str(folder), "bytes": size, "next": list(steps)})
        return
    key_values(
        [
            ("folder", str(folder)),
            *((name, f"{file.bytes} bytes") for name, file in manifest.files.items()),
            *(
                (f"rows of {name}", ", ".join(f"{table} {count}" for table, count in counts.items() if count))
                for name, counts in (manifest.rows or {}).items()
            ),
            ("accepted before", iso(manifest.at)),
        ]
    )
    for step in steps:
        click.echo(step)


@click.command()
@click.option("--from", "folder", type=EXISTING, required=True, metavar="FOLDER", help="What `webhooks backup` wrote.")
@click.option(
    "--only",
    "part",
    type=click.Choice([part.value for part in BackupPart]),
    help="inbox: the ledger is still there. ledger: the inbox is; on PostgreSQL: after `pg_restore`.",
)
@options.as_json
def restore(*, folder: Path, part: str | None, as_json: bool) -> None:
    """Restore a backup to DATA_DIR and DATABASE_URL, check it, and say what is missing.

    Refuses while processes run, where files are in the place, and what was changed since it was written. Events of the
    time since the backup are gone: for that span the clock reads the sessions of known drivers from the Drive API.
    """
    settings = settings_with_dev_defaults()
    done = restore_backup(settings, database_file(settings.database_url), folder, BackupPart(part) if part else None)
    steps = _restore_steps(settings, done)
    if done.schema in {SchemaState.CURRENT, SchemaState.NEWER}:
        record_aside(settings, audit_entry(AuditAct.RESTORED, f"of {iso(done.manifest.at)}", len(done.files)))
    if as_json:
        json_line(
            {
                **_fields(done.manifest),
                "restored": [str(path) for path in done.files],
                "violations": list(done.violations),
                "lost": list(done.lost),
                "next": steps,
            }
        )
    else:
        key_values([("backup of", iso(done.manifest.at)), *(("restored", str(path)) for path in done.files)])
        for step in steps:
            click.echo(step)
    if done.violations:
        raise Failure(f"The ledger is not consistent: {'; '.join(done.violations)}.")


def _fields(manifest: Manifest) -> dict[str, Json]:
    return {
        "at": iso(manifest.at),
        "version": manifest.version,
        "inbox": manifest.inbox,
        "ledger": manifest.ledger,
        "database": manifest.database,
        "schema": manifest.schema,
        "files": {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in manifest.files.items()},
        "rows": {name: dict(counts) for name, counts in (manifest.rows or {}).items()},
    }


def _backup_steps(settings: Settings, manifest: Manifest, folder: Path) -> list[str]:
    if manifest.database == "sqlite":
        return []
    url = make_url(settings.database_url)
    command = ["pg_dump", "--format=custom", f"--file={folder / 'ledger.dump'}"]
    places = {"host": url.host or url.query.get("host"), "port": url.port, "username": url.username}
    command += [f"--{name}={value}" for name, value in places.items() if value]  # it asks for the password
    command.append(url.database or "DATABASE")
    return [
        "The ledger is on PostgreSQL and not in it. Once this has been run on every node, and not before:",
        f"  {shlex.join(command)}",
        f"With continuous archiving instead: recover to a time after {iso(datetime.now(UTC))}.",
    ]


def owner_of(path: Path) -> int:
    """Return the user id of the owner of a file or a folder."""
    return path.stat().st_uid


def _owner_steps(done: Restored) -> list[str]:
    """List how to give the files to the owner of their folder, as whom the processes run, if another user restored."""
    folders = {path.parent for path in done.files if owner_of(path) != owner_of(path.parent)}
    return [
        f"Only you may read what was restored. Give it to the owner of its folder: chown -R --reference={each} {each}"
        for each in map(shlex.quote, sorted(map(str, folders)))
    ]


def _restore_steps(settings: Settings, done: Restored) -> list[str]:
    since = iso(done.manifest.at)
    steps = []
    if done.schema is None:
        steps.append("The ledger cannot be read: restore it with `pg_restore`, then run this with --only ledger.")
    elif done.schema not in {SchemaState.CURRENT, SchemaState.NEWER}:
        steps.append(SENTENCES[done.schema])
    elif not done.violations:
        steps.append("The ledger is consistent.")
    if done.lost:
        steps.append(
            f"Lost: {len(done.lost)} deliveries that were settled after the backup."
            " They are kept if they are sent again."
        )
    reading = "The clock reads the sessions of known drivers since then from the Drive API"
    if settings.drive_api_key is None:
        steps.append(f"What came after {since} is missing. {reading} once DRIVE_API_KEY is set.")
    else:
        steps.append(f"What came after {since} is missing. {reading}.")
    steps.append(
        f"Who was erased after {since} is back. The clock erases them again if Redis is the same as before and it was"
        " less than 30 days ago; else run `webhooks erase --again FILE` with the certificates since then."
    )
    steps += _owner_steps(done)
    steps.append("Start the processes. A minute later `webhooks check --deep` must find nothing.")
    return steps
