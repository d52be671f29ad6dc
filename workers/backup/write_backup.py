"""Write a backup: the inbox first, then the ledger.

The order is what makes it complete. A delivery leaves the inbox only after the ledger has committed it. Whatever the
copy of the inbox lacks had been committed by then, so it is in every copy of the ledger that begins later. What was
settled in between is in both: the ledger knows it, and a restored inbox only publishes it once more. The other way
round, what was settled between the two copies would be in neither.

The same holds for a ledger on PostgreSQL, and for several nodes: first all inboxes, then `pg_dump`, or a recovery to a
time after that of the manifest.
"""

import shutil
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError

from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.inbox.schema import FILE_NAME
from workers.backup.database_copy import copy_database, opened_copy, read_only_uri, row_counts, sync
from workers.backup.manifest import BackupFile, Manifest
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.schema_state import applied_migration
from workers.ledger.identity import ledger_id

LEDGER_NAME = "ledger.db"
# Corrupt files that were set aside, and the mark by which `serve` knows that rows of one are still to be recovered.
SET_ASIDE = (f"{FILE_NAME}.damaged-*", f"{FILE_NAME}.suspect")
INBOX_ID = "SELECT value FROM meta WHERE name = 'inbox_id'"


class BackupImpossible(WebhooksError):
    """Raised when there is nothing to copy, no room for it, or something in its place."""


def write_backup(settings: Settings, ledger: Path | None, folder: Path) -> Manifest:
    """Write a backup into a new folder, verify it, and return its manifest. `ledger` is its SQLite file, if it is one.

    The folder takes its name when it is complete. Raise BackupImpossible, CopyFailed, CopyDamaged or OSError.
    """
    inbox = settings.data_dir / FILE_NAME
    sources = {FILE_NAME: inbox} | ({} if ledger is None else {LEDGER_NAME: ledger})
    sources = {name: path for name, path in sources.items() if path.exists()}
    if not sources:
        raise BackupImpossible(f"There is neither an inbox nor a ledger: is DATA_DIR={settings.data_dir} right?")
    if folder.exists():
        raise FileExistsError(17, "exists already", str(folder))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a backup that was killed
    partial.mkdir(mode=0o700, parents=True)
    try:
        manifest = _copy_all(settings, sources, partial)
        manifest.write(partial)
        for path in (*partial.iterdir(), partial):
            sync(path)
        Manifest.read(partial).verify(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(folder.parent)
    return manifest


def _copy_all(settings: Settings, sources: dict[str, Path], folder: Path) -> Manifest:
    set_aside = [path for pattern in SET_ASIDE for path in settings.data_dir.glob(pattern)]
    _require_room(folder, [*sources.values(), *set_aside])
    at = datetime.now(UTC)
    rows = {}
    for name, source in sources.items():  # the inbox comes first
        copy_database(source, folder / name)
        rows[name] = row_counts(folder / name)
    for path in set_aside:
        shutil.copyfile(path, folder / path.name)
        (folder / path.name).chmod(0o600)
    id_, schema = _identify_ledger(settings, folder / LEDGER_NAME)
    return Manifest(
        at=at,
        version=version("plugsurfing-webhooks"),
        files={path.name: BackupFile.of(path) for path in sorted(folder.iterdir())},
        inbox=_inbox_id(folder / FILE_NAME),
        ledger=id_,
        database=make_url(settings.database_url).get_backend_name(),
        schema=schema,
        rows=rows,
    )


def _require_room(folder: Path, sources: list[Path]) -> None:
    logs = (path.with_name(f"{path.name}-wal") for path in sources)
    needed = sum(path.stat().st_size for path in (*sources, *logs) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BackupImpossible(f"The disk of {folder.parent} has {free:,} bytes free, and {needed:,} may be needed.")


def _inbox_id(copy: Path) -> str | None:
    if not copy.exists():
        return None
    with opened_copy(copy) as file:
        found = file.execute(INBOX_ID).fetchone()
    return str(found[0]) if found else None


def _identify_ledger(settings: Settings, copy: Path) -> tuple[str | None, str | None]:
    """Return the id and the last migration of the copied ledger, or of that on PostgreSQL; None if it is away."""
    url = settings.database_url
    if make_url(url).get_backend_name() != "sqlite":
        engine = create_ledger_engine(url)
    elif copy.exists():
        engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(read_only_uri(copy), uri=True))
    else:
        return None, None
    try:
        with engine.connect() as ledger:
            schema = applied_migration(ledger)
        return ledger_id(engine), schema
    except DBAPIError:
        return None, None
    finally:
        engine.dispose()
