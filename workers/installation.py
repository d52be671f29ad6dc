"""The installation of this process: the namespace of its ledger in Redis, and its announcement there."""

import redis
import stamina
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ingest.config.settings import Settings
from ingest.errors import SettingsError, WebhooksError
from ingest.queue.installations import Installation, announce, withdraw
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.redis_client import connect_queues
from ingest.queue.redis_memory import eviction_text, read_memory
from workers.ledger.database.engine import read_only
from workers.ledger.database.schema_state import SENTENCES, SchemaState, applied_migration, compare_schema
from workers.ledger.database.transaction import LedgerNotMigrated, LedgerUnavailable
from workers.ledger.identity import ledger_id, storage

log = structlog.get_logger()

LONGEST_WAIT = 5.0


class LedgerTooNew(WebhooksError):
    """Raised when a newer version has migrated the ledger to what this one cannot work with."""


def queue_namespace(settings: Settings, engine: Engine) -> str:
    """Return the namespace of the queues. Raise SQLAlchemy's errors if only the ledger knows it and is unavailable."""
    return settings.queue_namespace or ledger_id(engine)


def open_queues(settings: Settings, engine: Engine, *, timeout: float = 5) -> NamespacedRedis:
    """Return a client for the queues of the ledger. Raise SettingsError, and the errors of `queue_namespace`."""
    return connect_queues(settings.require_redis(), queue_namespace(settings, engine), timeout=timeout)


def own_installation(settings: Settings, engine: Engine) -> Installation:
    """Return what this process announces. Raise SQLAlchemy's errors."""
    own = ledger_id(engine)
    return Installation(settings.queue_namespace or own, own, storage(engine))


def join_installation(settings: Settings, engine: Engine) -> tuple[NamespacedRedis, Installation]:
    """Wait for the ledger, migrated, and for Redis, announce this installation, and return a client for its queues.

    Raise SettingsError if another installation is at work in the same namespace: both would take the other's jobs; or
    if Redis would evict jobs when its memory is used up. `serve`, which takes events, starts in both cases.
    Raise LedgerTooNew if a newer version has migrated the ledger to what this one cannot work with.
    """
    own = _wait_for_ledger(settings, engine)
    connection = connect_queues(settings.require_redis(), own.namespace)
    other = _announce_when_possible(connection, own)
    if other is not None:
        withdraw(connection.plain, own)
        raise SettingsError(conflict_text(own, other))
    memory = read_memory(connection)
    if memory is not None and memory.evicts:
        if memory.limit:
            withdraw(connection.plain, own)
            raise SettingsError(eviction_text(memory))
        log.warning("redis.evicts", problem=eviction_text(memory))
    return connection, own


def conflict_text(own: Installation, other: Installation) -> str:
    """Return what is wrong with two installations in one namespace, and what to do."""
    problem = (
        f"belongs to another ledger ({other.ledger}; this one is {own.ledger})"
        if other.ledger != own.ledger
        else "belongs to another copy of this ledger"
    )
    return (
        f"The namespace {own.namespace} at REDIS_URL {problem}: set another QUEUE_NAMESPACE here, or another REDIS_URL."
    )


def announce_quietly(connection: NamespacedRedis, own: Installation) -> None:
    """Announce an installation that has joined; log an older one in the same namespace. Does nothing without Redis."""
    try:
        other = announce(connection.plain, own)
    except redis.RedisError:
        return
    if other is not None:
        log.error("installation.conflict", problem=conflict_text(own, other))


def _announce_when_possible(connection: NamespacedRedis, own: Installation) -> Installation | None:
    """Wait for Redis, and for memory in it: whatever started this process might not restart it."""
    for attempt in stamina.retry_context(on=redis.RedisError, attempts=None, timeout=None, wait_max=LONGEST_WAIT):
        with attempt:
            return announce(connection.plain, own)
    raise AssertionError  # the loop has no end


def _wait_for_ledger(settings: Settings, engine: Engine) -> Installation:
    logged = False
    not_ready = (SQLAlchemyError, LedgerUnavailable)
    for attempt in stamina.retry_context(on=not_ready, attempts=None, timeout=None, wait_max=LONGEST_WAIT):
        with attempt:
            try:
                own = own_installation(settings, engine)
                require_schema(engine)
            except not_ready as failure:
                if not logged:
                    hint = "is the database there, and has `webhooks migrate` been run?"
                    log.warning("ledger.waiting", reason=type(failure).__name__, hint=hint)
                logged = True
                raise
            return own
    raise AssertionError  # the loop has no end


def require_schema(engine: Engine) -> None:
    """Raise LedgerTooNew if this version is too old for the ledger, LedgerNotMigrated if migrations are pending.

    Tables that no migration has made are not judged.
    """
    with read_only(engine) as ledger:
        state = SchemaState.CURRENT if applied_migration(ledger) is None else compare_schema(ledger)
    if state is SchemaState.INCOMPATIBLE:
        raise LedgerTooNew(SENTENCES[state])
    if state is SchemaState.PENDING:
        raise LedgerNotMigrated(SENTENCES[state])
