"""Merge sessions of the Drive API into the session records, as if events had brought them.

Runs that wait for news of a session are woken. Where a status is news that no event has brought, handlers that ask for
that (`@on(…, healed=True)`) get an event made from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Connection

from handlers.kit.merge import merge
from handlers.kit.session import EVENT, Session
from handlers.kit.subscriptions import HEALABLE
from ingest.failpoints import Failpoint, hit
from workers.drive.models import DriveSession
from workers.drive.session_facts import COMPLETE, STARTED, is_storable, status_of, to_session
from workers.ledger import charging_keys, finished_runs, healed_events, run_schedule, session_polls, sessions
from workers.ledger.healed_events import HealedEvent
from workers.ledger.session_erasure import erased_of_driver
from workers.ledger.session_polls import PollSchedule, PollState
from workers.ledger.tables.reconciliation_tables import PollOutcome
from workers.plugins import Plugins

NO_PLUGINS = Plugins(())


@dataclass(frozen=True)
class MergeResult:
    """The effects of a merge."""

    changed: frozenset[str] = frozenset()
    """Ids of the sessions whose record changed."""
    wakes: bool = False
    """Whether runs that waited for one of them are due."""


def merge_drive_sessions(  # noqa: PLR0913, PLR0917 - a merge and what follows from it
    ledger: Connection,
    user_id: str,
    found: Sequence[DriveSession],
    read_at: datetime,
    schedule: PollSchedule,
    plugins: Plugins = NO_PLUGINS,
) -> MergeResult:
    """Merge a user's sessions, and schedule the next poll of those that are not over.

    Runs of handlers that follow the driver are due again where a session has another one; those that ask for healed
    events get them.

    The driver is the user of the request. Where a response names its user is not documented: an id found there may be
    another kind of id, and would count as a second driver.
    """
    latest = {drive.session_id: drive.model_copy(update={"user_id": user_id}) for drive in found if is_storable(drive)}
    for erased in erased_of_driver(ledger, user_id, {key: drive.started_at for key, drive in latest.items()}):
        del latest[erased]  # it was erased while the Drive API was asked, or is told of with the driver's others
    before = session_polls.states(ledger, latest)
    first_seen = {key: status_seen_since(drive, before.get(key), read_at) for key, drive in latest.items()}
    changed: set[str] = set()
    healed: dict[str, list[HealedEvent]] = {}
    with_new_driver: set[str] = set()

    def update(key: str, session: Session) -> Session:
        after = merge(session, to_session(latest[key], first_seen[key]))
        if after != session:
            changed.add(key)
        if sessions.has_new_driver(session, after):
            with_new_driver.add(key)
        healed[key] = list(_healed(session, after))
        return after

    sessions.merge(ledger, {key: partial(update, key) for key in latest})
    at = datetime.now(UTC)
    wakes = bool(changed) and run_schedule.wake_waiting(ledger, changed, at) > 0
    wakes |= finished_runs.reopen_for_new_driver(ledger, with_new_driver, plugins.followers, at)
    to_heal = [each for events in healed.values() for each in events]
    wakes |= healed_events.insert(ledger, to_heal, plugins.subscriptions, at, schedule.after)
    hit(Failpoint.HEALING)
    polls = {
        key: poll_result(drive, before.get(key), first_seen[key], schedule, is_news=key in changed)
        for key, drive in latest.items()
    }
    session_polls.record(ledger, {key: poll for key, poll in polls.items() if poll is not None}, read_at)
    # No event says with which key a session was started.
    running = {key: drive.charging_key_id for key, drive in latest.items() if drive.status != COMPLETE}
    charging_keys.record_session_keys(ledger, {key: of for key, of in running.items() if of}, read_at)
    return MergeResult(frozenset(changed), wakes=wakes)


def _healed(before: Session, after: Session) -> Iterator[HealedEvent]:
    """Yield the events that stand for statuses which only the Drive API has told, and not before."""
    for status, times in after.statuses.items():
        if status in HEALABLE and status not in before.statuses and EVENT not in times.sources:
            at = times.first_at if status == STARTED else times.last_at
            yield HealedEvent(after.session_id, status, after.user_id, at)


def status_seen_since(drive: DriveSession, before: PollState | None, read_at: datetime) -> datetime:
    """Return when a poll first saw the current status."""
    if before is not None and before.status == status_of(drive) and before.status_at is not None:
        return before.status_at
    return read_at


def poll_result(
    drive: DriveSession, before: PollState | None, first_seen: datetime, schedule: PollSchedule, *, is_news: bool
) -> PollState | None:
    """Return the poll to record; None for a session that is complete with its times and was never scheduled."""
    if drive.status == COMPLETE:
        if before is None and (drive.completed_at or drive.ended_at):
            return None
        return PollState(PollOutcome.COMPLETE, _attempts(before) + 1, datetime.now(UTC), status_of(drive), first_seen)
    attempts = 0 if is_news else _attempts(before) + 1
    at = datetime.now(UTC)
    next_at = at + schedule.delay(attempts, drive.status)
    return PollState(PollOutcome.OPEN, attempts, at, status_of(drive), first_seen, next_at)


def missed_poll(
    before: PollState | None, outcome: PollOutcome, reason: str, schedule: PollSchedule, at: datetime
) -> PollState:
    """Return the poll to record when the Drive API returned no session."""
    attempts = _attempts(before) + 1
    known = before or PollState(outcome, attempts)
    return PollState(outcome, attempts, at, known.status, known.status_at, at + schedule.delay(attempts), reason)


def _attempts(before: PollState | None) -> int:
    return 0 if before is None else before.attempts
