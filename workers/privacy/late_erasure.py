"""Erases what comes late of sessions that were erased, and keeps the orders for the nodes in Redis."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import redis
import structlog
from sqlalchemy import Connection, Engine, delete, func, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.plugin_tables import PluginTable
from ingest.queue.erasure_orders import ErasureOrder, erasure_digest, list_orders, publish_orders
from ingest.wire.timestamps import utc_now
from workers.ledger.database.conditions import in_list
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.states import BodyDeletion
from workers.ledger.tables.core_tables import deliveries, pushes, sessions
from workers.ledger.tables.erasure_tables import ErasedKind, erasures
from workers.privacy.certificate_erasure import find_ordered_targets, is_unknown
from workers.privacy.erasure import Erasure, erase, erasure_orders, order_of, remember, salt_of
from workers.privacy.erasure_targets import ErasureTargets, find_late_targets
from workers.privacy.redis_erasure import erase_from_redis

log = structlog.get_logger()

ORDERS_FOR = timedelta(days=30)
"""How long a node may be away, and still finds an order when it is back."""

OVERLAP = timedelta(minutes=1)
"""What a transaction that began before wrote may be seen this late."""

FIRST_LOOK = timedelta(days=1)
"""How far back the first look of a clock goes."""


class LateErasureTask:
    """Looks at what is new in the ledger for digests of what was erased. Several clocks may run it at once."""

    name = "erasure"
    every = timedelta(seconds=5)

    def __init__(self, engine: Engine, connection: redis.Redis, plugin_tables: Sequence[PluginTable] = ()) -> None:
        self._engine = engine
        self._plugin_tables = plugin_tables
        self._connection = connection
        self._seen_until: datetime | None = None

    def run(self) -> None:
        """Look once. Raises LedgerUnavailable or RedisError."""
        now = utc_now()
        since = (self._seen_until or now - FIRST_LOOK) - OVERLAP
        self._repeat_unknown(now)
        known = read_once(self._engine, _known_digests)
        if known:
            salt = salt_of(self._engine)
            late = read_once(self._engine, lambda ledger: _late_sessions(ledger, salt, known, since))
            records = read_once(self._engine, lambda ledger: _late_records(ledger, salt, known, since))
            if late or records:
                self._erase(salt, late, records)
            delete_pushes = partial(_delete_late_pushes, salt=salt, known=known, since=since)
            if pushed := run_in_transaction(self._engine, delete_pushes):
                log.info("erasure.repeated", pushes=pushed)
            orders = read_once(self._engine, lambda ledger: erasure_orders(ledger, salt, now - ORDERS_FOR))
            in_redis = {order.id for order in list_orders(self._connection)}
            for order in orders:
                if order.id not in in_redis:  # it was away, or has lost them
                    erase_from_redis(self._connection, order, ErasureTargets())
            publish_orders(self._connection, orders)
        self._seen_until = now

    def _repeat_unknown(self, now: datetime) -> None:
        """Repeat what Redis knows to be erased and the ledger does not: it was restored from an older backup."""
        orders = list_orders(self._connection)
        if not orders:
            return
        salt, since = salt_of(self._engine), (now - ORDERS_FOR).timestamp()
        for order in orders:
            if order.salt == salt and order.at > since and read_once(self._engine, partial(is_unknown, order=order)):
                targets = find_ordered_targets(self._engine, order, self._plugin_tables)
                log.info("erasure.restored", erasure=order.id, **self._erase_ordered(order, targets))

    def _erase(self, salt: str, late: Collection[str], records: Collection[tuple[str, int]]) -> None:
        targets = find_late_targets(self._engine, late, records)
        order = order_of(Erasure(), salt, ErasureTargets(sessions=frozenset(late)))
        erased = self._erase_ordered(order, targets)
        log.info("erasure.repeated", erasure=order.id, **erased)

    def _erase_ordered(self, order: ErasureOrder, targets: ErasureTargets) -> Counter[str]:
        """Remember an order, and erase from the ledger and from Redis what was found of it; return how much where."""
        run_in_transaction(self._engine, partial(remember, order=order))
        erasure = Erasure(order.id, datetime.fromtimestamp(order.at, UTC))
        erased = erase(self._engine, erasure, targets, self._plugin_tables)
        return erased + erase_from_redis(self._connection, order, targets)


def _known_digests(ledger: Connection) -> dict[str, tuple[ErasedKind, datetime]]:
    return {row.digest: (row.kind, row.at) for row in ledger.execute(select(erasures))}


def _late_sessions(
    ledger: Connection, salt: str, known: dict[str, tuple[ErasedKind, datetime]], since: datetime
) -> set[str]:
    """Return the new sessions that were erased before, and those of an erased driver that began before that."""
    found: set[str] = set()
    of_session = select(sessions.c.session_id, sessions.c.user_id).where(sessions.c.updated_at >= since)
    of_cdr = select(cdrs.c.session_id, cdrs.c.user_id).where(cdrs.c.recorded_at >= since)
    for session_id, user_id in [*ledger.execute(of_session), *ledger.execute(of_cdr)]:
        if session_id is None:
            continue
        if erasure_digest(salt, session_id) in known:
            found.add(session_id)
        kind, at = known.get(erasure_digest(salt, user_id or ""), (None, since))
        if kind is ErasedKind.USER and _came_before(ledger, session_id, at):
            found.add(session_id)
    others = select(deliveries.c.session_id).where(deliveries.c.received_at >= since).distinct()
    found |= {each for each in ledger.scalars(others) if each and erasure_digest(salt, each) in known}
    return found


def _late_records(
    ledger: Connection, salt: str, known: dict[str, tuple[ErasedKind, datetime]], since: datetime
) -> set[tuple[str, int]]:
    """Return the new charging records of an erased driver that were received before that: not all have a session."""
    query = select(cdrs.c.delivery_id, cdrs.c.position, cdrs.c.user_id, cdrs.c.received_at)
    found: set[tuple[str, int]] = set()
    for delivery_id, position, user_id, received_at in ledger.execute(query.where(cdrs.c.recorded_at >= since)):
        kind, at = known.get(erasure_digest(salt, user_id or ""), (None, since))
        if kind is ErasedKind.USER and received_at < at:
            found.add((delivery_id, position))
    return found


def _delete_late_pushes(
    ledger: Connection, salt: str, known: dict[str, tuple[ErasedKind, datetime]], since: datetime
) -> int:
    """Delete the new pushes of what was erased while their handlers ran: of a delivery, or to a driver."""
    query = select(pushes.c.id, pushes.c.user_id, deliveries.c.body_deletion, deliveries.c.received_at)
    query = query.join(deliveries, deliveries.c.id == pushes.c.delivery_id)
    late = list[str]()
    for id_, user_id, deletion, received_at in ledger.execute(query.where(pushes.c.created_at >= since)):
        kind, at = known.get(erasure_digest(salt, user_id), (None, since))
        if deletion is BodyDeletion.ERASURE or (kind is ErasedKind.USER and received_at < at):
            late.append(id_)
    return ledger.execute(delete(pushes).where(in_list(pushes.c.id, late))).rowcount if late else 0


def _came_before(ledger: Connection, session_id: str, at: datetime) -> bool:
    first = ledger.scalar(select(func.min(deliveries.c.received_at)).where(deliveries.c.session_id == session_id))
    if first is None:  # the Drive API has told of it
        first = ledger.scalar(select(sessions.c.started_at).where(sessions.c.session_id == session_id))
    return first is not None and first < at
