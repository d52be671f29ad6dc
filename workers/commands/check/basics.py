"""Checks, without changing anything, what works here and what would fail."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from handlers.kit.plugin_tables import PluginTables
from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.inbox.schema import FILE_NAME
from ingest.queue.installations import Installation, is_conflict, list_installations
from ingest.queue.namespace import key_prefix
from ingest.queue.redis_client import connect_redis
from ingest.queue.redis_memory import eviction_text, full_text, read_memory
from workers.alerts.destinations import open_destinations
from workers.alerts.notifier import muted_kinds
from workers.commands.check.check_result import CheckResult, fail, ok, warn
from workers.commands.check.disk_type import disk_problem
from workers.commands.errors import Failure, error_text
from workers.commands.stores import open_inbox, open_ledger, read_only_ledger
from workers.installation import conflict_text, own_installation
from workers.ledger.database.schema_state import SENTENCES, SchemaState, schema_state
from workers.lists.formatting import human_duration
from workers.plugins import PluginError, load_plugins
from workers.push.registry import open_channels

OLDEST_REDIS = (6, 2)
WAL_RESET_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
"""The first SQLite without the WAL-reset bug of each older branch, and of all later ones.

https://sqlite.org/wal.html#walresetbug
"""
LOW_DISK = 256 * 1024 * 1024
SHORT_KEY = 16


def run_checks(settings: Settings) -> Iterator[CheckResult]:
    """Yield the results of all checks, each as soon as it is known."""
    yield from (warn("settings", remark) for remark in settings.remarks)
    for check in (keys, inbox, queues, ledger, plugins, alerts):
        yield from check(settings)


def keys(settings: Settings) -> Iterator[CheckResult]:
    """Check that requests can be verified."""
    try:
        settings.require_signing()
    except SettingsError as missing:
        yield fail("keys", str(missing))
        return
    ring = Keyring(settings).keys
    set_keys = {"PLUGSURFING_HMAC_CURRENT": ring.current, "PLUGSURFING_HMAC_NEXT": ring.next}
    signing = " and ".join(name for name, key in set_keys.items() if key)
    if settings.plugsurfing_hmac_required:
        yield ok("keys", f"Every request must be signed with {signing}, read as {settings.plugsurfing_hmac_encoding}.")
    else:
        yield warn("keys", "PLUGSURFING_HMAC_REQUIRED is false: requests without a signature are kept.")
    for name, key in set_keys.items():
        if key and len(key) < SHORT_KEY:
            yield warn("keys", f"{name} is shorter than {SHORT_KEY} bytes: easy to guess.")
    if ring.authorizations:
        yield ok("keys", "An authorization header is required, too.")
    if settings.forwarded_by and not settings.plugsurfing_sources:
        yield ok("keys", "Any address may send: FORWARDED_BY tells them apart only if PLUGSURFING_SOURCES is set.")


def inbox(settings: Settings) -> Iterator[CheckResult]:
    """Check that a delivery can be kept."""
    folder = settings.data_dir
    try:
        with tempfile.TemporaryFile(dir=_first_existing(folder)):
            pass
        path = folder / FILE_NAME
        if path.exists():
            _write_lock(path)
    except (OSError, sqlite3.Error) as error:
        yield fail("inbox", f"Nothing can be kept in {folder}. {error_text(error)}")
        return
    free = shutil.disk_usage(_first_existing(folder)).free
    problem = disk_problem(folder)
    if problem:
        yield warn("inbox", problem)
    if free < LOW_DISK:
        yield warn("inbox", f"Only {free // 1_000_000} MB are free in {folder}.")
    elif not problem:
        yield ok("inbox", f"{folder} can be written; {free // 1_000_000_000} GB are free.")


def queues(settings: Settings) -> Iterator[CheckResult]:
    """Check that Redis answers and is fit for queues."""
    try:
        url = settings.require_redis()
    except SettingsError as missing:
        yield fail("redis", str(missing))
        return
    try:
        with connect_redis(url, timeout=5) as connection:
            yield from _redis(connection, settings.clock_skew)
            yield from _installation(settings, connection)
    except (RedisError, OSError, SettingsError) as error:
        yield fail("redis", f"{error_text(error)} Until then events are kept and wait.")


def ledger(settings: Settings) -> Iterator[CheckResult]:
    """Check that the database answers, has this version's tables, and that its clock agrees with ours."""
    try:
        with read_only_ledger(settings) as conn:
            version = ".".join(map(str, conn.dialect.server_version_info or ()))
            yield ok("database", f"{conn.dialect.name} {version} answers.")
            if conn.dialect.name == "sqlite" and not _is_wal_reset_fixed(sqlite3.sqlite_version_info):
                yield warn(
                    "database",
                    f"SQLite {sqlite3.sqlite_version} can, very rarely, lose commits of the ledger; 3.51.3 does not."
                    " Use PostgreSQL, a newer SQLite, or a Python that brings one: https://sqlite.org/wal.html#walresetbug",
                )
            yield from _clocks(conn, settings.clock_skew)
        state = schema_state(settings.database_url)
        works = state in {SchemaState.CURRENT, SchemaState.NEWER}
        yield (ok if works else fail)("database", SENTENCES[state])
    except (Failure, SettingsError) as missing:
        yield fail("database", str(missing))
    except DBAPIError as error:
        yield fail("database", f"{error_text(error)} Until then events are kept and wait.")


