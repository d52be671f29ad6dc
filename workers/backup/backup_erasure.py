"""Erases a driver or sessions from a backup: its copies are written anew without them, and so is its manifest."""

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, inspect

from handlers.kit.plugin_tables import VERSION_TABLE_SUFFIX, PluginTable
from ingest.inbox.schema import FILE_NAME
from ingest.queue.erasure_orders import ErasureOrder, is_distinctive, words_of
from workers.backup.database_copy import copy_database, row_counts, sync
from workers.backup.manifest import NAME, BackupFile, Manifest
from workers.backup.write_backup import LEDGER_NAME
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.database.schema_state import applied_migration
from workers.ledger.database.transaction import run_in_transaction
from workers.privacy.certificate_erasure import find_ordered_targets
from workers.privacy.erasure import Erasure, erase, remember
from workers.privacy.erasure_targets import ErasureTargets, find_targets

SELECT_BY_TABLE = {
    "deliveries": "SELECT seq, session_id, headers, body FROM deliveries",
    "quarantine": "SELECT seq, NULL, headers, body FROM quarantine",
}

FORGET = """
DELETE FROM seen WHERE id IN (SELECT id FROM deliveries WHERE seq IN (SELECT value FROM json_each(?)))
"""


@dataclass(frozen=True, slots=True)
class ErasedBackup:
    """What was erased from a backup."""

    rows: Counter[str]
    """How many, by table."""
    left: tuple[str, ...]
    """What was not searched: dumps, inbox files that were set aside, tables of plugins that are not loaded."""


def verify_backup(folder: Path) -> Manifest:
    """Return the manifest of a backup. Raise BackupUnreadable unless all is as it was written."""
    manifest = Manifest.read(folder)
    manifest.verify(folder)
    return manifest


def erase_from_backup(
    folder: Path,
    order: ErasureOrder,
    user: str | None,
    plugin_tables: Sequence[PluginTable] = (),
    *,
    dry_run: bool = False,
) -> ErasedBackup:
    """Erase from a backup what an order, and a driver's id, name. Raise BackupUnreadable, sqlite3.Error or OSError.

    The folder is replaced once the new one is complete. A ledger of an older version is migrated.
    """
    folder = folder.resolve()  # it is replaced, and not a link to it
    manifest = verify_backup(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an erasure that was killed
    try:
        shutil.copytree(folder, partial)
        found = _erase(partial, manifest, order, user, plugin_tables)
        if found.rows and not dry_run:
            _replace(folder, partial)
        return found
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _erase(
    folder: Path, manifest: Manifest, order: ErasureOrder, user: str | None, plugin_tables: Sequence[PluginTable]
) -> ErasedBackup:
    rows, targets, schema = Counter[str](), ErasureTargets(frozenset({user} if user else ())), manifest.schema
    left = set[str]()
    if LEDGER_NAME in manifest.files:
        url = f"sqlite:///{folder / LEDGER_NAME}"
        migrate(url)
        engine = create_ledger_engine(url)
        try:
            own, left = _tables_of_plugins(engine, plugin_tables)
            targets |= _find(engine, order, user, own)
            run_in_transaction(engine, lambda ledger: remember(ledger, order))
            rows += erase(engine, Erasure(order.id, datetime.fromtimestamp(order.at, UTC)), targets, own)
            with engine.connect() as ledger:
                schema = applied_migration(ledger)
        finally:
            engine.dispose()
    if FILE_NAME in manifest.files:
        rows += _erase_inbox(folder / FILE_NAME, order, targets)
    searched = [name for name in (FILE_NAME, LEDGER_NAME) if name in manifest.files]
    for name in searched:
        _rewrite(folder / name)
    files = {name: BackupFile.of(folder / name) for name in manifest.files}
    counts = {name: row_counts(folder / name) for name in searched}
    replace(manifest, files=files, schema=schema, rows=counts).write(folder)
    left |= {path.name for path in folder.iterdir()} - {*searched, NAME}
    return ErasedBackup(+rows, tuple(sorted(left)))


def _tables_of_plugins(engine: Engine, plugin_tables: Iterable[PluginTable]) -> tuple[list[PluginTable], set[str]]:
    """Return the tables that can be searched in a copy, which may be older than they are, and the names of others."""
    copy = inspect(engine)
    columns = {
        name: {column["name"] for column in copy.get_columns(name)}
        for name in copy.get_table_names()
        if name.startswith("plugin_") and not name.endswith(VERSION_TABLE_SUFFIX)
    }
    own = [
        each
        for each in plugin_tables
        if each.table.name in columns
        and {column.name for column in (each.user, each.session) if column is not None} <= columns[each.table.name]
    ]
    return own, columns.keys() - {each.table.name for each in own}


def _find(
    engine: Engine, order: ErasureOrder, user: str | None, plugin_tables: Sequence[PluginTable]
) -> ErasureTargets:
    targets = find_ordered_targets(engine, order, plugin_tables)
    return targets if user is None else targets | find_targets(engine, user=user)


def _erase_inbox(path: Path, order: ErasureOrder, targets: ErasureTargets) -> Counter[str]:
    """Delete from a copy what names them: in the inbox itself these deliveries are on their way to the ledger.

    The order knows sessions that the ledger of the backup does not: it may be on PostgreSQL, or older than they are.
    """
    deleted = Counter[str]()
    names = {name.lower() for name in targets.names}

    def is_named(session_id: str | None, texts: Iterable[bytes | str]) -> bool:
        if session_id and (session_id in targets.sessions or order.has(session_id)):
            return True
        words = {word for text in texts for word in words_of(text)}
        # As in the ledger: a short word names nobody in a delivery that has a session.
        return any(word.lower() in names or order.has(word) for word in words if not session_id or is_distinctive(word))

    with closing(sqlite3.connect(path)) as file:
        for table, query in SELECT_BY_TABLE.items():
            named = [seq for seq, session_id, *texts in file.execute(query) if is_named(session_id, texts)]
            delete = f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))"  # noqa: S608 - of the table above
            if table == "deliveries":  # not settled, so not to be remembered either
                file.execute(FORGET, (json.dumps(named),))
            deleted[f"inbox {table}"] = file.execute(delete, (json.dumps(named),)).rowcount
        file.commit()
    return deleted


def _rewrite(path: Path) -> None:
    """Write a copy anew, without free space and without a log beside it."""
    fresh = path.with_name(f"{path.name}.fresh")
    copy_database(path, fresh)
    fresh.rename(path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _replace(folder: Path, partial: Path) -> None:
    for path in (*partial.iterdir(), partial):
        sync(path)
    Manifest.read(partial).verify(partial)
    former = folder.with_name(f"{folder.name}.former")
    folder.rename(former)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(former)
