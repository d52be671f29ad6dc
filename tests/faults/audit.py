"""What became of everything that was acknowledged: counted in the stores themselves, event by event."""

import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce

from sqlalchemy import func, select

from handlers.kit.merge import merge, with_lead
from handlers.session_records import session_of
from ingest.envelope import Kind
from ingest.events import SessionComplete, SessionEvent, SessionStarted, SessionStopFailed, SessionStopped, decode
from ingest.settings import load_settings
from tests.faults.effects import effects
from tests.faults.stage import Stage, wait_until
from workers.commands.checkup import Standing
from workers.commands.deepcheck import examine_deeply
from workers.ledger import sessions
from workers.ledger.engine import reading
from workers.ledger.outcomes import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables import deliveries, pushes, runs


@dataclass
class Books:
    """What is wrong, a sentence each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


def is_settled(stage: Stage, ids: set[str]) -> bool:
    """Say whether the ledger has an end for all of these, and for their pushes; an inbox may hold them longer."""
    ended = select(func.count()).where(deliveries.c.id.in_(ids), deliveries.c.settled_at.is_not(None))
    unsent = select(func.count()).where(pushes.c.delivery_id.in_(ids), pushes.c.state == PushState.WAITING)
    with reading(stage.engine) as ledger:
        return ledger.scalar(ended) == len(ids) and ledger.scalar(unsent) == 0


def is_quiet(stage: Stage) -> bool:
    """Say whether nothing is under way at all."""
    if any(_waiting(path) for path in stage.inboxes() if path.exists()):
        return False
    with reading(stage.engine) as ledger:
        unsettled = select(deliveries.c.id).where(deliveries.c.settled_at.is_(None)).limit(1)
        unsent = select(pushes.c.id).where(pushes.c.state == PushState.WAITING).limit(1)
        return ledger.execute(unsettled).first() is None and ledger.execute(unsent).first() is None


def settle(stage: Stage, patience: float) -> float | None:
    """Wait until nothing is under way any more, and tell how long that took; None if it never came to that."""
    began = time.monotonic()
    try:
        wait_until(lambda: is_quiet(stage), "all is settled", patience)
    except AssertionError:
        return None
    return time.monotonic() - began


def audit(stage: Stage, acknowledged: set[str], sent: set[str]) -> Books:
    """Compare what the stores hold with what the sender was promised. To be called when all is quiet."""
    books = Books()
    with reading(stage.engine) as ledger:
        kept = {row.id: row for row in ledger.execute(select(deliveries))}
        done = Counter(map(tuple, ledger.execute(select(effects.c.delivery_id, effects.c.handler))))
        asked = Counter(ledger.scalars(select(pushes.c.delivery_id)))
        taken = {row.id: row.state for row in ledger.execute(select(pushes.c.id, pushes.c.state))}
        ended = select(runs.c.delivery_id, runs.c.handler).where(runs.c.outcome == Outcome.DEAD)
        dead = set(map(tuple, ledger.execute(ended)))
        dead_ids = {delivery_id for delivery_id, _ in dead}
        records = {session.session_id: session for session in sessions.latest(ledger, 1_000_000)}
    for path in stage.inboxes():
        books.stuck += [f"{count} in {path.parent.name}'s inbox" for count in [_waiting(path)] if count]
    books.lost += [f"{missing} was acknowledged, and is not in the ledger" for missing in acknowledged - kept.keys()]
    books.doubled += [f"{alien} was never sent" for alien in kept.keys() - sent]
    told = defaultdict(list)
    for row in kept.values():
        event = decode(Kind(row.kind), row.body)
        assert isinstance(event, SessionEvent)
        told[event.session_id].append(with_lead(session_of(event), event.at, row.received_at, stage.skew))
        if row.settled_at is None:
            books.stuck.append(f"{row.id} is {row.state}")
            continue
        is_misdeed = isinstance(event, SessionStopFailed)
        is_whole = row.state is DeliveryState.SETTLED and row.id not in dead_ids
        if not is_whole and not is_misdeed:
            books.lost.append(f"{row.id} is {row.state}")
        # A misdeed may cost the run that does it. Only where it costs the whole delivery need nothing else be done.
        is_given_up = is_misdeed and (row.id, WHOLE_DELIVERY) in dead
        wanted = {
            "note_here": min(1, done[row.id, "note_here"]) if is_given_up else 1,
            "note_apart": int(isinstance(event, SessionComplete)),
            "note_at_second_try": int(isinstance(event, SessionStopped)),
        }
        for handler, number in wanted.items():
            _compare(books, f"{row.id}: {handler}", done[row.id, handler], number)
        _compare(books, f"{row.id}: pushes", asked[row.id], int(isinstance(event, SessionStarted)))
    for session_id, parts in told.items():
        if records.get(session_id) != reduce(merge, parts):
            books.lost.append(f"session {session_id} is not what its events say")
    _compare_pushes(books, taken, Counter(stage.pushed.read_text().split()))
    books.stuck += _found_by_the_command(stage)
    return books


def repeated_on_the_wire(stage: Stage) -> int:
    """Count the pushes that a provider was told of more than once, with the same id."""
    return sum(count > 1 for count in Counter(stage.pushed.read_text().split()).values())


def _compare(books: Books, what: str, found: int, wanted: int) -> None:
    if found < wanted:
        books.lost.append(f"{what}: {found} instead of {wanted}")
    elif found > wanted:
        books.doubled.append(f"{what}: {found} instead of {wanted}")


def _compare_pushes(books: Books, taken: dict[str, PushState], written: Counter[str]) -> None:
    """Compare what the ledger says of pushes with what their provider was told."""
    for key, state in taken.items():
        if state is PushState.WAITING:
            books.stuck.append(f"push {key} waits")
        elif state is not PushState.SENT:  # these have no end but that
            books.lost.append(f"push {key} is {state}")
        elif not written[key]:
            books.lost.append(f"push {key} was not sent")
    books.doubled += [f"push {key} is nobody's" for key in written.keys() - taken.keys()]


def _found_by_the_command(stage: Stage) -> list[str]:
    """What `webhooks check --deep` finds, on each node."""
    found = set()
    for path in stage.inboxes():
        settings = load_settings(
            data_dir=path.parent,
            redis_url=stage.redis_url,
            database_url=stage.database_url,
            handler_modules="tests.faults.effects",
        )
        found |= {each.sentence for each in examine_deeply(settings) if each.standing is not Standing.OK}
    return sorted(found)


def _waiting(path: object) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as file:
        try:
            (count,) = file.execute("SELECT count(*) FROM deliveries").fetchone()
        except sqlite3.OperationalError:  # just being made
            return 1
    return int(count)