def plugins(settings: Settings) -> Iterator[CheckResult]:
    """Check that the plugins load, and that PUSH names known channels."""
    try:
        found = load_plugins(settings)
    except PluginError as error:
        yield fail("plugins", str(error))
        return
    names = ", ".join(each.name for each in found.subscriptions)
    yield ok("plugins", f"They load: {names}.")
    if found.tables:
        yield from _tables_of_plugins(settings, found.tables)
    try:
        channels = open_channels(settings, found.channels)
    except SettingsError as error:
        yield fail("push", str(error))
        return
    yield ok("push", f"Pushes are sent by {', '.join(channels)}.")


def _tables_of_plugins(settings: Settings, plugins: Sequence[PluginTables]) -> Iterator[CheckResult]:
    # Alembic, which the dashboard does without, takes 13 MiB.
    from workers.ledger.database.migrate_plugins import SENTENCES as SENTENCES_OF_PLUGINS  # noqa: PLC0415
    from workers.ledger.database.migrate_plugins import WORKING, plugin_state  # noqa: PLC0415

    try:
        with read_only_ledger(settings) as conn:
            states = {each.plugin: plugin_state(conn, each) for each in plugins}
    except (Failure, SettingsError, DBAPIError) as error:
        yield fail("plugins", f"Their tables cannot be checked. {error_text(error)}")
        return
    for plugin, state in states.items():
        yield (ok if state in WORKING else fail)("plugins", SENTENCES_OF_PLUGINS[state].format(plugin))


def alerts(settings: Settings) -> Iterator[CheckResult]:
    """Check that alerts can be sent to ALERT_URLS."""
    try:
        addresses = open_destinations(settings)
        muted = muted_kinds(settings)
    except SettingsError as error:
        yield fail("alerts", str(error))
        return
    services = ", ".join(address.service for address in addresses)
    exceptions = f", except {', '.join(sorted(muted))}" if muted else ""
    where = f"to the log and to {services}" if addresses else "to the log only, as ALERT_URLS is not set"
    yield ok("alerts", f"They go {where}{exceptions}.")


