"""Audit: each acknowledged delivery is compared with the stores, and everything in them with what was sent."""

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

from sqlalchemy import Column, Connection, Row, func, select, text, true

from handlers.kit.cdr_table import cdrs
from handlers.kit.merge import merge, with_clock_skew
from handlers.kit.session import Session
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
from workers.commands.check.check_result import CheckStatus
from workers.commands.check.consistency import check_consistency
from workers.ledger import sessions
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import read_only
from workers.ledger.states import DeliveryState, PushState
from workers.ledger.tables.core_tables import deliveries, pushes


@dataclass
class Discrepancies:
    """Broken promises, a sentence each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


def is_settled(cluster: Cluster, ids: set[str]) -> bool:
    """Return whether the ledger has settled all of these and sent their pushes; an inbox may hold them longer."""
    ended = select(func.count()).where(in_list(deliveries.c.id, ids), deliveries.c.settled_at.is_not(None))
    unsent = select(func.count()).where(in_list(pushes.c.delivery_id, ids), pushes.c.state == PushState.WAITING)
    with read_only(cluster.engine) as ledger:
        return ledger.scalar(ended) == len(ids) and ledger.scalar(unsent) == 0


def is_quiet(cluster: Cluster) -> bool:
    """Return whether no delivery and no push is under way."""
    if any(_waiting(path) for path in cluster.inboxes() if path.exists()):
        return False
    with read_only(cluster.engine) as ledger:
        unsettled = select(deliveries.c.id).where(deliveries.c.settled_at.is_(None)).limit(1)
        unsent = select(pushes.c.id).where(pushes.c.state == PushState.WAITING).limit(1)
        return ledger.execute(unsettled).first() is None and ledger.execute(unsent).first() is None


def wait_until_quiet(cluster: Cluster, timeout_s: float) -> float | None:
    """Wait until nothing is under way; return how many seconds that took, or None if the time was up."""
    began = time.monotonic()
    try:
        wait_until(lambda: is_quiet(cluster), "all is settled", timeout_s)
    except AssertionError:
        return None
    return time.monotonic() - began


@dataclass(frozen=True)
class Books:
    """What the stores have of the deliveries that are compared."""

    kept: dict[str, Row]
    effects: Counter[tuple[str, str]]
    pushes_of: Counter[str]
    push_states: dict[str, PushState]
    records: dict[str, Session]
    amounts: dict[str, Decimal | None]
    sent_pushes: Counter[str]


def audit(cluster: Cluster, acknowledged: set[str], sent: set[str]) -> Discrepancies:
    """Compare the stores with what was sent and acknowledged. Call it when nothing is under way."""
    with read_only(cluster.engine) as ledger:
        kept, records = list(ledger.execute(select(deliveries))), sessions.latest(ledger, 1_000_000)
        books = _books(ledger, kept, records, Counter(cluster.pushed.read_text().split()))
    found = compare(books, acknowledged, sent, cluster.skew)
    for path in cluster.inboxes():
        found.stuck += [f"{count} in {path.parent.name}'s inbox" for count in [_waiting(path)] if count]
    found.stuck += found_by_check(cluster)
    return found


def read_books(cluster: Cluster, ids: set[str], pushed: Counter[str]) -> Books:
    """Read what the stores have of these deliveries, and of others of their sessions what their records need.

    `pushed` are the pushes that their provider has received.
    """
    with read_only(cluster.engine) as ledger:
        if ledger.dialect.name == "postgresql":
            ledger.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))  # one state of all tables
        kept = list(ledger.execute(select(deliveries).where(in_list(deliveries.c.id, ids))))
        of_sessions = sorted({row.session_id for row in kept if row.session_id is not None})
        others = ledger.execute(select(deliveries).where(in_list(deliveries.c.session_id, of_sessions)))
        records = sessions.fetch(ledger, of_sessions).values()
        books = _books(ledger, [*kept, *others], records, Counter(), ids)
        return replace(books, sent_pushes=Counter({push_id: pushed[push_id] for push_id in books.push_states}))


def _books(
    ledger: Connection,
    kept: Iterable[Row],
    records: Iterable[Session],
    pushed: Counter[str],
    ids: set[str] | None = None,
) -> Books:
    def of_these(*columns: Column[Any]) -> list[Row]:
        (delivery_id,) = (each for each in columns if each.name == "delivery_id")
        among = true() if ids is None else in_list(delivery_id, ids)
        return list(ledger.execute(select(*columns).where(among)))

    made = of_these(pushes.c.id, pushes.c.delivery_id, pushes.c.state)
    return Books(
        {row.id: row for row in kept},
        Counter(map(tuple, of_these(effects.c.delivery_id, effects.c.handler))),
        Counter(row.delivery_id for row in made),
        {row.id: row.state for row in made},
        {each.session_id: each for each in records},
        {row.delivery_id: row.amount for row in of_these(cdrs.c.delivery_id, cdrs.c.amount)},
        pushed,
    )


def compare(
    books: Books, acknowledged: set[str], sent: set[str], skew: timedelta, only: set[str] | None = None
) -> Discrepancies:
    """Compare the books with what was sent and acknowledged; the effects of `only` these deliveries, if it is set."""
    found = Discrepancies()
    kept, effects_of, pushes_of = books.kept, books.effects, books.pushes_of
    records, amounts = dict(books.records), dict(books.amounts)
    found.lost += [f"{missing} was acknowledged and is not in the ledger" for missing in acknowledged - kept.keys()]
    # Others of a session may be forgotten: they were audited before.
    unknown = kept.keys() - sent if only is None else ()
    found.doubled += [f"{each} was never sent" for each in unknown]
    parts_of = defaultdict(list)
    incomplete = {row.session_id for row in kept.values() if row.body_deleted_at is not None}
    for row in kept.values():
        if row.body_deleted_at is not None:
            if only is None or row.id in only:
                found.stuck.append(f"{row.id} was settled so late that retention was faster than the audit")
            continue
        if row.id != delivery_id(Kind(row.kind), row.body):
            found.lost.append(f"{row.id} has another body than the one sent")
        event = decode(Kind(row.kind), row.body)
        if isinstance(event, SessionEvent):
            parts_of[event.session_id].append(with_clock_skew(session_of(event), event.at, row.received_at, skew))
        if only is not None and row.id not in only:
            continue
        _compare_outcomes(found, row, event, effects_of, pushes_of)
        if isinstance(event, ChargingRecord) and amounts.pop(row.id, None) != Decimal(event.document["cost"]["total"]):
            found.lost.append(f"{row.id} has no record of its amount")
    for session_id, parts in parts_of.items():
        if records.pop(session_id, None) != reduce(merge, parts) and session_id not in incomplete:
            found.lost.append(f"session {session_id} is not what its events say")
    found.doubled += [f"{unsent} was never sent" for unsent in (*(records.keys() - incomplete), *amounts)]
    _compare_pushes(found, books.push_states, books.sent_pushes)
    return found


def _compare_outcomes(
    found: Discrepancies, row: Row, event: Event, effects_of: Counter[tuple[str, str]], pushes_of: Counter[str]
) -> None:
    """Compare the effects of a delivery with those that its event must have."""
    if row.settled_at is None:
        found.stuck.append(f"{row.id} is {row.state}")
        return
    # A handler that misbehaves may lose its own run, and nothing else.
    if row.state is not DeliveryState.SETTLED and not isinstance(event, SessionStopFailed):
        found.lost.append(f"{row.id} is {row.state}")
    expected = {
        "record_in_batch": isinstance(event, SessionEvent),
        "record_cdr": isinstance(event, ChargingRecord),
        "record_in_own_job": isinstance(event, SessionComplete),
        "record_on_retry": isinstance(event, SessionStopped),
    }
    for handler, is_expected in expected.items():
        _compare(found, f"{row.id}: {handler}", effects_of[row.id, handler], int(is_expected))
    _compare(found, f"{row.id}: pushes", pushes_of[row.id], int(isinstance(event, SessionStarted)))


def pushed_more_than_once(cluster: Cluster) -> set[str]:
    """Return the ids of the pushes that their provider received more than once."""
    return {push_id for push_id, count in Counter(cluster.pushed.read_text().split()).items() if count > 1}


def _compare(found: Discrepancies, what: str, count: int, expected: int) -> None:
    if count < expected:
        found.lost.append(f"{what}: {count} instead of {expected}")
    elif count > expected:
        found.doubled.append(f"{what}: {count} instead of {expected}")


def _compare_pushes(found: Discrepancies, push_states: dict[str, PushState], sent: Counter[str]) -> None:
    """Compare the pushes in the ledger with those that their provider received."""
    for key, state in push_states.items():
        if state is PushState.WAITING:
            found.stuck.append(f"push {key} waits")
        elif state is not PushState.SENT:  # no push of ours ends in another way
            found.lost.append(f"push {key} is {state}")
        elif not sent[key]:
            found.lost.append(f"push {key} was not sent")
    found.doubled += [f"push {key} is not in the ledger" for key in sent.keys() - push_states.keys()]


def found_by_check(cluster: Cluster) -> list[str]:
    """Return what `webhooks check --deep` finds on each node."""
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
            if each.status is not CheckStatus.OK
        }
    return sorted(found)


def _waiting(path: object) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as file:
        try:
            (count,) = file.execute("SELECT count(*) FROM deliveries").fetchone()
        except sqlite3.OperationalError:  # its tables are being created
            return 1
    return int(count)
