"""`webhooks erase`: erase a driver or a session everywhere, and print a certificate."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from handlers.kit.plugin_tables import PluginTable
from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError, WebhooksError
from ingest.queue.erasure_orders import ErasureOrder, erasure_reports, publish_order
from ingest.queue.process_registry import ProcessRegistry, ProcessType
from workers.backup.backup_erasure import erase_from_backup, verify_backup
from workers.commands import options
from workers.commands.audit import audit_entry, record_act
from workers.commands.errors import Failure, error_text
from workers.commands.output import json_line, key_values, logs_to_stderr
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.installation import open_queues
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.migrate_plugins import require_plugin_tables, tables_of_others
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.lists.formatting import Cell, Json, iso
from workers.plugins import load_plugins
from workers.privacy.archive import verify_archive
from workers.privacy.archive_erasure import erase_from_archive, sessions_in_archives
from workers.privacy.certificate_erasure import find_ordered_targets
from workers.privacy.erasure import Erasure, count_rows_of_plugins, order_of, remember, salt_of
from workers.privacy.erasure import erase as erase_from_ledger
from workers.privacy.erasure_targets import ErasureTargets, find_targets
from workers.privacy.late_erasure import LateErasureTask
from workers.privacy.redis_erasure import erase_from_redis, rewrite_files
from workers.privacy.vacuum import vacuum_ledger

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
NODES_TIMEOUT = timedelta(seconds=20)
"""How long the command waits for the nodes that are alive."""
NODES_POLL = 0.25


@click.command()
@click.option("--user", metavar="ID", help="The driver, in any case.")
@click.option("--session", "session_id", metavar="ID", help="Only this session, in any case.")
@click.option("--again", type=FILE, metavar="FILE", help="All erasures of a file of certificates, after a restore.")
@click.option("--archive", "archives", type=FILE, multiple=True, metavar="FILE", help="Rewrite this archive, too.")
@click.option("--backup", "backups", type=FOLDER, multiple=True, metavar="FOLDER", help="Rewrite this backup, too.")
@click.option("--dry-run", is_flag=True, help="Count what would be erased, and erase nothing.")
@click.option("--reason", metavar="TEXT", help="Why, for the audit log: a ticket, and no name.")
@click.option("--vacuum", is_flag=True, help="Then rewrite the database: everything waits for that, for minutes.")
@options.as_json
def erase(  # noqa: PLR0913  the options are the interface
    *,
    user: str | None,
    session_id: str | None,
    again: Path | None,
    archives: tuple[Path, ...],
    backups: tuple[Path, ...],
    dry_run: bool,
    reason: str | None,
    vacuum: bool,
    as_json: bool,
) -> None:
    """Erase all that is known of a driver or of a session, and print a certificate.

    Erased are the ledger, Redis, and the inboxes of all nodes; a node that is away does it when it is back. What comes
    late of an erased session is stored without its content. Charging records stay under a random name, as law asks for
    them. Deliveries stay without their content, so that their duplicates are recognized.

    Keep the certificates (--json) outside of what is backed up: with --again they are carried out once more.
    """
    if sum(each is not None for each in (user, session_id, again)) != 1:
        raise click.UsageError("Name a driver with --user, a session with --session, or certificates with --again.")
    if again is None and not (user or session_id or "").strip():
        raise click.UsageError("The id is empty.")
    if dry_run and vacuum:
        raise click.UsageError("Choose --dry-run or --vacuum.")
    if again is not None and archives:
        raise click.UsageError("An archive is rewritten once, by the first erasure: name the driver.")
    settings = settings_with_dev_defaults()
    certificates, plugins = list[dict[str, Json]](), load_plugins(settings)
    _verify_files(archives, backups)
    with logs_to_stderr(settings, "erase"), open_ledger(settings) as engine:
        require_plugin_tables(engine, plugins.tables)
        not_erased = read_once(engine, lambda ledger: tables_of_others(ledger, plugins.tables))
        if not_erased:
            tables = ", ".join(not_erased)
            click.secho(f"Not erased are tables of plugins that are not loaded: {tables}.", err=True, fg="yellow")
        subject = "again" if again else "driver" if session_id is None else "session"
        wanted = _again(engine, again, plugins.own_tables) if again else [_new(engine, user, session_id, archives)]
        erase_files = partial(_erase_files, archives, backups, plugin_tables=plugins.own_tables, user=user)
        try:
            for order, targets in wanted:
                if dry_run:
                    of_plugins = partial(count_rows_of_plugins, targets=targets, plugin_tables=plugins.own_tables)
                    found = {"what": subject, "dry_run": True, **_found(targets), **read_once(engine, of_plugins)}
                    _print({**found, **erase_files(order, targets, dry_run=True)}, as_json=as_json)
                    continue
                certificate = _erase(settings, engine, plugins.own_tables, order, targets, reason)
                certificate["what"] = subject
                certificate["not_erased"] = ", ".join(not_erased) or None
                certificate |= erase_files(order, targets, dry_run=False)
                certificates.append({**certificate, "vacuumed": False})
            if vacuum:
                vacuum_ledger(engine)
                certificates = [{**each, "vacuumed": True} for each in certificates]
        finally:  # what was erased is erased, whatever happens
            for certificate in certificates:
                _print(certificate, as_json=as_json)
    _require_complete(settings, certificates)


def _verify_files(archives: Iterable[Path], backups: Iterable[Path]) -> None:
    """Read them before anything is erased. Raise ArchiveUnreadable or BackupUnreadable."""
    for path in archives:
        verify_archive(path)
    for path in backups:
        verify_backup(path)


def _require_complete(settings: Settings, certificates: Sequence[Mapping[str, Json]]) -> None:
    """Raise Failure for what could not be erased."""
    by_path = [certificate[name] for certificate in certificates for name in ("archives", "backups")]
    failed = [path for each in by_path if isinstance(each, dict) for path, found in each.items() if _has_failed(found)]
    if failed:
        raise Failure(f"These files still name what was erased: {', '.join(failed)}. The certificate says why.")
    if any(_has_failed(certificate["redis"]) for certificate in certificates):
        if settings.redis_url is None:
            click.secho("REDIS_URL is not set: neither Redis nor an inbox was told.", err=True, fg="yellow")
            return
        raise Failure(
            "Redis and the inboxes are not erased. Once Redis is back, the clock does it, and tells the nodes."
        )


def _has_failed(found: Json) -> bool:
    return isinstance(found, dict) and "failed" in found


def _new(
    engine: Engine, user: str | None, session_id: str | None, archives: Sequence[Path]
) -> tuple[ErasureOrder, ErasureTargets]:
    session_ids = {session_id} if session_id else sessions_in_archives(archives, user or "")
    targets = find_targets(engine, user=user, session_ids=session_ids)
    if not targets.has_rows:
        click.secho("No delivery, record or alert has this id (any more): is it right?", err=True, fg="yellow")
    return order_of(Erasure(), salt_of(engine), targets), targets


def _again(
    engine: Engine, file: Path, plugin_tables: Sequence[PluginTable]
) -> Iterator[tuple[ErasureOrder, ErasureTargets]]:
    """Yield the orders of certificates, and what the ledger has of each. Raise Failure."""
    salt, orders = salt_of(engine), list[ErasureOrder]()
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            orders.append(ErasureOrder.from_fields(json.loads(line)["order"]))
        except (ValueError, TypeError, KeyError):
            raise Failure(f"{file}, line {number}, is no certificate of `webhooks erase --json`.") from None
        if orders[-1].salt != salt:
            raise Failure(f"{file}, line {number}, is of the ledger {orders[-1].salt}, and this one is {salt}.")
    for order in orders:
        yield order, find_ordered_targets(engine, order, plugin_tables)


def _erase(  # noqa: PLR0913, PLR0917  an erasure, and where it is to be done
    settings: Settings,
    engine: Engine,
    plugin_tables: Sequence[PluginTable],
    order: ErasureOrder,
    targets: ErasureTargets,
    reason: str | None,
) -> dict[str, Json]:
    erasure = Erasure(order.id, datetime.fromtimestamp(order.at, UTC))
    run_in_transaction(engine, lambda ledger: remember(ledger, order))
    erased = erase_from_ledger(engine, erasure, targets, plugin_tables)
    # Before what may take long or fail: it is done, and cannot be undone.
    text = f"erasure {order.id}" + (f": {reason}" if reason else "")
    entry = audit_entry(AuditAct.ERASED, text, sum(erased.values()))
    run_in_transaction(engine, lambda ledger: record_act(ledger, entry))
    in_redis, nodes = _erase_elsewhere(settings, engine, plugin_tables, order, targets)
    return {
        "erasure": order.id,
        "at": iso(erasure.at),
        "reason": reason,
        "sessions": len(targets.sessions),
        "ledger": dict(erased),
        "redis": in_redis,
        "inboxes": nodes,
        "order": order.to_fields(),
    }


def _erase_files(  # noqa: PLR0913 - where, what, and how
    archives: Sequence[Path],
    backups: Sequence[Path],
    order: ErasureOrder,
    targets: ErasureTargets,
    plugin_tables: Sequence[PluginTable],
    *,
    user: str | None,
    dry_run: bool,
) -> dict[str, Json]:
    def from_archive(path: Path) -> Json:
        return erase_from_archive(path, targets, dry_run=dry_run)

    def from_backup(path: Path) -> Json:
        done = erase_from_backup(path, order, user, plugin_tables, dry_run=dry_run)
        return {**done.rows, "not_searched": list(done.left)}

    return {
        "archives": {str(path): _try(from_archive, path) for path in archives},
        "backups": {str(path): _try(from_backup, path) for path in backups},
    }


def _try(erase_from: Callable[[Path], Json], path: Path) -> Json:
    """Erase from a file, or say why that failed: the certificate of all else is not to be lost."""
    try:
        return erase_from(path)
    except (WebhooksError, OSError, sqlite3.Error, DBAPIError) as error:
        return {"failed": error_text(error)}


def _found(targets: ErasureTargets) -> dict[str, Json]:
    return {"sessions": len(targets.sessions), "deliveries": len(targets.deliveries), "cdrs": len(targets.records)}


def _erase_elsewhere(
    settings: Settings,
    engine: Engine,
    plugin_tables: Sequence[PluginTable],
    order: ErasureOrder,
    targets: ErasureTargets,
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Erase in Redis, and wait for the inboxes of the nodes that are alive."""
    try:
        with open_queues(settings, engine) as connection:
            in_redis: dict[str, Json] = dict(erase_from_redis(connection, order, targets))
            in_redis["file_rewritten"] = rewrite_files(connection)
            publish_order(connection, order)  # others stay: a ledger that was restored may not know them yet
            alive = {each.id for each in ProcessRegistry(connection).processes() if _is_serving(each)}
            until, reports = time.monotonic() + NODES_TIMEOUT.total_seconds(), erasure_reports(connection, order.id)
            while alive - reports.keys() and time.monotonic() < until:
                time.sleep(NODES_POLL)
                reports = erasure_reports(connection, order.id)
            LateErasureTask(engine, connection, plugin_tables).run()  # what was on its way when it began
    except (RedisError, QueueUnavailable, SettingsError) as error:
        return {"failed": error_text(error)}, {}
    done: dict[str, Json] = {inbox: dict(asdict(report)) for inbox, report in reports.items()}
    return in_redis, {**dict.fromkeys(sorted(alive), "not yet"), **done}


def _is_serving(process: object) -> bool:
    return getattr(process, "process", None) is ProcessType.SERVE and bool(getattr(process, "is_alive", False))


def _print(certificate: Mapping[str, Json], *, as_json: bool) -> None:
    if as_json:
        json_line(certificate)
        return
    pairs: list[tuple[str, Cell]] = []
    for name, value in certificate.items():
        if name == "order":
            continue  # digests, for --again
        if isinstance(value, dict):
            pairs += [(f"{name}: {each}", str(found)) for each, found in value.items()]
        elif value is not None:
            pairs.append((name, str(value)))
    key_values(pairs)