def _redis(connection: Redis, skew: timedelta) -> Iterator[CheckResult]:
    connection.ping()
    try:
        info: dict[str, object] = connection.info()
    except ResponseError:  # renamed, or forbidden to this user
        yield warn(
            "redis",
            "It answers, but not to INFO: its version, and whether it loses or evicts jobs, cannot be seen from here."
            " It has to be 6.2 or later, with appendonly yes and maxmemory-policy noeviction.",
        )
    else:
        yield from _server(info)
        yield from _memory(connection)
    try:
        seconds, microseconds = connection.time()
    except ResponseError:
        yield warn("redis", "It does not answer to TIME, which the processes need to notice each other: allow it.")
    else:
        yield _clock("redis", datetime.fromtimestamp(seconds + microseconds / 1_000_000, UTC), skew)


def _server(info: dict[str, object]) -> Iterator[CheckResult]:
    version = str(info.get("redis_version", "0"))
    name = f"{info.get('server_name', 'redis')} {info.get('valkey_version', version)}"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST_REDIS:
        yield fail("redis", f"It is {name}; the oldest supported version is 6.2.")
    elif info.get("cluster_enabled") == 1:
        yield fail("redis", "It is a cluster; the queues need one server, or Sentinel.")
    else:
        yield ok("redis", f"{name} answers.")
    if info.get("aof_enabled") != 1:
        yield warn("redis", "appendonly is off: what a restart loses is published again, which takes some seconds.")


def _memory(connection: Redis) -> Iterator[CheckResult]:
    memory = read_memory(connection)
    if memory is None:
        return
    if memory.evicts:
        # Without a limit nothing is evicted, until somebody sets one.
        yield (fail if memory.limit else warn)("redis", eviction_text(memory))
    if memory.is_nearly_full:
        yield fail("redis", full_text(memory))
    elif memory.limit:
        yield ok("redis", f"It has used {memory}.")


def _installation(settings: Settings, connection: Redis) -> Iterator[CheckResult]:
    """Check that this installation has a namespace for itself, which its inbox knows."""
    try:
        with open_ledger(settings) as engine:
            own = own_installation(settings, engine)
    except (Failure, SQLAlchemyError) as error:
        yield warn("queues", f"Their namespace is not known: {error_text(error)}")
        return
    others = [each for each in list_installations(connection) if each.is_alive and each.field != own.field]
    conflict = next((each for each in others if is_conflict(each, own)), None)
    if conflict is not None:
        yield fail("queues", conflict_text(own, conflict))
    else:
        shared = f"; other installations on this Redis: {len(others)}" if others else ""
        yield ok("queues", f"Their keys begin with {key_prefix(own.namespace)}{shared}.")
    yield from _binding(settings, own)


def _binding(settings: Settings, own: Installation) -> Iterator[CheckResult]:
    with open_inbox(settings) as outbox:
        bound = None if outbox is None else outbox.binding()
    if bound is not None and bound.namespace != own.namespace:
        sentence = (
            f"The inbox in {settings.data_dir} publishes to {bound.namespace}, these workers are {own.namespace}."
        )
        yield fail("inbox", f"{sentence} If they belong together, set QUEUE_NAMESPACE={own.namespace} for `serve`.")


def _clocks(conn: Connection, skew: timedelta) -> Iterator[CheckResult]:
    if conn.dialect.name == "sqlite":
        return  # it has no clock of its own
    theirs = conn.scalar(select(func.clock_timestamp()))
    if isinstance(theirs, datetime):
        yield _clock("database", theirs, skew)


def _clock(subject: str, theirs: datetime, skew: timedelta) -> CheckResult:
    difference = abs(theirs - datetime.now(UTC))
    return (warn if difference > skew else ok)(
        "clocks", f"The clock of {subject} and ours differ by {human_duration(difference)}."
    )


def _is_wal_reset_fixed(version: tuple[int, ...]) -> bool:
    *branches, newest = WAL_RESET_FIXED
    return version >= newest or any(version[:2] == fixed[:2] and version >= fixed for fixed in branches)


def _first_existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _write_lock(path: Path) -> None:
    """Acquire and release the lock that a writer needs; raise sqlite3.Error if that fails."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
