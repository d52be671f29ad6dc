"""Restore a backup where nothing is in its place, and find what is missing afterwards."""

import contextlib
import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from redis.exceptions import RedisError
from sqlalchemy import func, make_url, select
from sqlalchemy.exc import DBAPIError

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, WebhooksError
from ingest.inbox.corruption import SQLITE_SUFFIXES, locked_alone
from ingest.inbox.schema import FILE_NAME
from ingest.queue.installations import list_installations, withdraw
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.process_registry import ProcessRegistry
from ingest.queue.redis_client import connect_queues
from ingest.relay.outbox import Outbox
from workers.backup.database_copy import sync
from workers.backup.manifest import BackupFile, BackupUnreadable, Manifest
from workers.backup.write_backup import LEDGER_NAME
from workers.diagnostics.stuck import missing_deliveries
from workers.ledger.database.engine import chunks, create_ledger_engine, read_only
from workers.ledger.database.schema_state import SENTENCES, SchemaState, schema_state
from workers.ledger.identity import ledger_id
from workers.ledger.invariants import check_invariants
from workers.ledger.tables.core_tables import deliveries

REDIS_TIMEOUT = 2.0
FREE_SUFFIXES = SQLITE_SUFFIXES[:2]


class RestoreRefused(WebhooksError):
    """Raised when something is in the place of what is to be restored, uses it, or does not fit it."""


class BackupPart(StrEnum):
    """What of a backup is restored."""

    INBOX = "inbox"
    """The inbox, where the ledger was not lost or is restored by other means."""

    LEDGER = "ledger"
    """The ledger, where the inbox was not lost."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, and what is known of it."""

    manifest: Manifest
    files: tuple[Path, ...]
    schema: SchemaState | None
    """None: the ledger could not be asked."""
    violations: tuple[str, ...] = ()
    """The rules that do not hold in the ledger."""
    lost: tuple[str, ...] = ()
    """Deliveries that were settled after the backup of the ledger: it does not have them."""


def restore_backup(settings: Settings, ledger: Path | None, folder: Path, part: BackupPart | None = None) -> Restored:
    """Restore a backup, or a part of it. `ledger` is the SQLite file to write, if the ledger is on SQLite.

    Raise BackupUnreadable, RestoreRefused or InboxUnavailable before anything is changed.
    """
    manifest = Manifest.read(folder)
    targets = _targets(settings, ledger, manifest, part)
    with locked_alone(settings.data_dir / FILE_NAME):
        _require_no_workers(settings, manifest, restores_ledger=part is not BackupPart.INBOX)
        _require_free(targets.values())
        if LEDGER_NAME not in targets and manifest.database != "sqlite":
            _require_same_ledger(settings, manifest, is_needed=part is BackupPart.LEDGER)
        manifest.verify(folder)
        with contextlib.ExitStack() as written:
            for name, target in targets.items():
                partial = target.with_name(f"{target.name}.partial")
                written.callback(partial.unlink, missing_ok=True)
                _copy(folder / name, partial, manifest.files[name])
                if name == LEDGER_NAME:
                    _require_usable(partial)
            # The ledger first: an inbox alone would be taken for all that there is by a process that is started now.
            for target in reversed(targets.values()):
                target.with_name(f"{target.name}.partial").rename(target)
                sync(target.parent)
        if part is not BackupPart.INBOX:
            _withdraw_installations(settings, manifest)
        return _examine(settings, manifest, tuple(targets.values()), is_older=part is BackupPart.LEDGER)


def _targets(settings: Settings, ledger: Path | None, manifest: Manifest, part: BackupPart | None) -> dict[str, Path]:
    """Return where each file goes: those of the inbox first."""
    database = make_url(settings.database_url).get_backend_name()
    if database != manifest.database:
        raise RestoreRefused(f"The backup is of a ledger on {manifest.database}, and DATABASE_URL is on {database}.")
    targets = {name: settings.data_dir / name for name in manifest.files if name != LEDGER_NAME}
    if ledger is not None and LEDGER_NAME in manifest.files:
        targets[LEDGER_NAME] = ledger
    if part is None:
        return targets
    return {name: path for name, path in targets.items() if (name == LEDGER_NAME) is (part is BackupPart.LEDGER)}


