"""Which ledger an inbox belongs to: that of QUEUE_NAMESPACE or DATABASE_URL, and from then on the same.

The ledger is asked for its id once, and neither it nor a worker need be there afterwards. Deliveries whose ledger is
not certain stay in the inbox: on a Redis that several installations share they would end in another's ledger.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import redis
import structlog

from ingest.config.settings import Settings
from ingest.errors import LedgerUnknown, QueueUnavailable
from ingest.queue.batch import batch_key, lease_key
from ingest.queue.installations import Installation, list_installations
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.redis_client import queue
from ingest.relay.ledger_identity import ask_ledger_id, ledger_file
from ingest.relay.outbox import Binding, InFlightBatch, Outbox

# Seconds.
ASK_AGAIN_AFTER = 30.0

log = structlog.get_logger()


class LedgerBinding:
    """Finds the namespace of an inbox, and remembers it in the inbox file."""

    def __init__(self, outbox: Outbox, settings: Settings) -> None:
        self._outbox = outbox
        self._settings = settings
        self._asked_at = float("-inf")

    def resolve(self, connection: redis.Redis) -> str:
        """Return the namespace to publish to; what is in flight in another one waits again.

        `connection` has no namespace. Raise LedgerUnknown, QueueUnavailable or sqlite3.Error.
        """
        try:
            alive = [each for each in list_installations(connection) if each.is_alive]
            before = self._outbox.binding()
            binding = self._find(before, alive)
            if before is None or binding.namespace != before.namespace:
                self._withdraw(connection if before is None else NamespacedRedis(connection, before.namespace))
        except redis.RedisError as error:
            raise QueueUnavailable(f"{type(error).__name__}: {error}"[:200]) from error
        if binding != before:
            self._outbox.bind(binding)
            log.info("relay.bound", namespace=binding.namespace, ledger=binding.ledger)
        return binding.namespace

    def _find(self, before: Binding | None, alive: Sequence[Installation]) -> Binding:
        if self._settings.queue_namespace is not None:
            return _of_namespace(self._settings.queue_namespace, before, alive)
        ledger = self._ask_ledger(before, alive)
        if ledger is None:
            if before is None:
                raise self._unknown(alive)
            return before
        if before is not None and before.ledger not in {None, ledger} and not self._is_beside_inbox():
            raise LedgerUnknown(
                f"The ledger at DATABASE_URL is {ledger}, and this inbox has published to {before.ledger}."
                f" Set QUEUE_NAMESPACE={ledger} if that is meant."
            )
        namespaces = {each.namespace for each in alive if each.ledger == ledger}
        if before is not None and before.ledger == ledger and (not namespaces or before.namespace in namespaces):
            return before
        if len(namespaces) > 1:
            raise LedgerUnknown(f"Copies of the ledger are at work: set QUEUE_NAMESPACE to {_either(namespaces)}.")
        return Binding(next(iter(namespaces), ledger), ledger)

    def _unknown(self, alive: Sequence[Installation]) -> LedgerUnknown:
        # The only installation on this Redis is no answer: it may be production's, and this inbox that of staging.
        hint = "Start PostgreSQL, or" if self._file is None else "Set DATABASE_URL, run `webhooks migrate`, or"
        names = {each.namespace for each in alive}
        choice = f" set QUEUE_NAMESPACE to that of its workers{f' ({_either(names)})' if names else ''}."
        return LedgerUnknown(f"The ledger at DATABASE_URL cannot be asked for its id. {hint}{choice}")

    def _ask_ledger(self, before: Binding | None, alive: Sequence[Installation]) -> str | None:
        """Return the id of the ledger at DATABASE_URL; None if it is not available."""
        if self._file is not None:
            return ask_ledger_id(self._settings)
        # A database is asked only if nothing is known of this inbox's workers: they may have a new ledger.
        is_known = before is not None and before.ledger in {each.ledger for each in alive}
        if is_known or (before is not None and time.monotonic() < self._asked_at + ASK_AGAIN_AFTER):
            return before.ledger if before is not None and is_known else None
        self._asked_at = time.monotonic()
        return ask_ledger_id(self._settings)

    @property
    def _file(self) -> Path | None:
        return ledger_file(self._settings)

    def _is_beside_inbox(self) -> bool:
        # Nobody else's ledger lies there: it was made anew.
        return self._file is not None and self._file.parent == self._settings.data_dir

    def _withdraw(self, former: redis.Redis) -> None:
        """Release the batches in flight, so that they wait again, and remove them from where they were published."""
        in_flight = self._outbox.in_flight()
        if not in_flight:
            return
        with former.pipeline(transaction=True) as pipe:
            for batch in in_flight:
                _remove(batch, former, pipe)
            pipe.execute()
        self._outbox.release([batch.batch_id for batch in in_flight])
        log.info("batches.withdrawn", batches=len(in_flight))


def _remove(batch: InFlightBatch, former: redis.Redis, pipe: redis.Redis) -> None:
    jobs = queue(batch.queue, former)
    pipe.lrem(jobs.key, 1, batch.batch_id)
    pipe.delete(f"{jobs.job_class.redis_job_namespace_prefix}{batch.batch_id}")
    # Before there were namespaces, the prefix was part of our own keys.
    prefix = "" if isinstance(former, NamespacedRedis) else "webhooks:"
    pipe.delete(prefix + batch_key(batch.batch_id), prefix + lease_key(batch.batch_id))


def _of_namespace(namespace: str, before: Binding | None, alive: Sequence[Installation]) -> Binding:
    ledgers = {each.ledger for each in alive if each.namespace == namespace}
    known = before.ledger if before is not None and before.namespace == namespace else None
    if known is not None and ledgers and known not in ledgers:
        raise LedgerUnknown(
            f"Workers of {_either(ledgers)} are in QUEUE_NAMESPACE={namespace}, and this inbox has published to the"
            f" ledger {known}. Give the processes that belong together a QUEUE_NAMESPACE of their own."
        )
    return Binding(namespace, known or (next(iter(ledgers)) if len(ledgers) == 1 else None))


def _either(names: set[str]) -> str:
    return " or ".join(sorted(names))
