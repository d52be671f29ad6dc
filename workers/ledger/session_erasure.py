"""Recognizes what comes of sessions that were erased, before any handler sees it."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, exists, select, update

from ingest.queue.batch import Batch, Delivery
from ingest.queue.erasure_orders import erasure_digest
from ingest.wire.envelope import Kind
from workers.ledger.database.conditions import in_list
from workers.ledger.database.transaction import read
from workers.ledger.identity import ledger_id
from workers.ledger.states import BodyDeletion
from workers.ledger.tables.core_tables import deliveries
from workers.ledger.tables.erasure_tables import ErasedKind, erasures

ERASED = "erased"
"""Stands where the name of a driver or a session was."""

NOBODY_FOR = 5.0
"""Seconds for which a process takes it that nobody was ever erased, where that was so: what comes then is erased by the
clock."""

_nobody_until: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()


def blank_erased(engine: Engine, batch: Batch) -> tuple[Batch, set[str]]:
    """Return the batch without the content of what is of erased sessions, and the ids of these deliveries."""
    arrived = (*batch.deliveries, *batch.read_ahead)
    if not any(map(_session_of, arrived)) or time.monotonic() < _nobody_until.get(engine, 0.0):
        return batch, set()
    erased = read(engine, lambda ledger: of_erased_sessions(ledger, arrived))
    if not erased:
        return batch, set()
    own = {each.id for each in batch.deliveries if each.id in erased}
    return replace(
        batch,
        deliveries=tuple(_blank(each) if each.id in own else each for each in batch.deliveries),
        read_ahead=tuple(each for each in batch.read_ahead if each.id not in erased),
    ), own


def of_erased_sessions(ledger: Connection, arrived: Iterable[Delivery]) -> set[str]:
    """Return the ids of those of these deliveries whose sessions were erased."""
    ids = defaultdict[str, set[str]](set)
    for each in arrived:
        ids[_session_of(each)].add(each.id)
    is_session = erasures.c.kind == ErasedKind.SESSION
    if not ledger.scalar(select(exists().where(is_session))):
        _nobody_until[ledger.engine] = time.monotonic() + NOBODY_FOR
        return set()
    salt = ledger_id(ledger.engine)
    digests = {erasure_digest(salt, each): each for each in ids if each}
    found = ledger.scalars(select(erasures.c.digest).where(in_list(erasures.c.digest, digests), is_session))
    return set[str]().union(*(ids[digests[each]] for each in found))


def erased_of_driver(ledger: Connection, user_id: str, began_at: Mapping[str, datetime | None]) -> set[str]:
    """Return those of a driver's sessions that were erased, and those that began before their driver was."""
    if not ledger.scalar(select(exists().where(erasures.c.digest.is_not(None)))):
        return set()
    salt = ledger_id(ledger.engine)
    digests = {erasure_digest(salt, each): each for each in began_at}
    driver = erasure_digest(salt, user_id)
    found = select(erasures.c.digest, erasures.c.kind, erasures.c.at)
    erased: set[str] = set()
    for digest, kind, at in ledger.execute(found.where(in_list(erasures.c.digest, [*digests, driver]))):
        if kind is ErasedKind.SESSION and digest in digests:
            erased.add(digests[digest])
        elif kind is ErasedKind.USER and digest == driver:
            erased |= {each for each, began in began_at.items() if began is None or began < at}
    return erased


def _session_of(delivery: Delivery) -> str:
    # A charging record is kept under a random name: the clock does that, so that totals stay exact.
    return (delivery.session_id or "") if delivery.kind == Kind.EVENTS else ""


def erased_of(ledger: Connection, ids: Collection[str]) -> set[str]:
    """Return those of these deliveries that were erased."""
    is_erased = deliveries.c.body_deletion == BodyDeletion.ERASURE
    return set(ledger.scalars(select(deliveries.c.id).where(in_list(deliveries.c.id, ids), is_erased)))


def mark_erased(ledger: Connection, ids: Collection[str]) -> None:
    """Record why these deliveries, which were just stored, have no body."""
    if ids:
        gone = {"body_deleted_at": datetime.now(UTC), "body_deletion": BodyDeletion.ERASURE}
        has_none = (deliveries.c.body == b"", deliveries.c.body_deleted_at.is_(None))
        ledger.execute(update(deliveries).where(in_list(deliveries.c.id, ids), *has_none).values(gone))


def _blank(delivery: Delivery) -> Delivery:
    return replace(delivery, body=None if delivery.body is None else b"", headers={}, session_id=None)
