"""What became of everything that was acknowledged: counted in the stores themselves, event by event."""

import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from functools import reduce

from sqlalchemy import Row, func, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.merge import merge, with_clock_skew
from handlers.session_records import session_of
from ingest.config.settings import load_settings
from ingest.events import (
    ChargingRecord,
    Event,
    SessionComplete,
    SessionEvent,
    SessionStarted,
    SessionStopFailed,
    SessionStopped,
    decode,
)
from ingest.wire.envelope import Kind
from tests.faults.cluster import Cluster, wait_until
from tests.faults.effects import effects
from tests.faults.load import delivery_id
from workers.commands.check.basics import CheckStatus
from workers.commands.check.consistency import check_consistency
from workers.ledger import sessions
from workers.ledger.database.engine import read_only
from workers.ledger.states import DeliveryState, PushState
from workers.ledger.tables.core_tables import deliveries, pushes


@dataclass
class Expectations:
    """What is wrong, a sentence each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


def is_settled(cluster: Cluster, ids: set[str]) -> bool:
    """Say whether the ledger has an end for all of these, and for their pushes; an inbox may hold them longer."""
    ended = select(func.count()).where(deliveries.c.id.in_(ids), deliveries.c.settled_at.is_not(None))
    unsent = select(func.count()).where(pushes.c.delivery_id.in_(ids), pushes.c.state == PushState.WAITING)
    with read_only(cluster.engine) as ledger:
        return ledger.scalar(ended) == len(ids) and ledger.scalar(unsent) == 0


def is_quiet(cluster: Cluster) -> bool:
    """Say whether nothing is under way at all."""
    if any(_waiting(path) for path in cluster.inboxes() if path.exists()):
        return False
    with read_only(cluster.engine) as ledger:
        unsettled = select(deliveries.c.id).where(deliveries.c.settled_at.is_(None)).limit(1)
        unsent = select(pushes.c.id).where(pushes.c.state == PushState.WAITING).limit(1)
        return ledger.execute(unsettled).first() is None and ledger.execute(unsent).first() is None


def wait_until_quiet(cluster: Cluster, patience: float) -> float | None:
    """Wait until nothing is under way any more, and tell how long that took; None if it never came to that."""
    began = time.monotonic()
    try:
        wait_until(lambda: is_quiet(cluster), "all is settled", patience)
    except AssertionError:
        return None
    return time.monotonic() - began


def audit(cluster: Cluster, acknowledged: set[str], sent: set[str]) -> Expectations:
    """Compare what the stores hold with what the sender was promised. To be called when all is quiet."""
    books = Expectations()
    with read_only(cluster.engine) as ledger:
        kept = {row.id: row for row in ledger.execute(select(deliveries))}
        done = Counter(map(tuple, ledger.execute(select(effects.c.delivery_id, effects.c.handler))))
        asked = Counter(ledger.scalars(select(pushes.c.delivery_id)))
        taken = {row.id: row.state for row in ledger.execute(select(pushes.c.id, pushes.c.state))}
        records = {session.session_id: session for session in sessions.latest(ledger, 1_000_000)}
        amounts = {row.delivery_id: row.amount for row in ledger.execute(select(cdrs.c.delivery_id, cdrs.c.amount))}
    for path in cluster.inboxes():
        books.stuck += [f"{count} in {path.parent.name}'s inbox" for count in [_waiting(path)] if count]
    books.lost += [f"{missing} was acknowledged, and is not in the ledger" for missing in acknowledged - kept.keys()]
    books.doubled += [f"{alien} was never sent" for alien in kept.keys() - sent]
    told = defaultdict(list)
    for row in kept.values():
        if row.id != delivery_id(Kind(row.kind), row.body):
            books.lost.append(f"{row.id} has another body than was sent")
        event = decode(Kind(row.kind), row.body)
        if isinstance(event, SessionEvent):
            told[event.session_id].append(with_clock_skew(session_of(event), event.at, row.received_at, cluster.skew))
        _compare_outcomes(books, row, event, done, asked)
        if isinstance(event, ChargingRecord) and amounts.pop(row.id, None) != Decimal(event.document["cost"]["total"]):
            books.lost.append(f"{row.id} has no record of its amount")
    for session_id, parts in told.items():
        if records.pop(session_id, None) != reduce(merge, parts):
            books.lost.append(f"session {session_id} is not what its events say")
    books.doubled += [f"nobody told of {unheard}" for unheard in (*records, *amounts)]
    _compare_pushes(books, taken, Counter(cluster.pushed.read_text().split()))
    books.stuck += _found_by_check(cluster)
    return books


def _compare_outcomes(
    books: Expectations, row: Row, event: Event, done: Counter[tuple[str, str]], asked: Counter[str]
) -> None:
    """Compare what was done about a delivery with what is to be done about its event."""
    if row.settled_at is None:
        books.stuck.append(f"{row.id} is {row.state}")
        return
    # A misdeed may cost the run that does it, and nothing else.
    if row.state is not DeliveryState.SETTLED and not isinstance(event, SessionStopFailed):
        books.lost.append(f"{row.id} is {row.state}")
    wanted = {
        "note_here": isinstance(event, SessionEvent),
        "note_record": isinstance(event, ChargingRecord),
        "note_apart": isinstance(event, SessionComplete),
        "note_at_second_try": isinstance(event, SessionStopped),
    }
    for handler, is_wanted in wanted.items():
        _compare(books, f"{row.id}: {handler}", done[row.id, handler], int(is_wanted))
    _compare(books, f"{row.id}: pushes", asked[row.id], int(isinstance(event, SessionStarted)))


def pushed_twice(cluster: Cluster) -> set[str]:
    """The pushes that a provider was told of more than once, with the same id."""
    return {push_id for push_id, count in Counter(cluster.pushed.read_text().split()).items() if count > 1}


def _compare(books: Expectations, what: str, found: int, wanted: int) -> None:
    if found < wanted:
        books.lost.append(f"{what}: {found} instead of {wanted}")
    elif found > wanted:
        books.doubled.append(f"{what}: {found} instead of {wanted}")


def _compare_pushes(books: Expectations, taken: dict[str, PushState], written: Counter[str]) -> None:
    """Compare what the ledger says of pushes with what their provider was told."""
    for key, state in taken.items():
        if state is PushState.WAITING:
            books.stuck.append(f"push {key} waits")
        elif state is not PushState.SENT:  # these have no end but that
            books.lost.append(f"push {key} is {state}")
        elif not written[key]:
            books.lost.append(f"push {key} was not sent")
    books.doubled += [f"push {key} is nobody's" for key in written.keys() - taken.keys()]


def _found_by_check(cluster: Cluster) -> list[str]:
    """What `webhooks check --deep` finds, on each node."""
    found = set()
    for path in cluster.inboxes():
        settings = load_settings(
            data_dir=path.parent,
            redis_url=cluster.redis_url,
            database_url=cluster.database_url,
            handler_modules="tests.faults.effects",
        )
        found |= {
            each.sentence
            for each in check_consistency(settings, rollout=timedelta())
            if each.standing is not CheckStatus.OK
        }
    return sorted(found)


def _waiting(path: object) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as file:
        try:
            (count,) = file.execute("SELECT count(*) FROM deliveries").fetchone()
        except sqlite3.OperationalError:  # just being made
            return 1
    return int(count)