def _require_no_workers(settings: Settings, manifest: Manifest, *, restores_ledger: bool) -> None:
    """Refuse while processes of the same ledger report themselves. Without Redis none can be at work."""
    queues = _connect(settings, manifest)
    if queues is None:
        return
    try:
        found = ProcessRegistry(queues).processes()
    except QueueUnavailable:
        return
    # To restore an inbox alone, only its own `serve` has to be stopped.
    using = [each for each in found if each.is_alive and (restores_ledger or each.id == manifest.inbox)]
    alive = sorted({f"{each.process} on {each.host}" for each in using})
    if alive:
        raise RestoreRefused(
            f"Processes of this ledger run ({', '.join(alive)}): stop them first, and wait for 20 s."
            " For a trial beside them, set another REDIS_URL."
        )


def _withdraw_installations(settings: Settings, manifest: Manifest) -> None:
    """Withdraw what the processes of the ledger that was lost have announced: workers of the new one would not start.

    No such process is alive; but its announcement counts for longer than its reports do.
    """
    queues = _connect(settings, manifest)
    if queues is None:
        return
    with contextlib.suppress(RedisError):
        for each in list_installations(queues.plain):
            if (each.namespace, each.ledger) == (queues.namespace, manifest.ledger):
                withdraw(queues.plain, each)


def _connect(settings: Settings, manifest: Manifest) -> NamespacedRedis | None:
    namespace = settings.queue_namespace or manifest.ledger
    if settings.redis_url is None or namespace is None:
        return None
    return connect_queues(settings.redis_url, namespace, timeout=REDIS_TIMEOUT)


def _require_same_ledger(settings: Settings, manifest: Manifest, *, is_needed: bool) -> None:
    """Refuse another ledger than that of the backup. One that is away is refused only where it is needed."""
    engine = create_ledger_engine(settings.database_url)
    try:
        found = ledger_id(engine)
    except DBAPIError:
        if is_needed:
            raise RestoreRefused("The ledger at DATABASE_URL cannot be read: restore it first.") from None
        return
    finally:
        engine.dispose()
    if manifest.ledger not in {None, found}:
        raise RestoreRefused(f"The ledger at DATABASE_URL is {found}, and the backup is of {manifest.ledger}.")


def _require_free(targets: Iterable[Path]) -> None:
    for target in targets:
        for suffix in FREE_SUFFIXES:
            path = Path(f"{target}{suffix}")
            if path.exists():
                raise RestoreRefused(f"{path} exists, and is not overwritten: move it away, or use another folder.")


def _copy(source: Path, partial: Path, expected: BackupFile) -> None:
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, partial)
    partial.chmod(0o600)
    sync(partial)
    if BackupFile.of(partial) != expected:
        raise BackupUnreadable(f"{source.name} could not be copied as it is: is the disk all right?")


def _require_usable(ledger: Path) -> None:
    state = schema_state(f"sqlite:///{ledger}")
    if state is SchemaState.INCOMPATIBLE:
        raise RestoreRefused(SENTENCES[state])


def _examine(settings: Settings, manifest: Manifest, files: tuple[Path, ...], *, is_older: bool) -> Restored:
    """Check the ledger and compare it with the inbox.

    What the inbox remembers and the ledger has lost is forgotten, so that it is kept if it is sent again. The span
    since then is recorded as a downtime: for such a span the clock reads sessions from the Drive API. Where the inbox
    itself was restored, `serve` does that when it starts.
    """
    engine = create_ledger_engine(settings.database_url)
    try:
        state = schema_state(settings.database_url)
        if state not in {SchemaState.CURRENT, SchemaState.NEWER}:
            return Restored(manifest, files, state)
        with read_only(engine) as ledger:
            violations = tuple(each.rule for each in check_invariants(ledger))
            newest = ledger.scalar(select(func.max(deliveries.c.received_at)))
        lost: list[str] = []
        path = settings.data_dir / FILE_NAME
        if path.exists():
            with closing(Outbox(path)) as outbox:
                lost = list(missing_deliveries(engine, outbox))
                for some in chunks(lost):
                    outbox.forget(some)
                if lost or is_older:
                    outbox.record_downtime(min(manifest.at, newest or manifest.at), datetime.now(UTC))
        return Restored(manifest, files, state, violations, tuple(lost))
    except DBAPIError:  # on PostgreSQL it may be restored later
        return Restored(manifest, files, None)
    finally:
        engine.dispose()
